"""ofd_loss is the partial squared difference to a teacher behind a margin ReLU."""

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
from limbeck.losses import OFDLoss, batch_norm_margin, ofd_loss
from limbeck.recipe.resolve_node import resolve_node
from limbeck.testing import check_loss, make_context

shared = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("numpy_features.py"))))


def paper(student, teacher, margin):
    """Element by element: the target is the teacher above its margin; nothing where both stay silent."""
    total = 0.0
    for place in np.ndindex(student.shape):
        target = max(teacher[place], margin[place[1]])
        if not student[place] <= target <= 0:
            total += (target - student[place]) ** 2
    return total / student.size


def negative_mean(features):
    return np.array([channel[channel < 0].mean() for channel in np.moveaxis(features, 1, 0)])


@pytest.mark.parametrize(
    ("student", "teacher"), [((8, 4, 4), (6, 4, 4)), ((8, 6, 6), (8, 3, 3)), ((5,), (7,)), ((3, 5), (3, 7))]
)
def test_it_passes_every_check_but_zero_at_agreement(student, teacher):
    # A learned projection is between the two.
    make = partial(make_context, student_feature_shapes={"mid": student}, teacher_feature_shapes={"mid": teacher})
    check_loss(OFDLoss("mid"), context_factory=make, skip={"zero at agreement"})


def test_the_value_computed_by_hand():
    # Margin −1. Teacher 2, student 0: 4. Teacher −9, so target −1: student −5 is silent, 0; student 1 is not, 4.
    # Teacher −0.5, student −0.25: 0.0625. Sum 8.0625 over 4.
    student, teacher = torch.tensor([[0.0], [-5.0], [1.0], [-0.25]]), torch.tensor([[2.0], [-9.0], [-9.0], [-0.5]])
    assert ofd_loss(student, teacher, margin=torch.tensor([-1.0])).item() == pytest.approx(8.0625 / 4)


@shared.FEW
@given(st.integers(2, 4).flatmap(lambda rank: shared.features(rank=rank)))
def test_it_agrees_with_the_paper_in_numpy(pair):
    margin = -np.random.default_rng(0).uniform(0.0, 1.0, size=pair[0].shape[1])
    shared.close(ofd_loss(*map(torch.tensor, pair), margin=torch.tensor(margin)), paper(*pair, margin))


def test_a_student_equal_to_the_margin_relu_has_loss_zero():
    teacher, margin = torch.randn(4, 3, 5, 5), torch.tensor([-0.5, -1.0, 0.0])
    assert ofd_loss(torch.maximum(teacher, margin.view(3, 1, 1)), teacher, margin=margin).item() == 0.0


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (0.5, 0.7), (-2.0, -1.0), (3.0, 6.0)])
def test_the_margin_of_a_batch_norm_is_the_mean_below_zero_of_a_normal(scale, shift):
    draws = np.random.default_rng(0).normal(size=2_000_000) * abs(scale) + shift
    margin = batch_norm_margin(torch.tensor([scale]), torch.tensor([shift]))
    assert margin.item() == pytest.approx(draws[draws < 0].mean(), rel=0.01)


def test_the_margin_of_a_batch_norm_that_is_hardly_ever_below_zero_is_three_deviations():
    assert batch_norm_margin(torch.tensor([0.5]), torch.tensor([9.0])).item() == -1.5


def test_the_margin_of_a_pruned_channel_is_its_constant():
    torch.testing.assert_close(batch_norm_margin(torch.zeros(2), torch.tensor([-1.0, 2.0])), torch.tensor([-1.0, 0.0]))


def test_the_class_agrees_with_numpy_through_its_own_projection_and_measured_margin():
    random = np.random.default_rng(0)
    student, teacher = random.normal(size=(4, 3, 4, 4)), random.normal(size=(4, 5, 4, 4))
    context = shared.context(torch.tensor(student), torch.tensor(teacher))
    loss_fn = shared.prepared(OFDLoss("mid"), context)
    projected = shared.batch_normed(shared.convolved(student, loss_fn.projection.layer), loss_fn.projection.norm)
    shared.close(loss_fn(context), paper(projected, teacher, negative_mean(teacher)))


