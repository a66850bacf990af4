"""vid_loss is a Gaussian negative log-likelihood without its constant; VIDLoss learns mean and variance."""

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
from limbeck.losses import VIDLoss, vid_loss
from limbeck.testing import check_loss, make_context

shared = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("numpy_features.py"))))


def paper(student, teacher, variance):
    variance = variance.reshape(-1, *[1] * (student.ndim - 2))
    return 0.5 * (np.square(teacher - student) / variance + np.log(variance)).mean()


@pytest.mark.parametrize(
    ("student", "teacher"), [((8, 4, 4), (6, 4, 4)), ((8, 6, 6), (8, 3, 3)), ((5,), (7,)), ((3, 5), (3, 7))]
)
def test_it_passes_every_check_but_zero_at_agreement(student, teacher):
    # log σ² stays where nothing else is left, and μ is learned.
    make = partial(make_context, student_feature_shapes={"mid": student}, teacher_feature_shapes={"mid": teacher})
    check_loss(VIDLoss("mid"), context_factory=make, skip={"zero at agreement"})


def test_the_value_computed_by_hand():
    # ½ · (1/2 + ln 2) and ½ · (9/3 + ln 3), mean of the two: ½ · ½ · (0.5 + 0.693147 + 3 + 1.098612) = 1.322940.
    student, teacher = torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, 3.0]])
    value = vid_loss(student, teacher, variance=torch.tensor([2.0, 3.0]))
    assert value.item() == pytest.approx(1.322940, abs=1e-6)


@shared.FEW
@given(st.integers(2, 4).flatmap(lambda rank: shared.features(rank=rank)))
def test_it_agrees_with_the_paper_in_numpy(pair):
    variance = np.random.default_rng(0).uniform(0.1, 9.0, size=pair[0].shape[1])
    shared.close(vid_loss(*map(torch.tensor, pair), variance=torch.tensor(variance)), paper(*pair, variance))


def test_the_class_agrees_with_numpy_through_its_own_mean_and_pooling():
    random = np.random.default_rng(0)
    student, teacher = random.normal(size=(2, 3, 4, 4)), random.normal(size=(2, 5, 2, 2))
    context = shared.context(torch.tensor(student), torch.tensor(teacher))
    loss_fn = shared.prepared(VIDLoss("mid", initial_variance=2.0), context)
    mean = student
    for layer in (loss_fn.projection[0], loss_fn.projection[2], loss_fn.projection[4]):
        mean = shared.convolved(np.maximum(mean, 0.0) if layer is not loss_fn.projection[0] else mean, layer)
    shared.close(loss_fn(context), paper(shared.pooled(mean, 2, 2), teacher, np.full(5, 2.0)))


def test_the_variance_is_trained():
    context = shared.context(torch.randn(8, 4), 0.1 * torch.randn(8, 3))
    loss_fn = shared.prepared(VIDLoss("mid"), context)
    assert "rho" in dict(loss_fn.named_parameters())
    optimizer = torch.optim.Adam(loss_fn.parameters(), lr=0.1)
    first = loss_fn(context)
    for _ in range(100):
        optimizer.zero_grad()
        loss_fn(context).backward()
        optimizer.step()
    assert (loss_fn.variance < 1.0).all()
    assert loss_fn(context) < first


@pytest.mark.parametrize("start", [1e-3, 5.0, 40.0])
def test_the_variance_starts_at_its_initial_value(start):
    context = shared.context(torch.randn(2, 4), torch.randn(2, 3))
    variance = shared.prepared(VIDLoss("mid", initial_variance=start), context).variance
    torch.testing.assert_close(variance, torch.full((3,), start), rtol=1e-3, atol=0.0)


def test_gradients_are_those_of_finite_differences():
    own, teacher_x, variance = (
        torch.randn(2, 3, 2, 2).double(),
        torch.randn(2, 3, 2, 2).double(),
        torch.rand(3).double() + 1,
    )
    own.requires_grad_(), variance.requires_grad_()
    assert torch.autograd.gradcheck(lambda s, v: vid_loss(s, teacher_x, variance=v), (own, variance))


def test_half_precision_is_computed_in_float32():
    variance = torch.tensor([1.0, 2.0, 3.0])
    function, reference = partial(vid_loss, variance=variance), partial(paper, variance=variance.numpy())
    shared.check_half(function, reference, (2, 3, 4, 4), (2, 3, 4, 4))


def test_channels_last_memory_gives_the_same():
    function = partial(vid_loss, variance=torch.tensor([1.0, 2.0, 3.0]))
    shared.check_memory_order(function, (2, 3, 4, 4), (2, 3, 4, 4))


def test_a_teacher_without_valid_samples_gives_zero():
    shared.check_no_valid_samples(VIDLoss("mid"), (2, 3, 4, 4), (2, 5, 2, 2))


def test_what_it_learns_may_be_moved_to_another_precision():
    shared.check_precisions(VIDLoss("mid"), (2, 3, 4, 4), (2, 5, 2, 2))


def test_an_unprepared_loss_names_the_call():
    shared.check_unprepared(VIDLoss("mid"))


def test_the_repr_names_between_which_widths_the_mean_maps():
    context = shared.context(torch.zeros(2, 3, 4, 4), torch.zeros(2, 5, 2, 2))
    assert "3 → 5, maps 4×4 and 2×2 pooled to 2×2" in str(shared.prepared(VIDLoss("mid"), context))


def test_shapes_that_cannot_be_compared_are_refused():
    ones = torch.ones(3)
    with pytest.raises(LimbeckError, match=r"\[2, 3\].*\[2, 5\]: the class VIDLoss projects"):
        vid_loss(torch.zeros(2, 3), torch.zeros(2, 5), variance=ones)
    with pytest.raises(LimbeckError, match=r"one number for each channel, \[channels\], got \[3\]"):
        vid_loss(torch.zeros(2, 5), torch.zeros(2, 5), variance=ones)


@pytest.mark.parametrize("variance", [0.0, 1e-5, float("nan"), float("inf")])
def test_a_variance_that_cannot_be_is_refused(variance):
    with pytest.raises(LimbeckError, match=r"initial_variance must be in \(1e-05, inf\), got"):
        VIDLoss("mid", initial_variance=variance)
