"""MLKD: instance, batch and class level distillation summed over temperatures."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given

from limbeck.core.errors import LimbeckError
from limbeck.losses import MLKDLoss, kd_loss, mlkd_loss
from limbeck.losses.temperature import Constant
from limbeck.testing import check_loss, make_context

shared = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("numpy_relations.py"))))
# The two matrices are sums over rows and classes divided once, as in the paper.
SUMS = {"unchanged by repetition", "unchanged by an impossible class"}


def levels(student, teacher, tau):
    log_q, log_p = shared.log_softmax(student / tau), shared.log_softmax(teacher / tau)
    q, p = np.exp(log_q), np.exp(log_p)
    rows, classes = q.shape
    instances = tau**2 * (p * (log_p - log_q)).sum(axis=1).mean()
    batch = sum((p[i] @ p[j] - q[i] @ q[j]) ** 2 for i in range(rows) for j in range(rows)) / rows
    confused = sum(
        (p[:, i] @ p[:, j] - q[:, i] @ q[:, j]) ** 2 for i in range(classes) for j in range(classes)
    )  # fmt: skip
    return np.array([instances, batch, confused / classes])


def test_it_passes_every_check_but_those_on_repetition_and_on_an_impossible_class():
    check_loss(MLKDLoss(), skip=SUMS)
    check_loss(MLKDLoss(temperatures=(1.0,), batch_weight=0.0, class_weight=0.0, teacher="teacher"))


def test_the_value_computed_by_hand():
    # tau 1, one row: p = (1/2, 1/2), q = (3/4, 1/4). KL = 1/2 ln 4/3. Batch: (1/2 − 5/8)² = 1/64.
    # Classes: p·p all 1/4; q·q 9/16, 3/16, 3/16, 1/16: (25 + 1 + 1 + 9) / 256, by 2 classes 9/128.
    student, teacher = torch.tensor([[np.log(3.0), 0.0]]), torch.zeros(1, 2)
    for weights, expected in (
        ({"batch_weight": 0.0, "class_weight": 0.0}, 0.5 * np.log(4 / 3)),
        ({"instance_weight": 0.0, "class_weight": 0.0}, 1 / 64),
        ({"instance_weight": 0.0, "batch_weight": 0.0}, 9 / 128),
    ):
        assert float(mlkd_loss(student, teacher, temperatures=[1.0], **weights)) == pytest.approx(expected, rel=1e-5)


@shared.FEW
@given(shared.logits())
def test_it_agrees_with_the_paper_in_numpy(pair):
    expected = sum(levels(*pair, tau) for tau in (2.0, 3.0, 4.0, 5.0, 6.0)) @ [1.0, 2.0, 3.0]
    value = shared.value(mlkd_loss, *pair, instance_weight=1.0, batch_weight=2.0, class_weight=3.0)
    assert value == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_a_batch_twice_over_costs_twice_between_samples_and_four_times_between_classes():
    student, teacher = torch.randn(3, 4).double(), torch.randn(3, 4).double()
    twice = student.repeat(2, 1), teacher.repeat(2, 1)
    only = {"instance_weight": 0.0, "batch_weight": 0.0, "class_weight": 0.0}
    for name, times in (("instance_weight", 1), ("batch_weight", 2), ("class_weight", 4)):
        weights = only | {name: 1.0}
        torch.testing.assert_close(mlkd_loss(*twice, **weights), times * mlkd_loss(student, teacher, **weights))


def test_instance_level_only_is_kd_at_all_temperatures():
    student, teacher = torch.randn(3, 4).double(), torch.randn(3, 4).double()
    expected = kd_loss(student, teacher, temperature=2.0) + kd_loss(student, teacher, temperature=5.0)
    torch.testing.assert_close(
        mlkd_loss(student, teacher, temperatures=[2, 5], batch_weight=0.0, class_weight=0.0), expected
    )


def test_a_policy_scales_all_temperatures_to_its_own():
    context = make_context(rows=6)
    torch.testing.assert_close(MLKDLoss(temperature=4.0)(context), MLKDLoss()(context))
    half = MLKDLoss(temperatures=(1.0, 1.5, 2.0, 2.5, 3.0))(context)
    torch.testing.assert_close(MLKDLoss(temperature=2.0)(context), half)
    torch.testing.assert_close(
        MLKDLoss(temperatures=(4.0, 6.0, 8.0, 10.0, 12.0), temperature=Constant(2.0))(context), half
    )
    check_loss(MLKDLoss(temperature=Constant(2.0)), skip=SUMS)


def test_half_precision_is_computed_in_float32():
    for pair, arrays in shared.halves(5, 7):
        value = mlkd_loss(*pair)
        assert value.dtype == torch.float32
        assert float(value) == pytest.approx(sum(levels(*arrays, tau).sum() for tau in range(2, 7)), rel=1e-5)


def test_extreme_logits_have_a_finite_value_and_gradient():
    assert shared.finite_at(mlkd_loss)


def test_the_gradient_is_that_of_finite_differences():
    assert shared.right_gradient(mlkd_loss, 3, 4, temperatures=[1.0, 2.0])


def test_a_teacher_without_valid_samples_gives_zero():
    assert float(MLKDLoss()(shared.context_without_valid_samples())) == 0.0


def test_what_does_not_fit_is_refused():
    with pytest.raises(LimbeckError, match=r"\[2, 3\].*\[2, 4\].*same rows with the same classes"):
        mlkd_loss(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(LimbeckError, match="must not be empty: give temperatures"):
        MLKDLoss(temperatures=())
    with pytest.raises(LimbeckError, match="above zero and at most 10,000, got 0"):
        MLKDLoss(temperatures=(2.0, 0.0))
