"""dist_loss is one minus Pearson's correlation, over the classes of a row and over the rows of a class."""

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
from limbeck.losses import DISTLoss, dist_loss
from limbeck.testing import check_loss

shared = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("numpy_relations.py"))))
# One more class, be it of probability zero, changes the mean that a correlation is taken around.
AROUND = {"unchanged by an impossible class"}


def uncorrelated(x, y):
    a, b = x - x.mean(), y - y.mean()
    number = np.finfo(float)
    noise = [(8 * number.eps * z.mean()) ** 2 * len(z) + number.tiny / number.eps for z in (x, y)]
    still = [c @ c <= least for c, least in zip((a, b), noise, strict=True)]
    if any(still):
        return float(not all(still))
    return 1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def paper(student, teacher, beta, gamma, tau):
    q, p = shared.softmax(student / tau), shared.softmax(teacher / tau)
    rows = np.mean([uncorrelated(*pair) for pair in zip(q, p, strict=True)])
    columns = np.mean([uncorrelated(*pair) for pair in zip(q.T, p.T, strict=True)])
    return tau**2 * (beta * rows + gamma * columns)


def test_it_passes_every_check_but_that_on_an_impossible_class():
    check_loss(DISTLoss(), skip=AROUND)
    check_loss(DISTLoss(beta=2.0, gamma=2.0, temperature=schedules.linear(6.0, 4.0), teacher="teacher"), skip=AROUND)


def test_the_value_computed_by_hand():
    # Rows: (1, 0) and (1, 0) are correlated, (0, 1) and (1, 0) opposite: mean of 0 and 2. Columns, as good as: the
    # student's (1, 0) and the teacher's (1, 1), which does not vary: uncorrelated, 1.
    student, teacher = torch.tensor([[99.0, 0.0], [0.0, 99.0]]), torch.tensor([[99.0, 0.0], [99.0, 0.0]])
    assert float(dist_loss(student, teacher, beta=1.0, gamma=0.0)) == pytest.approx(1.0, rel=1e-6)
    assert float(dist_loss(student, teacher, beta=0.0, gamma=3.0)) == pytest.approx(3.0, rel=1e-6)


@shared.FEW
@given(shared.logits(), st.floats(0.0, 2.0), st.floats(0.0, 2.0), st.floats(0.5, 20.0))
def test_it_agrees_with_the_paper_in_numpy(pair, beta, gamma, tau):
    value = shared.value(dist_loss, *pair, beta=beta, gamma=gamma, temperature=tau)
    assert value == pytest.approx(paper(*pair, beta, gamma, tau), rel=1e-6, abs=1e-10)


@pytest.mark.parametrize("scale", [0.0, 1e-3, 1.0, 1e4])
def test_identical_logits_give_exactly_zero_in_float32(scale):
    logits = scale * torch.randn(8, 100)
    assert float(dist_loss(logits, logits, temperature=4.0)) == 0.0
    assert float(dist_loss(logits[:1], logits[:1])) == 0.0
    assert float(dist_loss(logits[:1].repeat(5, 1), logits[:1].repeat(5, 1))) == 0.0


def test_a_batch_of_one_has_no_relation_between_samples():
    student, teacher = torch.randn(1, 5), torch.randn(1, 5)
    assert float(dist_loss(student, teacher, beta=0.0)) == 0.0


def test_half_precision_is_computed_in_float32():
    for pair, arrays in shared.halves(5, 7):
        value = dist_loss(*pair)
        assert value.dtype == torch.float32
        assert float(value) == pytest.approx(paper(*arrays, 1.0, 1.0, 1.0), rel=1e-5)


def test_a_student_with_equal_predictions_has_a_finite_gradient():
    student = torch.zeros(4, 5, requires_grad=True)
    dist_loss(student, torch.randn(4, 5)).backward()
    assert torch.isfinite(student.grad).all()


def test_extreme_logits_have_a_finite_value_and_gradient():
    assert shared.finite_at(dist_loss)
    assert shared.finite_at(dist_loss, temperature=4.0)


def test_the_gradient_is_that_of_finite_differences():
    assert shared.right_gradient(dist_loss, 3, 4, beta=2.0, gamma=0.5, temperature=2.0)


def test_a_temperature_by_row_scales_each_row_by_its_own_square():
    student, teacher, tau = torch.randn(2, 3).double(), torch.randn(2, 3).double(), torch.tensor([1.0, 2.0])
    each = [dist_loss(student[i : i + 1], teacher[i : i + 1], temperature=float(tau[i])) for i in (0, 1)]
    torch.testing.assert_close(dist_loss(student, teacher, gamma=0.0, temperature=tau), torch.stack(each).mean())
    columns = dist_loss(student / tau[:, None], teacher / tau[:, None], beta=0.0)
    torch.testing.assert_close(dist_loss(student, teacher, beta=0.0, temperature=tau), columns * 2.5)


def test_a_teacher_without_valid_samples_gives_zero():
    assert float(DISTLoss()(shared.context_without_valid_samples())) == 0.0
    assert float(dist_loss(torch.zeros(0, 3), torch.zeros(0, 3), temperature=torch.ones(0))) == 0.0


def test_what_does_not_fit_is_refused():
    with pytest.raises(LimbeckError, match=r"\[2, 3\].*\[2, 4\].*same rows with the same classes"):
        dist_loss(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(LimbeckError, match="above zero"):
        DISTLoss(temperature=0.0)


def test_the_second_derivative_is_right_for_loss_weightings_that_need_it():
    student, teacher = torch.randn(3, 4).double().requires_grad_(), torch.randn(3, 4).double()
    assert torch.autograd.gradgradcheck(lambda s: dist_loss(s, teacher, beta=2.0, gamma=0.5, temperature=2.0), student)


def test_a_temperature_that_is_learned_gets_its_gradient_through_both_logits():
    student, teacher = torch.randn(3, 4).double(), torch.randn(3, 4).double()
    tau = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: dist_loss(student, teacher, temperature=t), tau)
    assert torch.autograd.gradgradcheck(lambda t: dist_loss(student, teacher, temperature=t), tau)
