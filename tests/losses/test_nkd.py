"""nkd_loss is the cross-entropy of the target class and of the renormalized other classes."""

from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from limbeck import schedules
from limbeck.core.errors import LimbeckError
from limbeck.losses import NKDLoss, nkd_loss
from limbeck.testing import check_loss, make_context

shared = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("numpy_relations.py"))))
CROSS = {"zero at agreement"}  # a cross-entropy: at agreement it is the teacher's own entropy


def paper(student, teacher, target, gamma, tau):
    costs = []
    for z_s, z_t, true in zip(student, teacher, target, strict=True):
        own = -np.exp(z_t[true] - shared.logsumexp(z_t)) * (z_s[true] - shared.logsumexp(z_s))
        q, p = (np.delete(z, true) / tau for z in (z_s, z_t))
        others = -(np.exp(p - shared.logsumexp(p)) * (q - shared.logsumexp(q))).sum()
        costs.append(own + gamma * tau**2 * others)
    return float(np.mean(costs))


def test_it_passes_every_check_but_zero_at_agreement():
    check_loss(NKDLoss(), skip=CROSS)
    check_loss(NKDLoss(gamma=1.0, temperature=schedules.linear(4.0, 1.0), teacher="teacher"), skip=CROSS)


def test_the_value_computed_by_hand():
    # True class 0. Teacher p = (1/2, 1/4, 1/4); student q = (1/4, 1/4, 1/2), without the true class (1/3, 2/3).
    # Own: 1/2 ln 4. Others: −1/2 ln 1/3 − 1/2 ln 2/3 = 1/2 ln 9/2, times gamma 1.5.
    student, teacher = torch.tensor([[0.25, 0.25, 0.5]]).log(), torch.tensor([[0.5, 0.25, 0.25]]).log()
    value = nkd_loss(student, teacher, torch.tensor([0]))
    assert float(value) == pytest.approx(0.5 * np.log(4) + 0.75 * np.log(4.5), rel=1e-6)


@shared.FEW
@given(shared.pair_with_target(), st.floats(0.0, 2.0), st.floats(0.5, 20.0))
def test_it_agrees_with_the_paper_in_numpy(inputs, gamma, tau):
    value = shared.value(nkd_loss, *inputs, gamma=gamma, temperature=tau)
    assert value == pytest.approx(paper(*inputs, gamma, tau), rel=1e-6, abs=1e-12)


def test_the_others_are_least_where_the_networks_agree():
    teacher, target = torch.randn(3, 5).double(), torch.tensor([0, 4, 2])
    student = teacher.clone().requires_grad_()
    value = nkd_loss(student, teacher, target)
    value.backward()
    # What is left of the gradient is that of the true class's own part: p_c · (q − onehot).
    q = teacher.softmax(1)
    left = q.gather(1, target[:, None]) * (q - torch.nn.functional.one_hot(target, 5)) / 3
    torch.testing.assert_close(student.grad, left)


def test_with_two_classes_only_the_target_class_loss_is_left():
    student, teacher, target = torch.randn(2, 2), torch.randn(2, 2), torch.tensor([0, 1])
    torch.testing.assert_close(
        nkd_loss(student, teacher, target, gamma=0.0), nkd_loss(student, teacher, target, gamma=9.0)
    )


def test_rows_without_a_label_are_left_out():
    student, teacher, target = torch.randn(4, 3), torch.randn(4, 3), torch.tensor([0, -100, 2, -100])
    kept = target >= 0
    torch.testing.assert_close(nkd_loss(student, teacher, target), nkd_loss(student[kept], teacher[kept], target[kept]))
    assert float(nkd_loss(student, teacher, torch.full((4,), -100))) == 0.0


def test_targets_are_selected_for_valid_teacher_samples():
    context = make_context()
    present = torch.tensor([True, False, True, True, False, True])
    partial = replace(context, teacher=replace(context.teacher, valid=present))
    expected = nkd_loss(
        context.student.require_logits()[present], context.teacher.require_logits()[present], context.target[present]
    )  # fmt: skip
    torch.testing.assert_close(NKDLoss()(partial), expected)


def test_half_precision_is_computed_in_float32():
    target = np.array([0, 6, 3, 1, 2])
    for pair, arrays in shared.halves(5, 7, scale=5.0):
        value = nkd_loss(*pair, torch.tensor(target))
        assert value.dtype == torch.float32
        assert float(value) == pytest.approx(paper(*arrays, target, 1.5, 1.0), rel=1e-5)


def test_extreme_logits_have_a_finite_value_and_gradient():
    assert shared.finite_at(nkd_loss, torch.tensor([0, 1]))
    assert shared.finite_at(nkd_loss, torch.tensor([1, 0]), temperature=4.0)


def test_the_gradient_is_that_of_finite_differences():
    assert shared.right_gradient(nkd_loss, 3, 4, target=torch.tensor([0, 3, 1]), temperature=2.0)


def test_a_temperature_by_row_scales_each_row_by_its_own_square():
    student, teacher, target = torch.randn(2, 3).double(), torch.randn(2, 3).double(), torch.tensor([0, 2])
    each = [nkd_loss(student[i : i + 1], teacher[i : i + 1], target[i : i + 1], temperature=1.0 + i) for i in (0, 1)]
    together = nkd_loss(student, teacher, target, temperature=torch.tensor([1.0, 2.0]))
    torch.testing.assert_close(together, torch.stack(each).mean())


def test_a_teacher_without_valid_samples_gives_zero():
    assert float(NKDLoss()(shared.context_without_valid_samples())) == 0.0


def test_what_does_not_fit_is_refused():
    with pytest.raises(LimbeckError, match=r"\[2, 3\].*\[2, 4\].*same rows with the same classes"):
        nkd_loss(torch.zeros(2, 3), torch.zeros(2, 4), torch.zeros(2, dtype=torch.long))
    with pytest.raises(LimbeckError, match=r"the target of logits \[2, \d\] must be .*got \[3\]"):
        nkd_loss(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(3, dtype=torch.long))
    with pytest.raises(LimbeckError, match="above zero"):
        NKDLoss(temperature=0.0)
