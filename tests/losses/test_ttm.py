"""ttm_loss compares the student's probabilities with a power of the teacher's, weighted by its softness."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from limbeck.core.errors import LimbeckError
from limbeck.losses import TTMLoss, kd_loss, ttm_loss
from limbeck.losses.temperature import ScaledLogits
from limbeck.testing import check_loss, make_context

shared = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("numpy_relations.py"))))
SOFTENED = {"zero at agreement"}  # only the teacher is softened


def paper(student, teacher, power, by_softness):
    log_q, log_p = shared.log_softmax(student), power * shared.log_softmax(teacher)
    weight = np.exp(log_p).sum(axis=1)
    soft = np.exp(log_p) / weight[:, None]
    log_soft = log_p - np.log(weight)[:, None]
    by_row = (soft * (log_soft - log_q)).sum(axis=1)
    return float(np.mean(by_row * weight if by_softness else by_row))


def test_it_passes_every_check_but_zero_at_agreement():
    check_loss(TTMLoss(), skip=SOFTENED)
    check_loss(TTMLoss(power=0.1, row_weighting="equal", teacher="teacher"), skip=SOFTENED)
    check_loss(TTMLoss(power=1.0))
    check_loss(TTMLoss(temperature=2.0), skip=SOFTENED)


def test_the_value_computed_by_hand():
    # p = (4/5, 1/5), power 1/2: (2, 1)/√5, renormalised (2/3, 1/3), summing to 3/√5. q = (1/2, 1/2).
    # KL = 2/3 ln 4/3 + 1/3 ln 2/3 = 5/3 ln 2 − ln 3.
    student, teacher = torch.zeros(1, 2), torch.tensor([[np.log(4.0), 0.0]])
    kl = 5 / 3 * np.log(2) - np.log(3)
    assert float(ttm_loss(student, teacher, power=0.5, row_weighting="equal")) == pytest.approx(kl, rel=1e-6)
    assert float(ttm_loss(student, teacher, power=0.5)) == pytest.approx(kl * 3 / 5**0.5, rel=1e-6)


@shared.FEW
@given(shared.logits(), st.floats(0.05, 1.0), st.booleans())
def test_it_agrees_with_the_paper_in_numpy(pair, power, by_softness):
    value = shared.value(ttm_loss, *pair, power=power, row_weighting="by_softness" if by_softness else "equal")
    assert value == pytest.approx(paper(*pair, power, by_softness), rel=1e-6, abs=1e-12)


def test_at_a_power_of_one_it_is_a_kd_without_temperature():
    student, teacher = torch.randn(3, 5).double(), torch.randn(3, 5).double()
    expected = kd_loss(student, teacher, temperature=1.0)
    torch.testing.assert_close(ttm_loss(student, teacher, power=1.0, row_weighting="equal"), expected)
    torch.testing.assert_close(ttm_loss(student, teacher, power=1.0), expected)


def test_a_temperature_is_one_over_the_power_and_may_differ_by_row():
    context = make_context(rows=6)
    torch.testing.assert_close(TTMLoss(temperature=5.0)(context), TTMLoss(power=0.2)(context))
    student, teacher = (one.require_logits().detach().double() for one in context.pair())
    taus = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    each = [paper(student[i : i + 1].numpy(), teacher[i : i + 1].numpy(), 1 / float(taus[i]), True) for i in range(6)]
    assert float(TTMLoss(temperature=ByRow(taus))(context).detach()) == pytest.approx(np.mean(each), rel=1e-5)


class ByRow:
    """A temperature of each row's own."""

    def __init__(self, taus):
        self.temperatures = taus

    def __call__(self, student, teacher, progress):
        return ScaledLogits(student.require_logits(), teacher.require_logits(), self.temperatures)

    def bounds(self):
        return 1.0, 6.0


def test_half_precision_is_computed_in_float32():
    for pair, arrays in shared.halves(5, 7):
        value = ttm_loss(*pair)
        assert value.dtype == torch.float32
        assert float(value) == pytest.approx(paper(*arrays, 0.2, True), rel=1e-5)


def test_extreme_logits_have_a_finite_value_and_gradient():
    assert shared.finite_at(ttm_loss)
    assert shared.finite_at(ttm_loss, power=1.0, row_weighting="equal")


def test_the_gradient_is_that_of_finite_differences():
    assert shared.right_gradient(ttm_loss, 3, 4)


def test_a_teacher_without_valid_samples_gives_zero():
    assert float(TTMLoss()(shared.context_without_valid_samples())) == 0.0


def test_what_does_not_fit_is_refused():
    with pytest.raises(LimbeckError, match=r"\[2, 3\].*\[2, 4\].*same rows with the same classes"):
        ttm_loss(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(LimbeckError, match=r"power must be in \(0, inf\), got 0"):
        TTMLoss(power=0.0)
    with pytest.raises(LimbeckError, match="'by_softness' or 'equal', got 'evenly'"):
        TTMLoss(row_weighting="evenly")
