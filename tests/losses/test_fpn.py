"""Losses of a feature pyramid are means over all positions of all levels; PKD and MGD are used once for each level."""

from __future__ import annotations

import runpy
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from limbeck import LimbeckError
from limbeck.distiller import Objective
from limbeck.losses import (
    FPNAttentionLoss,
    FPNFeatureLoss,
    MGDLoss,
    PKDLoss,
    fpn_attention_loss,
    fpn_feature_loss,
    pkd_loss,
)
from limbeck.testing import check_loss, make_context

shared = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("numpy_features.py"))))
LEVELS = {"p3": (4, 4, 6), "p4": (4, 2, 3), "p5": (4, 1, 2)}
WIDE = {name: (6, *shape[1:]) for name, shape in LEVELS.items()}
make = partial(make_context, rows=3, student_feature_shapes=LEVELS, teacher_feature_shapes=LEVELS)


def arrays(outputs):
    return [outputs.feature(name).detach().double().numpy() for name in LEVELS]


def paper_features(student, teacher):
    by_position = [np.square(s - t).mean(axis=1).ravel() for s, t in zip(student, teacher, strict=True)]
    return np.concatenate(by_position).mean()


def paper_attention(student, teacher, power=2.0):
    def attention(maps):
        flat = (np.abs(maps) ** power).mean(axis=1).reshape(len(maps), -1)
        return flat / np.linalg.norm(flat, axis=1, keepdims=True)

    pairs = zip(student, teacher, strict=True)
    return np.concatenate([np.square(attention(s) - attention(t)).ravel() for s, t in pairs]).mean()


def test_they_pass_every_check():
    check_loss(FPNAttentionLoss(list(LEVELS)), context_factory=make)
    check_loss(FPNFeatureLoss(list(LEVELS)), context_factory=make, skip={"zero at agreement"})


def test_they_agree_with_numpy():
    context = make(dtype=torch.float64)
    student, teacher = arrays(context.student), arrays(context.teacher)
    shared.close(FPNAttentionLoss(list(LEVELS), power=3.0)(context), paper_attention(student, teacher, 3.0))
    loss = shared.prepared(FPNFeatureLoss(list(LEVELS)), context)
    projected = [shared.convolved(s, level.layer) for s, level in zip(student, loss.projections, strict=True)]
    shared.close(loss(context), paper_features(projected, teacher))


def test_maps_of_other_sizes_are_pooled():
    large = {name: (shape[0], 2 * shape[1], 2 * shape[2]) for name, shape in LEVELS.items()}
    context = make(student_feature_shapes=large, dtype=torch.float64)
    student, teacher = arrays(context.student), arrays(context.teacher)
    pooled = [shared.pooled(s, *t.shape[2:]) for s, t in zip(student, teacher, strict=True)]
    shared.close(FPNAttentionLoss(list(LEVELS))(context), paper_attention(pooled, teacher))


def test_a_level_counts_by_its_area():
    # 3 and 1 positions: an error of the same size at every position of the first level is three quarters of the loss.
    zeros = [torch.zeros(1, 2, 1, 3), torch.zeros(1, 2, 1, 1)]
    assert float(fpn_feature_loss([zeros[0] + 2, zeros[1]], zeros)) == 3.0
    assert float(fpn_feature_loss([zeros[0], zeros[1] + 2], zeros)) == 1.0


@pytest.mark.parametrize("loss", [PKDLoss, MGDLoss])
def test_pkd_and_mgd_take_one_loss_for_each_level(loss):
    context = make(teacher_feature_shapes=WIDE)
    objective = Objective({name: loss(name) for name in LEVELS}, {"p4": 0.5})
    objective.prepare(context)
    parts = objective(context).by_loss
    assert set(parts) == set(LEVELS)
    widths = [module.projection.layer.out_channels for module in objective.losses.values()]
    assert widths == [6, 6, 6]
    torch.manual_seed(0)
    total = objective(context).total
    total.backward()
    assert all(parameter.grad is not None for parameter in objective.parameters())
    if loss is PKDLoss:  # without a random mask, the total is the weighted sum of the levels
        torch.testing.assert_close(total, sum(parts.values()))  # each times its weight
        same = make()
        pairs = [(same.student.feature(name), same.teacher.feature(name)) for name in LEVELS]
        plain = Objective({name: PKDLoss(name) for name in LEVELS})
        plain.prepare(same)
        torch.testing.assert_close(plain(same).total, sum(pkd_loss(*pair) for pair in pairs))


def test_half_precision_and_an_empty_batch():
    for dtype in (torch.float16, torch.bfloat16):
        value = fpn_attention_loss([torch.randn(2, 3, 4, 4).to(dtype)], [torch.randn(2, 3, 4, 4).to(dtype)])
        assert value.dtype == torch.float32
    empty = torch.zeros(0, 3, 4, 4, requires_grad=True)
    assert fpn_feature_loss([empty], [torch.zeros(0, 3, 4, 4)]).item() == 0.0


def test_layers_that_do_not_fit_are_refused():
    for layers in ("p3", [], ["p3", "p3"]):
        with pytest.raises(LimbeckError, match="layers must be a list of different layer names, got"):
            FPNFeatureLoss(layers)
    with pytest.raises(LimbeckError, match="as many levels as the teacher, got 1 and 2"):
        fpn_feature_loss([torch.zeros(1, 1, 1, 1)], [torch.zeros(1, 1, 1, 1)] * 2)
    with pytest.raises(LimbeckError, match=r"features have the shape \[1, 1\]: use a convolutional layer"):
        fpn_attention_loss([torch.zeros(1, 1)], [torch.zeros(1, 1)])
    with pytest.raises(LimbeckError, match="FPNFeatureLoss is not prepared"):
        FPNFeatureLoss(["p3"])(make())
