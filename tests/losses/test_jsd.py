"""jsd_loss is τ² · mean over rows of the divergence of both from their mixture, bounded and exact near 0."""

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
from limbeck.losses import JSDLoss, jsd_loss, kd_loss, reverse_kl_loss
from limbeck.testing import check_loss

shared = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("numpy_relations.py"))))


def paper(student, teacher, tau, beta):
    tau = np.broadcast_to(np.asarray(tau, dtype=np.float64), (len(student),))
    log_q, log_p = shared.log_softmax(student / tau[:, None]), shared.log_softmax(teacher / tau[:, None])
    log_m = np.logaddexp(np.log(1 - beta) + log_q, np.log(beta) + log_p)
    by_row = beta * (np.exp(log_p) * (log_p - log_m)).sum(1) + (1 - beta) * (np.exp(log_q) * (log_q - log_m)).sum(1)
    return float(np.mean(tau**2 * by_row))


def test_it_passes_every_check():
    check_loss(JSDLoss())
    check_loss(JSDLoss(temperature=schedules.linear(8.0, 1.0), beta=0.1, teacher="teacher"))


def test_the_value_computed_by_hand():
    # q = (1, 0) as good as, p = (0, 1): m = (1/2, 1/2), both at ln 2 from it. At tau 2, times 4.
    value = jsd_loss(torch.tensor([[1e3, 0.0]]), torch.tensor([[0.0, 1e3]]), temperature=2.0)
    assert float(value) == pytest.approx(4 * np.log(2), rel=1e-6)
    # The teacher's share 1/4: m = (3/4, 1/4), so 1/4 ln 4 + 3/4 ln 4/3.
    value = jsd_loss(torch.tensor([[1e3, 0.0]]), torch.tensor([[0.0, 1e3]]), temperature=1.0, beta=0.25)
    assert float(value) == pytest.approx(0.25 * np.log(4) + 0.75 * np.log(4 / 3), rel=1e-6)


@shared.FEW
@given(shared.logits(), st.floats(0.5, 20.0), st.floats(0.01, 0.99))
def test_it_agrees_with_numpy(pair, tau, beta):
    value = shared.value(jsd_loss, *pair, temperature=tau, beta=beta)
    assert value == pytest.approx(paper(*pair, tau, beta), rel=1e-6, abs=1e-12)


def test_its_ends_are_the_two_divergences():
    student, teacher = torch.randn(3, 5).double(), torch.randn(3, 5).double()
    near = 1e-6
    torch.testing.assert_close(
        jsd_loss(student, teacher, beta=near) / near, kd_loss(student, teacher), rtol=1e-4, atol=0
    )
    torch.testing.assert_close(
        jsd_loss(student, teacher, beta=1 - near) / near, reverse_kl_loss(student, teacher), rtol=1e-4, atol=0
    )


def test_float32_keeps_its_digits_where_the_networks_nearly_agree():
    student = torch.randn(4, 10)
    teacher = student + 1e-3 * torch.randn(4, 10)
    assert float(jsd_loss(student, teacher)) == pytest.approx(
        paper(student.double().numpy(), teacher.double().numpy(), 4.0, 0.5), rel=1e-2
    )
    assert float(jsd_loss(student, student)) == 0.0


def test_half_precision_is_computed_in_float32():
    for pair, arrays in shared.halves(5, 7):
        value = jsd_loss(*pair)
        assert value.dtype == torch.float32
        assert float(value) == pytest.approx(paper(*arrays, 4.0, 0.5), rel=1e-4)


def test_extreme_logits_have_a_finite_value_and_gradient():
    assert shared.finite_at(jsd_loss)
    assert shared.finite_at(jsd_loss, temperature=1.0, beta=0.9)


def test_the_gradient_is_that_of_finite_differences_and_zero_at_agreement():
    assert shared.right_gradient(jsd_loss, 3, 4, temperature=2.0, beta=0.3)
    student = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    jsd_loss(student, student.detach(), beta=0.3).backward()
    assert float(student.grad.abs().max()) < 1e-12


def test_a_teacher_without_valid_samples_gives_zero():
    assert float(JSDLoss()(shared.context_without_valid_samples())) == 0.0


@pytest.mark.parametrize("beta", [0.0, 1.0, -0.5])
def test_a_share_outside_zero_and_one_is_refused(beta):
    with pytest.raises(LimbeckError, match=r"beta must be in \(0, 1\), got"):
        JSDLoss(beta=beta)
    with pytest.raises(LimbeckError, match=r"beta must be in \(0, 1\), got"):
        jsd_loss(torch.zeros(1, 2), torch.zeros(1, 2), beta=beta)


def test_networks_of_different_classes_are_refused_with_both_shapes():
    with pytest.raises(LimbeckError, match=r"\[2, 3\].*\[2, 4\].*same rows with the same classes"):
        jsd_loss(torch.zeros(2, 3), torch.zeros(2, 4))
