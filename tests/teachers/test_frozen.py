"""FrozenTeacher sets a network to eval mode, computes outputs without gradients, and reads features."""

from __future__ import annotations

import copy
import pickle

import torch
from torch import nn

from limbeck.core.protocols import Teacher
from limbeck.tasks import Classification
from limbeck.teachers import FrozenTeacher

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


def net():
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 3))


def test_a_frozen_network_is_a_teacher_and_no_module():
    frozen = FrozenTeacher(net())
    assert isinstance(frozen, Teacher)
    assert not isinstance(frozen, nn.Module)


def test_outputs_are_those_of_the_network_in_eval_mode_without_gradients():
    network = net()
    outputs = FrozenTeacher(network, {"mid": "1", "in": "3:input"}).predict((X, None), Classification(3))
    assert torch.equal(outputs.require_logits(), network.eval()(X))
    assert torch.equal(outputs.feature("mid"), network[1](network[0](X)))
    assert torch.equal(outputs.feature("in"), outputs.feature("mid"))
    assert not any(tensor.requires_grad for tensor in (outputs.require_logits(), *outputs.features.values()))


def test_one_module_deep_inside_that_went_to_train_mode_comes_back():
    frozen = FrozenTeacher(net())
    frozen.network[2].train()
    one, two = (frozen.predict((X, None), Classification(3)).require_logits() for _ in range(2))
    assert torch.equal(one, two)
    assert not frozen.network[2].training


def test_to_converts_the_weights():
    network = net()
    FrozenTeacher(network).to(lambda tensor: tensor.double() if tensor.is_floating_point() else tensor)
    assert {tensor.dtype for tensor in network.parameters()} == {torch.float64}
    assert network[1].num_batches_tracked.dtype == torch.int64


def test_a_frozen_network_survives_copy_and_pickle():
    frozen = FrozenTeacher(net(), {"mid": "0"})
    expected = frozen.predict((X, None), Classification(3))
    for other in (copy.deepcopy(frozen), pickle.loads(pickle.dumps(frozen))):
        outputs = other.predict((X, None), Classification(3))
        assert torch.equal(outputs.require_logits(), expected.require_logits())
        assert torch.equal(outputs.feature("mid"), expected.feature("mid"))
    assert repr(frozen) == "FrozenTeacher(Sequential)"


def test_no_graph_is_recorded_even_for_inputs_that_require_gradients():
    enabled = []
    network = net()
    network[0].register_forward_hook(lambda *_: enabled.append(torch.is_grad_enabled()))
    outputs = FrozenTeacher(network).predict((X.clone().requires_grad_(), None), Classification(3))
    assert enabled == [False]
    assert not outputs.require_logits().requires_grad