def test_a_measured_margin_stays_and_is_saved():
    loss_fn = shared.prepared(OFDLoss("mid"), make_context())
    before = loss_fn.state_dict()["margin"].clone()
    loss_fn(make_context(seed=9))
    torch.testing.assert_close(loss_fn.margin, before)


def test_a_channel_that_is_never_negative_has_a_margin_of_zero():
    context = shared.context(torch.randn(4, 2), torch.rand(4, 3))
    assert not shared.prepared(OFDLoss("mid"), context).margin.any()


def test_a_recipe_gives_margins_as_a_list():
    loss_fn = resolve_node({"use": "OFDLoss", "layer": "mid", "margin": [-1.0, -2, 0]}, "loss").build()
    shared.prepared(loss_fn, shared.context(torch.randn(4, 2), torch.rand(4, 3)))
    assert loss_fn.margin.tolist() == [-1.0, -2.0, 0.0]


def test_half_precision_is_computed_in_float32():
    margin = torch.tensor([-1.0, -0.5, -0.25])
    function, reference = partial(ofd_loss, margin=margin), partial(paper, margin=margin.numpy())
    shared.check_half(function, reference, (2, 3, 4, 4), (2, 3, 4, 4))


def test_the_gradient_is_that_of_finite_differences():
    function = partial(ofd_loss, margin=torch.tensor([-1.0, -0.5, -0.25]).double())
    shared.check_gradient(function, (2, 3, 2, 2), (2, 3, 2, 2))


def test_channels_last_memory_gives_the_same():
    function = partial(ofd_loss, margin=torch.tensor([-1.0, -0.5, -0.25]))
    shared.check_memory_order(function, (2, 3, 4, 4), (2, 3, 4, 4))


def test_a_teacher_without_valid_samples_gives_zero():
    shared.check_no_valid_samples(OFDLoss("mid"), (2, 3, 4, 4), (2, 5, 2, 2))


def test_one_sample_without_positions_is_normalized_by_what_was_seen_before():
    context = shared.context(torch.randn(1, 4), torch.randn(1, 3))
    assert torch.isfinite(shared.prepared(OFDLoss("mid"), context)(context))


def test_what_it_learns_may_be_moved_to_another_precision():
    shared.check_precisions(OFDLoss("mid"), (2, 3, 4, 4), (2, 5, 2, 2))


def test_an_unprepared_loss_names_the_call():
    shared.check_unprepared(OFDLoss("mid"))


def test_the_repr_describes_projection_and_pooling():
    context = shared.context(torch.zeros(2, 3, 4, 4), torch.zeros(2, 5, 2, 2))
    assert "3 → 5, maps 4×4 and 2×2 pooled to 2×2" in str(shared.prepared(OFDLoss("mid"), context))


def test_margins_that_cannot_be_are_refused():
    with pytest.raises(LimbeckError, match="margin must be one number per channel, zero or below"):
        OFDLoss("mid", margin=[-1.0, 0.5])
    with pytest.raises(LimbeckError, match=r"got 2 for the 8 channels of 'mid'"):
        OFDLoss("mid", margin=[-1.0, -1.0]).prepare(make_context())
    with pytest.raises(LimbeckError, match=r"one number for each channel, \[channels\], got \[1\]"):
        ofd_loss(torch.zeros(2, 3), torch.zeros(2, 3), margin=torch.zeros(1))


def test_shapes_that_cannot_be_compared_are_refused():
    with pytest.raises(LimbeckError, match=r"\[2, 3\].*\[2, 5\]: the class OFDLoss projects"):
        ofd_loss(torch.zeros(2, 3), torch.zeros(2, 5), margin=torch.zeros(3))
