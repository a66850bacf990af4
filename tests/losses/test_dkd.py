"""DKD: target-class and non-target-class knowledge distillation, weighted separately."""

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
from limbeck.core.outputs import Outputs
from limbeck.losses import DKDLoss, dkd_loss, kd_loss
from limbeck.testing import check_loss, make_context

shared = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("numpy_relations.py"))))


def paper(student, teacher, target, alpha, beta, tau):
    """Section 3 of the paper, one row after the other."""
    costs = []
    for z_s, z_t, true in zip(student / tau, teacher / tau, target, strict=True):
        parts = []
        for z in (z_s, z_t):
            others = np.delete(z, true)
            binary = np.array([z[true], shared.logsumexp(others)]) - shared.logsumexp(z)
            parts.append((binary, others - shared.logsumexp(others)))
        (b_q, others_q), (b_p, others_p) = parts
        target_class, non_target = ((np.exp(p) * (p - q)).sum() for p, q in ((b_p, b_q), (others_p, others_q)))
        costs.append(alpha * target_class + beta * non_target)
    return tau**2 * float(np.mean(costs))


def test_it_passes_every_check():
    check_loss(DKDLoss())
    check_loss(DKDLoss(alpha=2.0, beta=1.0, temperature=schedules.linear(8.0, 1.0), teacher="teacher"))


def test_the_value_computed_by_hand():
    # tau 1, true class 0. Teacher p = (1/2, 1/4, 1/4); student q = (1/4, 1/4, 1/2).
    # TCKD: 1/2 ln 2 + 1/2 ln 2/3 = 1/2 ln 4/3. NCKD: p̂ = (1/2, 1/2), q̂ = (1/3, 2/3): 1/2 ln 3/2 + 1/2 ln 3/4.
    student, teacher = torch.tensor([[0.25, 0.25, 0.5]]).log(), torch.tensor([[0.5, 0.25, 0.25]]).log()
    target = torch.tensor([0])
    assert float(dkd_loss(student, teacher, target, alpha=1.0, beta=0.0, temperature=1.0)) == pytest.approx(
        0.5 * np.log(4 / 3), rel=1e-5
    )
    assert float(dkd_loss(student, teacher, target, alpha=0.0, beta=1.0, temperature=1.0)) == pytest.approx(
        0.5 * np.log(9 / 8), rel=1e-5
    )


@shared.FEW
@given(shared.pair_with_target(), st.floats(0.0, 2.0), st.floats(0.0, 8.0), st.floats(0.5, 20.0))
def test_it_agrees_with_the_paper_in_numpy(inputs, alpha, beta, tau):
    value = shared.value(dkd_loss, *inputs, alpha=alpha, beta=beta, temperature=tau)
    assert value == pytest.approx(paper(*inputs, alpha, beta, tau), rel=1e-6, abs=1e-11)


@shared.FEW
@given(shared.pair_with_target(scales=(1.0, 10.0)))
def test_a_kd_is_tckd_and_what_the_teacher_leaves_to_the_others_of_nckd(inputs):
    student, teacher, target = map(torch.tensor, inputs)
    by_row = [
        dkd_loss(*row, alpha=1.0, beta=float(1 - (row[1] / 4).softmax(1)[0, row[2][0]]))
        for row in zip(student.split(1), teacher.split(1), target.split(1), strict=True)
    ]
    torch.testing.assert_close(torch.stack(by_row).mean(), kd_loss(student, teacher), rtol=1e-6, atol=1e-12)


def test_with_two_classes_only_the_target_class_loss_is_left():
    student, teacher, target = torch.randn(4, 2).double(), torch.randn(4, 2).double(), torch.tensor([0, 1, 1, 0])
    assert float(dkd_loss(student, teacher, target, alpha=0.0)) == 0.0
    torch.testing.assert_close(dkd_loss(student, teacher, target), kd_loss(student, teacher))


def test_rows_without_a_label_are_left_out():
    student, teacher, target = torch.randn(4, 3), torch.randn(4, 3), torch.tensor([0, -100, 2, -100])
    kept = target >= 0
    torch.testing.assert_close(dkd_loss(student, teacher, target), dkd_loss(student[kept], teacher[kept], target[kept]))
    student.requires_grad_()
    value = dkd_loss(student, teacher, torch.full((4,), -100))
    value.backward()
    assert value.item() == 0.0
    assert not student.grad.any()


