"""cwd_loss is τ² · KL between each channel's softmax over positions, mean over batch and channels."""

from __future__ import annotations

import runpy
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import LossContext
from limbeck.core.outputs import Outputs
from limbeck.core.schedules import linear
from limbeck.losses import CWDLoss, cwd_loss
from limbeck.testing import check_loss, make_context

shared = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("numpy_features.py"))))


def paper(student, teacher, tau=4.0):
    def logarithm(maps):
        flat = maps.reshape(*maps.shape[:2], -1) / tau
        shifted = flat - flat.max(axis=2, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(axis=2, keepdims=True))

    log_q, log_p = logarithm(student), logarithm(teacher)
    return tau**2 * (np.exp(log_p) * (log_p - log_q)).sum(axis=2).mean()


@pytest.mark.parametrize(("student", "teacher"), [((8, 4, 4), (8, 4, 4)), ((8, 4, 4), (8, 2, 3)), ((6, 5), (6, 5))])
def test_it_passes_every_check_between_equal_channels(student, teacher):
    make = partial(make_context, student_feature_shapes={"mid": student}, teacher_feature_shapes={"mid": teacher})
    check_loss(CWDLoss("mid", temperature=2.0), context_factory=make)


def test_it_passes_every_check_but_zero_at_agreement_through_a_projection():
    make = partial(make_context, student_feature_shapes={"mid": (8, 4, 4)}, teacher_feature_shapes={"mid": (6, 2, 2)})
    check_loss(CWDLoss("mid", teacher="teacher"), context_factory=make, skip={"zero at agreement"})


def test_the_value_computed_by_hand():
    # Teacher (ln 3, 0): p = (3/4, 1/4). Student equal: q = (1/2, 1/2). KL = ¾ ln 1.5 + ¼ ln 0.5 = 0.130812; a second
    # channel that agrees halves it.
    student = torch.tensor([[[1.0, 1.0], [5.0, 2.0]]])
    teacher = torch.tensor([[[np.log(3.0), 0.0], [4.0, 1.0]]], dtype=torch.float32)
    assert float(cwd_loss(student, teacher, temperature=1.0)) == pytest.approx(0.065406, abs=1e-6)


@shared.FEW
@given(shared.features(), st.sampled_from([0.5, 1.0, 4.0]))
def test_it_agrees_with_the_paper_in_numpy(pair, tau):
    shared.close(cwd_loss(*map(torch.tensor, pair), temperature=tau), paper(*pair, tau))


def test_the_class_agrees_with_numpy_through_its_own_projection_and_pooling():
    random = np.random.default_rng(0)
    student, teacher = random.normal(size=(2, 3, 4, 4)), random.normal(size=(2, 5, 2, 2))
    context = shared.context(torch.tensor(student), torch.tensor(teacher))
    loss_fn = shared.prepared(CWDLoss("mid"), context)
    shared.close(
        loss_fn(context), paper(shared.pooled(shared.convolved(student, loss_fn.projection.layer), 2, 2), teacher)
    )


def test_without_a_layer_it_compares_spatial_logits():
    student, teacher = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    context = LossContext(student=Outputs(spatial_logits=student), teacher=Outputs(spatial_logits=teacher))
    loss_fn = shared.prepared(CWDLoss(temperature=1.0), context)
    assert loss_fn(context) == cwd_loss(student, teacher, temperature=1.0)


def test_spatial_logits_that_are_not_there_are_an_error():
    with pytest.raises(LimbeckError, match=r"compares spatial logits, and this task, or .* has none: name a layer"):
        CWDLoss().prepare(make_context())


def test_a_temperature_on_a_schedule_is_read_at_each_step():
    context = make_context()  # a quarter of training is over
    now, fixed = (shared.prepared(CWDLoss("mid", temperature=tau), context) for tau in (linear(4.0, 2.0), 3.5))
    assert now(context) == fixed(context)


def test_the_repr_describes_projection_and_pooling():
    context = shared.context(torch.zeros(2, 3, 4, 4), torch.zeros(2, 5, 2, 2))
    assert "3 → 5, maps 4×4 and 2×2 pooled to 2×2" in str(shared.prepared(CWDLoss("mid"), context))


def test_half_precision_is_computed_in_float32():
    shared.check_half(cwd_loss, paper, (2, 3, 4, 4), (2, 3, 4, 4))


def test_the_gradient_is_that_of_finite_differences():
    shared.check_gradient(cwd_loss, (2, 3, 2, 2), (2, 3, 2, 2))


def test_channels_last_memory_gives_the_same():
    shared.check_memory_order(cwd_loss, (2, 3, 4, 4), (2, 3, 4, 4))


def test_a_teacher_without_valid_samples_gives_zero():
    shared.check_no_valid_samples(CWDLoss("mid"), (2, 3, 4, 4), (2, 5, 2, 2))


def test_a_projection_may_be_moved_to_another_precision():
    shared.check_precisions(CWDLoss("mid"), (2, 3, 4, 4), (2, 5, 2, 2))


def test_an_unprepared_loss_names_the_call():
    shared.check_unprepared(CWDLoss("mid"))


@pytest.mark.parametrize("tau", [0.0, -1.0, float("nan"), float("inf")])
def test_a_temperature_that_is_not_above_zero_is_refused(tau):
    with pytest.raises(LimbeckError, match="a temperature must be above zero"):
        CWDLoss("mid", temperature=tau)
    with pytest.raises(LimbeckError, match="a temperature must be above zero"):
        cwd_loss(torch.zeros(1, 2, 3), torch.zeros(1, 2, 3), temperature=tau)


def test_shapes_that_cannot_be_compared_are_refused():
    with pytest.raises(LimbeckError, match=r"\[2, 3, 4, 4\].*\[2, 5, 4, 4\]: the class CWDLoss projects"):
        cwd_loss(torch.zeros(2, 3, 4, 4), torch.zeros(2, 5, 4, 4))
    with pytest.raises(LimbeckError, match="use a layer that returns positions"):
        cwd_loss(torch.zeros(2, 3), torch.zeros(2, 3))
