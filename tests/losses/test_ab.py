"""ab_loss is a squared hinge on the sign of the teacher's pre-activations, with a margin."""

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
from limbeck.losses import ABLoss, ab_loss
from limbeck.testing import check_loss, make_context

shared = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("numpy_features.py"))))


def paper(student, teacher, margin=1.0):
    active = (teacher > 0).astype(float)
    off = np.maximum(margin - student, 0.0) * active + np.maximum(margin + student, 0.0) * (1 - active)
    return np.square(off).mean()


@pytest.mark.parametrize(
    ("student", "teacher"), [((8, 4, 4), (6, 4, 4)), ((8, 6, 6), (8, 3, 3)), ((5,), (7,)), ((3, 5), (3, 7))]
)
def test_it_passes_every_check_but_zero_at_agreement(student, teacher):
    # A student equal to the teacher may still be within the margin.
    make = partial(make_context, student_feature_shapes={"mid": student}, teacher_feature_shapes={"mid": teacher})
    check_loss(ABLoss("mid"), context_factory=make, skip={"zero at agreement"})


def test_the_value_computed_by_hand():
    # Active: 3 is past the margin, 0; 0.5 lacks 0.5, 0.25. Silent: −0.5 lacks 0.5, 0.25; 1 lacks 2, 4. 4.5 over 4.
    student, teacher = torch.tensor([[3.0, 0.5, -0.5, 1.0]]), torch.tensor([[1.0, 9.0, 0.0, -7.0]])
    assert ab_loss(student, teacher).item() == 1.125


@shared.FEW
@given(st.integers(2, 4).flatmap(lambda rank: shared.features(rank=rank)), st.sampled_from([0.5, 1.0, 2.0]))
def test_it_agrees_with_the_paper_in_numpy(pair, margin):
    shared.close(ab_loss(*map(torch.tensor, pair), margin=margin), paper(*pair, margin))


def test_a_student_past_the_margin_on_every_side_gives_zero():
    teacher = torch.randn(3, 4, 5, 5)
    assert ab_loss(teacher.sign() * 1.5, teacher).item() == 0.0


def test_the_class_agrees_with_numpy_through_its_own_projection_and_pooling():
    random = np.random.default_rng(0)
    student, teacher = random.normal(size=(4, 3, 4, 4)), random.normal(size=(4, 5, 2, 2))
    context = shared.context(torch.tensor(student), torch.tensor(teacher))
    loss_fn = shared.prepared(ABLoss("mid", margin=0.5), context)
    projected = shared.batch_normed(shared.convolved(student, loss_fn.projection.layer), loss_fn.projection.norm)
    shared.close(loss_fn(context), paper(shared.pooled(projected, 2, 2), teacher, 0.5))


def test_half_precision_is_computed_in_float32():
    shared.check_half(ab_loss, paper, (2, 3, 4, 4), (2, 3, 4, 4))


def test_the_gradient_is_that_of_finite_differences():
    shared.check_gradient(ab_loss, (2, 3, 2, 2), (2, 3, 2, 2))


def test_channels_last_memory_gives_the_same():
    shared.check_memory_order(ab_loss, (2, 3, 4, 4), (2, 3, 4, 4))


def test_a_teacher_without_valid_samples_gives_zero():
    shared.check_no_valid_samples(ABLoss("mid"), (2, 3, 4, 4), (2, 5, 2, 2))


def test_one_sample_without_positions_is_normalized_by_what_was_seen_before():
    context = shared.context(torch.randn(1, 4), torch.randn(1, 3))
    assert torch.isfinite(shared.prepared(ABLoss("mid"), context)(context))


def test_what_it_learns_may_be_moved_to_another_precision():
    shared.check_precisions(ABLoss("mid"), (2, 3, 4, 4), (2, 5, 2, 2))


def test_an_unprepared_loss_names_the_call():
    shared.check_unprepared(ABLoss("mid"))


def test_the_repr_describes_projection_and_pooling():
    context = shared.context(torch.zeros(2, 3, 4, 4), torch.zeros(2, 5, 2, 2))
    assert "3 → 5, maps 4×4 and 2×2 pooled to 2×2" in str(shared.prepared(ABLoss("mid"), context))


@pytest.mark.parametrize("margin", [0.0, -1.0, float("nan"), float("inf")])
def test_a_margin_that_is_not_above_zero_is_refused(margin):
    with pytest.raises(LimbeckError, match=r"margin must be in \(0, inf\), got"):
        ABLoss("mid", margin=margin)
    with pytest.raises(LimbeckError, match=r"margin must be in \(0, inf\), got"):
        ab_loss(torch.zeros(2, 3), torch.zeros(2, 3), margin=margin)


def test_shapes_that_cannot_be_compared_are_refused():
    with pytest.raises(LimbeckError, match=r"\[2, 3\].*\[2, 5\]: the class ABLoss projects"):
        ab_loss(torch.zeros(2, 3), torch.zeros(2, 5))
    with pytest.raises(LimbeckError, match="cannot be compared: use layers that both return"):
        ABLoss("mid").prepare(make_context(teacher_feature_shapes={"mid": (5,)}))
