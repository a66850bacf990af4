"""Weights that a network computes (``weight_norm``, ``spectral_norm``) are fixed in exported files."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

import limbeck
from limbeck.data import from_tensors
from limbeck.export import predict_onnx, to_onnx
from limbeck.losses import CrossEntropyLoss
from limbeck.tasks import Classification
from limbeck.teachers.backends.fold_batchnorm import fold_batchnorm
from limbeck.training import TrainingConfig
from limbeck.utils.parametrizations import copy_module, fold_parametrizations, has_parametrizations

NORMS = [weight_norm, parametrizations.weight_norm, spectral_norm, parametrizations.spectral_norm]
IDS = [f"{norm.__module__}.{norm.__name__}" for norm in NORMS]


def make_network(norm):
    torch.manual_seed(0)
    network = nn.Sequential(
        norm(nn.Conv2d(1, 4, 3)), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), norm(nn.Linear(16, 3))
    )
    for _ in range(2):  # with gradients, after which torch.nn.utils.weight_norm cannot be copied by copy.deepcopy
        network(torch.rand(5, 1, 4, 4)).sum().backward()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1
    return network


@pytest.mark.parametrize("norm", NORMS[:2], ids=IDS[:2])
def test_computed_weights_are_fixed_in_the_exported_file(norm, tmp_path):
    network, inputs = make_network(norm), torch.rand(6, 1, 4, 4)
    to_onnx(network, inputs[:1], tmp_path / "a.onnx", check_inputs=inputs)
    with torch.no_grad():
        expected = network.eval()(inputs)
    np.testing.assert_allclose(predict_onnx(tmp_path / "a.onnx", inputs), expected, atol=1e-5)
    operators = {node.op_type for node in onnx.load(tmp_path / "a.onnx").graph.node}
    assert operators <= {"Conv", "BatchNormalization", "Relu", "Reshape", "Flatten", "Gemm", "Shape", "Concat", "Slice"}


@pytest.mark.parametrize("norm", NORMS, ids=IDS)
def test_fixed_weights_are_those_that_the_network_computes(norm):
    network, inputs = make_network(norm).eval(), torch.rand(6, 1, 4, 4)
    with torch.no_grad():
        expected = network(inputs)
    fixed = fold_parametrizations(copy_module(network))
    assert [name for name, _ in fixed[0].named_parameters()] in (["bias", "weight"], ["weight", "bias"])
    torch.testing.assert_close(fixed(inputs), expected)
    assert has_parametrizations(network)
    assert not has_parametrizations(fixed)
    torch.testing.assert_close(network(inputs), expected)
    folded, note = fold_batchnorm(network)
    assert note == ""
    torch.testing.assert_close(folded(inputs), expected)


@pytest.mark.parametrize("norm", NORMS[:2], ids=IDS[:2])
def test_a_copy_computes_its_own_weights(norm):
    network, inputs = make_network(norm), torch.rand(2, 1, 4, 4)
    network(inputs).sum().backward()
    copied, before = copy_module(network), network(inputs)
    torch.testing.assert_close(copied(inputs), before)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.mul_(2)
    assert not torch.allclose(copied(inputs), before)
    torch.testing.assert_close(network(inputs), before)
    assert {id(p) for p in copied.parameters()}.isdisjoint(id(p) for p in network.parameters())


def test_moving_averages_of_a_network_with_weight_norm_are_trained():
    student = make_network(weight_norm)
    data = from_tensors(torch.rand(30, 1, 4, 4), torch.arange(30) % 3)
    distiller = limbeck.Distiller(student, objective={"target": CrossEntropyLoss()}, task=Classification(3))
    trained = limbeck.fit(
        distiller, data, steps=2, training=TrainingConfig(batch_size=8, ema_decay=0.5), callbacks=[]
    ).student
    assert torch.isfinite(trained(torch.rand(2, 1, 4, 4))).all()
    assert any("weight_g" in name for name, _ in trained.named_parameters())
