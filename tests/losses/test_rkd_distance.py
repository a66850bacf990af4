"""rkd_distance_loss compares distances between the samples of a batch, each over the mean of its network."""

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
from limbeck.losses import RKDDistanceLoss, rkd_distance_loss
from limbeck.testing import check_loss, make_context

shared = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("numpy_relations.py"))))


def scaled(features):
    rows = features.reshape(len(features), -1)
    distances = np.linalg.norm(rows[:, None] - rows[None, :], axis=2)
    positive = distances > 0
    return distances / (distances[positive].mean() if positive.any() else 1)


def smooth_l1(difference):
    size = np.abs(difference)
    return np.where(size < 1, size**2 / 2, size - 0.5)


def paper(student, teacher):
    return float(smooth_l1(scaled(student) - scaled(teacher)).mean())


@pytest.mark.parametrize(("student", "teacher"), [((8, 4, 4), (8, 4, 4)), ((8, 4, 4), (3, 2, 2)), ((4,), (6, 5))])
def test_it_passes_every_check(student, teacher):
    make = partial(make_context, student_feature_shapes={"mid": student}, teacher_feature_shapes={"mid": teacher})
    # The check cannot make a student of another width agree, but this loss accepts it.
    check_loss(RKDDistanceLoss("mid", teacher="teacher"), context_factory=make)


def test_the_value_computed_by_hand():
    # Student 0, 1, 2: distances 1, 2, 1 over their mean 4/3: 3/4, 3/2, 3/4. Teacher 0, 1, 5: 1, 5, 4 over 10/3: 3/10,
    # 3/2, 6/5. Differences 9/20, 0, 9/20, each ½x², each pair twice, over 9 entries: 2 · 81/400 / 9.
    student, teacher = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[0.0], [1.0], [5.0]])
    assert float(rkd_distance_loss(student, teacher)) == pytest.approx(0.045, rel=1e-5)


@shared.FEW
@given(shared.features())
def test_it_agrees_with_the_paper_in_numpy(pair):
    assert shared.value(rkd_distance_loss, *pair) == pytest.approx(paper(*pair), rel=1e-6, abs=1e-12)


def test_moving_turning_and_scaling_the_features_changes_nothing():
    student, teacher = torch.randn(5, 4).double(), torch.randn(5, 3).double()
    turn = torch.linalg.qr(torch.randn(4, 4).double())[0]
    torch.testing.assert_close(
        rkd_distance_loss(7 * student @ turn + 100, teacher), rkd_distance_loss(student, teacher)
    )


def test_duplicates_are_at_distance_zero_and_have_a_finite_gradient():
    once = np.random.default_rng(0).normal(size=(3, 50)).astype(np.float32) + 10
    student = torch.tensor(np.concatenate([once, once]), requires_grad=True)
    teacher = torch.randn(6, 5)
    value = rkd_distance_loss(student, teacher)
    assert value.item() == pytest.approx(paper(student.detach().double().numpy(), teacher.double().numpy()), rel=1e-4)
    value.backward()
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize("batch", [1, 4])
def test_a_batch_without_any_distance_has_a_finite_gradient(batch):
    student = torch.ones(batch, 5, requires_grad=True)
    rkd_distance_loss(student, torch.randn(batch, 5)).backward()
    assert torch.isfinite(student.grad).all()


def test_channels_last_memory_gives_the_same():
    student, teacher = torch.randn(4, 3, 4, 4), torch.randn(4, 5, 2, 2)
    last = (tensor.to(memory_format=torch.channels_last) for tensor in (student, teacher))
    torch.testing.assert_close(rkd_distance_loss(*last), rkd_distance_loss(student, teacher))


def test_half_precision_is_computed_in_float32():
    for pair, arrays in shared.halves(5, 3, 4, scale=100.0):
        value = rkd_distance_loss(*pair)
        assert value.dtype == torch.float32
        assert float(value) == pytest.approx(paper(*arrays), rel=1e-4)


def test_the_gradient_is_that_of_finite_differences():
    assert shared.right_gradient(rkd_distance_loss, 4, 3, 2)


def test_a_teacher_without_valid_samples_gives_zero():
    assert float(RKDDistanceLoss("mid")(shared.context_without_valid_samples())) == 0.0


def test_unequal_batches_are_refused_with_both_shapes():
    with pytest.raises(LimbeckError, match=r"rkd_distance relates .*\[2, 4\].*\[3, 4\]: use layers"):
        rkd_distance_loss(torch.zeros(2, 4), torch.zeros(3, 4))
