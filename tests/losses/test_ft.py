"""ft_loss is the mean absolute difference of two L2-normalized maps; FTLoss learns the factors."""

from __future__ import annotations

import runpy
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given

from limbeck.core.errors import LimbeckError
from limbeck.losses import FTLoss, ft_loss
from limbeck.testing import check_loss, make_context

shared = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("numpy_features.py"))))


def paper(student, teacher):
    def normal(maps):
        flat = np.square(maps).mean(axis=1).reshape(len(maps), -1)
        return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-12)

    student, teacher = shared.matched(student, teacher)
    return np.abs(normal(student) - normal(teacher)).mean()


def leaky(maps):
    return np.where(maps > 0, maps, 0.1 * maps)


def through(maps, layers):
    for layer in list(layers)[::2]:
        maps = leaky(shared.convolved(maps, layer))
    return maps


@pytest.mark.parametrize(
    ("student", "teacher"), [((8, 4, 4), (6, 4, 4)), ((8, 6, 6), (8, 3, 3)), ((3, 2, 2), (1, 5, 2))]
)
def test_it_passes_every_check_but_zero_at_agreement(student, teacher):
    # Paraphraser and translator have to learn before they agree.
    make = partial(make_context, student_feature_shapes={"mid": student}, teacher_feature_shapes={"mid": teacher})
    check_loss(FTLoss("mid"), context_factory=make, skip={"zero at agreement"})


def test_the_value_computed_by_hand():
    # Student (3, 4): squares (9, 16), norm √337, map (0.490261, 0.871576). Teacher (1, 0): itself. |−0.509739| and
    # 0.871576, mean 0.690658.
    student, teacher = torch.tensor([[[[3.0, 4.0]]]]), torch.tensor([[[[1.0, 0.0]]]])
    assert ft_loss(student, teacher).item() == pytest.approx(0.690658, abs=1e-6)


@shared.FEW
@given(shared.features(same_channels=False, same_size=False))
def test_it_agrees_with_the_published_form_in_numpy(pair):
    shared.close(ft_loss(*map(torch.tensor, pair)), paper(*pair))


def test_maps_that_are_proportional_give_zero():
    student = torch.randn(2, 3, 4, 4)
    assert ft_loss(student, 7.0 * student).item() == pytest.approx(0.0, abs=1e-7)


def test_the_class_agrees_with_numpy_through_what_it_learns():
    random = np.random.default_rng(0)
    student, teacher = random.normal(size=(2, 3, 4, 4)), random.normal(size=(2, 4, 4, 4))
    context = shared.context(torch.tensor(student), torch.tensor(teacher))
    loss_fn = shared.prepared(FTLoss("mid", reconstruction_weight=0.25), context)
    summary = through(teacher, loss_fn.paraphraser)
    with torch.no_grad():
        error = np.square(loss_fn.decoder(torch.tensor(summary)).numpy() - teacher).mean()
    shared.close(loss_fn(context), paper(through(student, loss_fn.translator), summary) + 0.25 * error)


def test_the_paraphraser_learns_from_the_reconstruction_only_and_the_translator_from_the_factors_only():
    context = shared.context(torch.randn(2, 3, 4, 4, requires_grad=True), torch.randn(2, 4, 4, 4))
    loss_fn = shared.prepared(FTLoss("mid"), context)
    loss_fn(context).backward()
    by_default = {name: p.grad.clone() for name, p in loss_fn.named_parameters()}
    loss_fn.reconstruction_weight *= 2
    loss_fn.zero_grad()
    loss_fn(context).backward()
    for name, parameter in loss_fn.named_parameters():
        times = 1.0 if name.startswith("translator") else 2.0
        torch.testing.assert_close(parameter.grad, times * by_default[name])


def test_training_makes_the_paraphraser_reconstruct_and_the_student_follow():
    context = shared.context(torch.randn(8, 3, 4, 4), torch.randn(8, 4, 1, 1).expand(-1, -1, 4, 4))
    loss_fn = shared.prepared(FTLoss("mid", reconstruction_weight=1.0), context)
    optimizer = torch.optim.Adam(loss_fn.parameters(), lr=0.01)
    first = loss_fn(context).item()
    for _ in range(60):
        optimizer.zero_grad()
        loss_fn(context).backward()
        optimizer.step()
    assert loss_fn(context).item() < 0.7 * first


def test_half_precision_is_computed_in_float32():
    shared.check_half(ft_loss, paper, (2, 3, 4, 4), (2, 5, 4, 4))


def test_the_gradient_is_that_of_finite_differences():
    shared.check_gradient(ft_loss, (1, 2, 2, 3), (1, 2, 2, 2))


def test_channels_last_memory_gives_the_same():
    shared.check_memory_order(ft_loss, (2, 3, 4, 4), (2, 5, 2, 2))


def test_a_dead_layer_has_a_finite_gradient():
    student = torch.zeros(2, 3, 4, 4, requires_grad=True)
    ft_loss(student, torch.randn(2, 3, 4, 4)).backward()
    assert torch.isfinite(student.grad).all()


def test_a_teacher_without_valid_samples_gives_zero():
    shared.check_no_valid_samples(FTLoss("mid"), (2, 3, 4, 4), (2, 5, 2, 2))


def test_what_it_learns_may_be_moved_to_another_precision():
    shared.check_precisions(FTLoss("mid"), (2, 3, 4, 4), (2, 5, 2, 2))


def test_an_unprepared_loss_names_the_call():
    shared.check_unprepared(FTLoss("mid"))


def test_the_repr_describes_paraphraser_and_translator():
    context = shared.context(torch.zeros(2, 3, 4, 4), torch.zeros(2, 6, 2, 2))
    text = str(shared.prepared(FTLoss("mid"), context))
    assert "6 → 3" in text
    assert "3 → 3, maps 4×4 and 2×2 pooled to 2×2" in text


@pytest.mark.parametrize("rate", [0.0, 1.1, float("nan")])
def test_a_rate_that_leaves_nothing_or_adds_is_refused(rate):
    with pytest.raises(LimbeckError, match=r"rate must be in \(0, 1\], got"):
        FTLoss("mid", rate=rate)


@pytest.mark.parametrize("weight", [0.0, -1.0, float("inf")])
def test_a_paraphraser_that_would_not_learn_is_refused(weight):
    with pytest.raises(LimbeckError, match=r"reconstruction_weight must be in \(0, inf\), got"):
        FTLoss("mid", reconstruction_weight=weight)


def test_features_that_are_no_map_are_refused():
    with pytest.raises(
        LimbeckError, match=r"the teacher's features have the shape \[2, 3\]: use a convolutional layer"
    ):
        ft_loss(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3))
    with pytest.raises(LimbeckError, match="got 2 and 3 samples"):
        ft_loss(torch.zeros(2, 3, 4, 4), torch.zeros(3, 3, 4, 4))
