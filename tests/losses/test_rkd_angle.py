"""rkd_angle_loss compares the cosines of the angles of all triplets of a batch."""

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
from limbeck.losses import RKDAngleLoss, rkd_angle_loss
from limbeck.testing import check_loss, make_context

shared = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("numpy_relations.py"))))


def cosines(features):
    rows = features.reshape(len(features), -1)
    apart = rows[:, None] - rows[None, :]
    lengths = np.linalg.norm(apart, axis=2, keepdims=True)
    unit = np.divide(apart, lengths, out=np.zeros_like(apart), where=lengths > 0)
    return np.einsum("ijd,kjd->jik", unit, unit)


def paper(student, teacher):
    size = np.abs(cosines(student) - cosines(teacher))
    return float(np.where(size < 1, size**2 / 2, size - 0.5).mean())


@pytest.mark.parametrize(("student", "teacher"), [((8, 4, 4), (8, 4, 4)), ((8, 4, 4), (3, 2, 2)), ((4,), (6, 5))])
def test_it_passes_every_check(student, teacher):
    make = partial(make_context, student_feature_shapes={"mid": student}, teacher_feature_shapes={"mid": teacher})
    check_loss(RKDAngleLoss("mid", teacher="teacher"), context_factory=make)


def test_the_value_computed_by_hand():
    # Student, a right angle of equal sides: cosines 0, 1/√2, 1/√2. Teacher, an equilateral triangle: all 1/2.
    # ½ · (1/4 + 2 (1/√2 − 1/2)²), each corner twice, over 27 entries.
    student = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    teacher = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, 0.75**0.5]])
    expected = (0.25 + 2 * (0.5**0.5 - 0.5) ** 2) / 27
    assert float(rkd_angle_loss(student, teacher)) == pytest.approx(expected, rel=1e-5)


@shared.FEW
@given(shared.features())
def test_it_agrees_with_the_paper_in_numpy(pair):
    assert shared.value(rkd_angle_loss, *pair) == pytest.approx(paper(*pair), rel=1e-6, abs=1e-12)


def test_moving_turning_and_scaling_the_features_changes_nothing():
    student, teacher = torch.randn(5, 4).double(), torch.randn(5, 3).double()
    turn = torch.linalg.qr(torch.randn(4, 4).double())[0]
    torch.testing.assert_close(rkd_angle_loss(7 * student @ turn + 100, teacher), rkd_angle_loss(student, teacher))


def test_duplicates_have_no_angle_and_a_finite_gradient():
    once = np.random.default_rng(0).normal(size=(3, 50)).astype(np.float32) + 10
    student = torch.tensor(np.concatenate([once, once]), requires_grad=True)
    teacher = torch.randn(6, 5)
    value = rkd_angle_loss(student, teacher)
    assert value.item() == pytest.approx(paper(student.detach().double().numpy(), teacher.double().numpy()), rel=1e-4)
    value.backward()
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize("batch", [1, 4])
def test_a_batch_without_any_angle_has_a_finite_gradient(batch):
    student = torch.ones(batch, 5, requires_grad=True)
    rkd_angle_loss(student, torch.randn(batch, 5)).backward()
    assert torch.isfinite(student.grad).all()


def test_nothing_as_large_as_all_pairs_times_the_width_is_made():
    student, teacher = torch.randn(8, 10_000, requires_grad=True), torch.randn(8, 10_000)
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
        rkd_angle_loss(student, teacher)
    assert max(sizes) <= 8 * 10_000


def test_channels_last_memory_gives_the_same():
    student, teacher = torch.randn(4, 3, 4, 4), torch.randn(4, 5, 2, 2)
    last = (tensor.to(memory_format=torch.channels_last) for tensor in (student, teacher))
    torch.testing.assert_close(rkd_angle_loss(*last), rkd_angle_loss(student, teacher))


def test_half_precision_is_computed_in_float32():
    for pair, arrays in shared.halves(5, 3, 4, scale=100.0):
        value = rkd_angle_loss(*pair)
        assert value.dtype == torch.float32
        assert float(value) == pytest.approx(paper(*arrays), rel=1e-4)


def test_the_gradient_is_that_of_finite_differences():
    assert shared.right_gradient(rkd_angle_loss, 4, 3, 2)


def test_a_teacher_without_valid_samples_gives_zero():
    assert float(RKDAngleLoss("mid")(shared.context_without_valid_samples())) == 0.0


def test_unequal_batches_are_refused_with_both_shapes():
    with pytest.raises(LimbeckError, match=r"rkd_angle relates .*\[2, 4\].*\[3, 4\]: use layers"):
        rkd_angle_loss(torch.zeros(2, 4), torch.zeros(3, 4))
