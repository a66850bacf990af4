"""reverse_kl_loss is τ² · mean over rows of KL(student ‖ teacher), for any shape, scale and temperature."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from limbeck import schedules
from limbeck.core.errors import LimbeckError
from limbeck.losses import ReverseKLLoss, kd_loss, reverse_kl_loss
from limbeck.testing import check_loss, make_context

shared = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("numpy_relations.py"))))


def paper(student, teacher, tau):
    tau = np.broadcast_to(np.asarray(tau, dtype=np.float64), (len(student),))
    log_q, log_p = shared.log_softmax(student / tau[:, None]), shared.log_softmax(teacher / tau[:, None])
    return float(np.mean(tau**2 * np.sum(np.exp(log_q) * (log_q - log_p), axis=1)))


def test_it_passes_every_check():
    check_loss(ReverseKLLoss(temperature=4.0))
    check_loss(ReverseKLLoss(temperature=schedules.linear(8.0, 1.0), teacher="teacher"))


def test_the_value_computed_by_hand():
    # tau 2. Student (2 ln 3, 0): q = (3/4, 1/4). Teacher (0, 0): p = (1/2, 1/2). KL(q ‖ p) = 3/4 ln 3 − ln 2, times 4.
    value = reverse_kl_loss(torch.tensor([[2 * np.log(3.0), 0.0]]), torch.zeros(1, 2), temperature=2.0)
    assert float(value) == pytest.approx(3 * np.log(3) - 4 * np.log(2), rel=1e-6)


@shared.FEW
@given(shared.logits(), st.floats(0.5, 20.0))
def test_it_agrees_with_numpy(pair, tau):
    assert shared.value(reverse_kl_loss, *pair, temperature=tau) == pytest.approx(
        paper(*pair, tau), rel=1e-6, abs=1e-12
    )


def test_it_is_the_kd_with_the_networks_changed_over():
    student, teacher = torch.randn(3, 5).double(), torch.randn(3, 5).double()
    torch.testing.assert_close(reverse_kl_loss(student, teacher), kd_loss(teacher, student))


def test_a_temperature_by_row_scales_each_row_by_its_own_square():
    student, teacher = np.random.default_rng(0).normal(size=(2, 4, 5))
    tau = np.array([1.0, 2.0, 4.0, 8.0])
    value = reverse_kl_loss(torch.tensor(student), torch.tensor(teacher), temperature=torch.tensor(tau))
    assert float(value) == pytest.approx(paper(student, teacher, tau), rel=1e-6)


def test_half_precision_is_computed_in_float32():
    for pair, arrays in shared.halves(5, 7):
        value = reverse_kl_loss(*pair)
        assert value.dtype == torch.float32
        assert float(value) == pytest.approx(paper(*arrays, 4.0), rel=1e-5)


def test_extreme_logits_have_a_finite_value_and_gradient():
    assert shared.finite_at(reverse_kl_loss)
    assert shared.finite_at(reverse_kl_loss, temperature=1.0)


def test_the_gradient_is_that_of_finite_differences():
    assert shared.right_gradient(reverse_kl_loss, 3, 4, temperature=2.0)


def test_a_teacher_without_valid_samples_gives_zero():
    assert float(ReverseKLLoss()(shared.context_without_valid_samples())) == 0.0


def test_the_class_takes_its_temperature_from_the_schedule():
    context = make_context()
    moved = ReverseKLLoss(temperature=schedules.linear(5.0, 1.0))(context)
    torch.testing.assert_close(moved, ReverseKLLoss(temperature=4.0)(context))


def test_what_does_not_fit_is_refused():
    with pytest.raises(LimbeckError, match=r"\[2, 3\].*\[2, 4\].*same rows with the same classes"):
        reverse_kl_loss(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(LimbeckError, match=r"logits must be \[rows, classes\]"):
        reverse_kl_loss(torch.zeros(2, 3, 4), torch.zeros(2, 3, 4))
    with pytest.raises(LimbeckError, match="got 3 for 2 rows"):
        reverse_kl_loss(torch.zeros(2, 3), torch.zeros(2, 3), temperature=torch.ones(3))
    with pytest.raises(LimbeckError, match="above zero"):
        ReverseKLLoss(temperature=0.0)
    with pytest.raises(LimbeckError, match="above zero"):
        reverse_kl_loss(torch.zeros(2, 3), torch.zeros(2, 3), temperature=-1.0)