def test_of_a_mixture_the_likeliest_class_is_the_true_one():
    student, teacher = torch.randn(2, 3), torch.randn(2, 3)
    mixed = torch.tensor([[0.3, 0.7, 0.0], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(dkd_loss(student, teacher, mixed), dkd_loss(student, teacher, torch.tensor([1, -100])))


def test_targets_are_selected_for_valid_teacher_samples():
    context = make_context()
    present = torch.tensor([True, False, True, True, False, True])
    partial = replace(context, teacher=replace(context.teacher, valid=present))
    expected = dkd_loss(
        context.student.require_logits()[present], context.teacher.require_logits()[present], context.target[present]
    )  # fmt: skip
    torch.testing.assert_close(DKDLoss()(partial), expected)


def test_targets_of_rows_follow_their_sample():
    draw = torch.Generator().manual_seed(0)
    sample, present = torch.tensor([0, 0, 1, 1, 1]), torch.tensor([False, True])
    outputs = [Outputs(logits=torch.randn(5, 3, generator=draw), row_to_sample=sample) for _ in range(2)]
    target = torch.tensor([0, 1, 2, 0, 1])
    context = replace(
        make_context(), student=outputs[0], teacher=replace(outputs[1], valid=present), teachers={}, target=target
    )
    expected = dkd_loss(outputs[0].require_logits()[2:], outputs[1].require_logits()[2:], target[2:])
    torch.testing.assert_close(DKDLoss()(context), expected)


def test_half_precision_is_computed_in_float32():
    target = np.array([0, 6, 3, 1, 2])
    for pair, arrays in shared.halves(5, 7, scale=5.0):
        value = dkd_loss(*pair, torch.tensor(target))
        assert value.dtype == torch.float32
        assert float(value) == pytest.approx(paper(*arrays, target, 1.0, 8.0, 4.0), rel=1e-5)


def test_extreme_logits_have_a_finite_value_and_gradient():
    assert shared.finite_at(dkd_loss, torch.tensor([0, 1]))
    assert shared.finite_at(dkd_loss, torch.tensor([1, 0]), temperature=1.0)


def test_the_gradient_is_that_of_finite_differences():
    assert shared.right_gradient(dkd_loss, 3, 4, target=torch.tensor([0, 3, 1]), temperature=2.0)


def test_a_temperature_by_row_scales_each_row_by_its_own_square():
    student, teacher, target = torch.randn(2, 3).double(), torch.randn(2, 3).double(), torch.tensor([0, 2])
    each = [dkd_loss(student[i : i + 1], teacher[i : i + 1], target[i : i + 1], temperature=1.0 + i) for i in (0, 1)]
    together = dkd_loss(student, teacher, target, temperature=torch.tensor([1.0, 2.0]))
    torch.testing.assert_close(together, torch.stack(each).mean())


def test_a_teacher_without_valid_samples_gives_zero():
    assert float(DKDLoss()(shared.context_without_valid_samples())) == 0.0


def test_what_does_not_fit_is_refused():
    logits, target = torch.zeros(2, 3), torch.zeros(2, dtype=torch.long)
    with pytest.raises(LimbeckError, match=r"\[2, 3\].*\[2, 4\].*same rows with the same classes"):
        dkd_loss(logits, torch.zeros(2, 4), target)
    with pytest.raises(LimbeckError, match=r"the target of logits \[2, \d\] must be .*got \[3\]"):
        dkd_loss(logits, logits, torch.zeros(3, dtype=torch.long))
    with pytest.raises(LimbeckError, match=r"give target\.long"):
        dkd_loss(logits, logits, torch.zeros(2))
    with pytest.raises(LimbeckError, match="at least 2 classes"):
        dkd_loss(logits[:, :1], logits[:, :1], target)
    with pytest.raises(LimbeckError, match="above zero"):
        DKDLoss(temperature=0.0)
    with pytest.raises(LimbeckError, match="the batch has none"):
        DKDLoss()(replace(make_context(), target=None))
