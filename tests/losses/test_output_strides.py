"""Losses on features compare a segmentation student and teacher of unlike output stride, channels and image size."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import limbeck
from limbeck import losses
from limbeck.tasks import Segmentation

shared = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("numpy_features.py"))))
LOSSES = ("AttentionTransferLoss", "CIRKDLoss", "CWDLoss", "GramLoss", "IFVDLoss", "MGDLoss", "PKDLoss", "SKDLoss")
SIZE = (45, 60)  # no multiple of 16: features of 6×8 and 3×4


def strided(width, stride):
    return nn.Sequential(nn.Conv2d(3, width, 3, stride=stride, padding=1), nn.ReLU(), nn.Conv2d(width, 3, 1))


@pytest.fixture(scope="module")
def batch():
    draw = torch.Generator().manual_seed(0)
    mask = torch.randint(0, 3, (2, *SIZE), generator=draw)
    mask[:, :5] = 255
    return {"input": torch.rand(2, 3, *SIZE, generator=draw), "target": mask}


def make_distiller(name, strides, batch):
    torch.manual_seed(0)
    student, teacher = strided(4, strides[0]), strided(6, strides[1])
    distiller = limbeck.Distiller(
        student, teacher, objective={"loss": getattr(losses, name)("mid")}, task=Segmentation(3),
        feature_layers={"student": {"mid": "1"}, "teacher": {"mid": "1"}},
    )  # fmt: skip
    return distiller.prepare(batch)


@pytest.mark.parametrize("strides", [(16, 8), (8, 16)])
@pytest.mark.parametrize("name", LOSSES)
def test_unlike_output_strides_are_compared(name, strides, batch):
    distiller = make_distiller(name, strides, batch)
    loss = distiller(batch).total
    loss.backward()
    assert loss.isfinite()
    assert loss > 0
    grads = [distiller.student[0].weight.grad, *(p.grad for p in distiller.objective.parameters())]
    assert all(grad is not None and bool(grad.isfinite().all()) for grad in grads)
    assert grads[0].any()


@pytest.mark.parametrize("name", ["AttentionTransferLoss", "CWDLoss", "PKDLoss", "SKDLoss"])
def test_the_larger_map_is_average_pooled_to_the_smaller(name, batch):
    distiller = make_distiller(name, (16, 8), batch)
    loss_fn, context = distiller.objective.losses["loss"], distiller.forward_context(batch)
    student, teacher = (outputs.feature("mid").detach() for outputs in (context.student, context.teacher))
    assert (student.shape[2:], teacher.shape[2:]) == ((3, 4), (6, 8))
    pooled = torch.tensor(shared.pooled(teacher.double().numpy(), 3, 4)).float()
    torch.testing.assert_close(loss_fn(context), loss_fn(shared.context(student, pooled)))
