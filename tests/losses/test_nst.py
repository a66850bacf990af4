"""nst_loss is the squared MMD of two sets of channel maps under (x · y)², for both ways to compute it."""

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
from limbeck.losses import NSTLoss, nst_loss
from limbeck.testing import check_loss, make_context

shared = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("numpy_features.py"))))


def paper(student, teacher):
    """The kernel of every pair of channels, one by one."""
    if student.ndim == 4:
        student, teacher = shared.matched(student, teacher)

    def unit(maps):
        flat = maps.reshape(*maps.shape[:2], -1)
        return flat / np.maximum(np.linalg.norm(flat, axis=2, keepdims=True), 1e-12)

    def kernel(one, other):
        return np.mean([[[(x @ y) ** 2 for y in many] for x in few] for few, many in zip(one, other, strict=True)])

    own, teacher_x = unit(student), unit(teacher)
    return kernel(teacher_x, teacher_x) + kernel(own, own) - 2 * kernel(own, teacher_x)


@pytest.mark.parametrize("teacher", [(8, 4, 4), (3, 4, 4), (40, 4, 4), (12, 2, 5)])
def test_it_passes_every_check(teacher):
    check_loss(
        NSTLoss("mid"),
        context_factory=partial(
            make_context, student_feature_shapes={"mid": (8, 4, 4)}, teacher_feature_shapes={"mid": teacher}
        ),
    )


def test_it_passes_every_check_between_tokens():
    make = partial(make_context, student_feature_shapes={"mid": (6, 5)}, teacher_feature_shapes={"mid": (6, 9)})
    check_loss(NSTLoss("mid", teacher="teacher"), context_factory=make)


def test_the_value_computed_by_hand():
    # Student (1, 0) and (0, 1): pairs (1, 0, 0, 1), mean 1/2. Teacher (1, 1)/√2: 1. Across: 1/2 twice, mean 1/2.
    # 1/2 + 1 − 2 · 1/2 = 1/2; scales do not count.
    student, teacher = torch.tensor([[[2.0, 0.0], [0.0, 5.0]]]), torch.tensor([[[3.0, 3.0]]])
    assert float(nst_loss(student, teacher)) == pytest.approx(0.5, abs=1e-6)


@shared.FEW
@given(shared.features(same_channels=False, same_size=False))
def test_it_agrees_with_the_paper_in_numpy(pair):
    shared.close(nst_loss(*map(torch.tensor, pair)), paper(*pair))


@shared.FEW
@given(shared.features(rank=3, same_channels=False))
def test_it_agrees_with_the_paper_over_one_axis_of_positions(pair):
    shared.close(nst_loss(*map(torch.tensor, pair)), paper(*pair))


@pytest.mark.parametrize(("channels", "size"), [(24, 3), (3, 6)])
def test_many_channels_and_many_positions_agree_with_the_paper(channels, size):
    random = np.random.default_rng(0)
    pair = random.normal(size=(2, channels, size, size)), random.normal(size=(2, channels + 1, size, size))
    shared.close(nst_loss(*map(torch.tensor, pair)), paper(*pair))


def test_channels_in_another_order_and_size_give_zero():
    student = torch.randn(2, 5, 3, 3)
    assert float(nst_loss(student, 7 * student[:, torch.randperm(5)])) == pytest.approx(0.0, abs=1e-6)


def test_half_precision_is_computed_in_float32():
    shared.check_half(nst_loss, paper, (2, 3, 4, 4), (2, 5, 4, 4))


@pytest.mark.parametrize("channels", [2, 9])
def test_the_gradient_is_that_of_finite_differences(channels):
    shared.check_gradient(nst_loss, (2, channels, 2, 3), (2, channels, 2, 2))


def test_channels_last_memory_gives_the_same():
    shared.check_memory_order(nst_loss, (2, 3, 4, 4), (2, 5, 4, 4))


def test_a_dead_layer_has_a_finite_gradient():
    student = torch.zeros(2, 3, 4, 4, requires_grad=True)
    nst_loss(student, torch.randn(2, 3, 4, 4)).backward()
    assert torch.isfinite(student.grad).all()


def test_nothing_as_large_as_every_pair_at_every_position_is_made():
    # 64 · 64 · 256 numbers for each of 8 samples would be 32 MiB of float32.
    student, teacher = torch.randn(8, 64, 16, 16, requires_grad=True), torch.randn(8, 64, 16, 16)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.numel()) or tensor, lambda t: t):
        nst_loss(student, teacher).backward()
    assert max(kept) <= student.numel()


def test_a_teacher_without_valid_samples_gives_zero():
    student = torch.randn(2, 3, 4, 4, requires_grad=True)
    value = NSTLoss("mid")(shared.context(student, torch.randn(2, 5, 2, 2), valid=torch.tensor([False, False])))
    value.backward()
    assert value.item() == 0.0
    assert not student.grad.any()


@pytest.mark.parametrize(
    ("student", "teacher"), [((2, 3), (2, 3)), ((2, 3, 4), (2, 3, 5)), ((2, 3, 4, 4), (1, 3, 4, 4))]
)
def test_features_over_other_positions_are_refused(student, teacher):
    with pytest.raises(LimbeckError, match="use layers whose batch and positions agree"):
        nst_loss(torch.zeros(student), torch.zeros(teacher))
