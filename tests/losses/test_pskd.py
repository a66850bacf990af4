"""PS-KD: cross-entropy with labels softened by the previous predictions of the student."""

import runpy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck import schedules
from limbeck.core.errors import LimbeckError
from limbeck.core.progress import Progress
from limbeck.losses import PSKDLoss, cross_entropy_loss, pskd_loss
from limbeck.testing import check_loss, make_context

paper = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("numpy_itself.py"))))
FEW = settings(deadline=None, max_examples=25, derandomize=True, database=None)


def by_paper(student, prior, target, alpha):
    """Kim et al., equations 3 and 4, row by row."""
    rows = []
    for z, past, label, share in zip(student, prior, target, np.broadcast_to(alpha, len(target)), strict=True):
        if label >= 0:
            expected_loss = (1 - share) * np.eye(len(z))[label] + share * paper.softmax(past[None])[0]
            rows.append(-np.sum(expected_loss * paper.log_softmax(z[None])[0]))
    return float(np.mean(rows)) if rows else 0.0


def test_it_passes_every_check():
    check_loss(PSKDLoss(), skip={"zero at agreement"})
    check_loss(PSKDLoss(alpha=schedules.linear(0.0, 0.5), teacher="teacher"), skip={"zero at agreement"})


def test_the_value_computed_by_hand():
    # Student (ln 3, 0): q = (3/4, 1/4). Prior (0, 0): p = (1/2, 1/2). Label 0, alpha 1/2: wanted (3/4, 1/4).
    # −3/4 ln(3/4) − 1/4 ln(1/4) = 0.562335.
    value = pskd_loss(torch.tensor([[np.log(3.0), 0.0]]), torch.zeros(1, 2), torch.tensor([0]), alpha=0.5)
    assert float(value) == pytest.approx(0.562335, abs=1e-6)


@FEW
@given(
    st.integers(0, 2**32 - 1), st.integers(1, 7), st.integers(2, 6), st.sampled_from([1e-2, 1.0, 10.0, 1e4]),
    st.sampled_from(["free", "equal", "duplicates"]), st.booleans(),
)  # fmt: skip
def test_it_agrees_with_the_paper_in_numpy(seed, rows, classes, scale, case, by_row):
    student, prior, alpha = paper.drawn(seed, (rows, classes), (rows, classes), (rows,), scale=scale)
    if case == "equal":
        prior = student.copy()
    if case == "duplicates":
        student, prior = np.repeat(student[:1], rows, axis=0), np.repeat(prior[:1], rows, axis=0)
    target = np.random.default_rng(seed).integers(-1, classes, rows)
    alpha = np.abs(np.sin(alpha)) if by_row else 0.3
    value = pskd_loss(
        torch.tensor(student), torch.tensor(prior), torch.tensor(np.where(target < 0, -100, target)),
        alpha=torch.tensor(alpha) if by_row else alpha,
    )  # fmt: skip
    assert float(value) == pytest.approx(by_paper(student, prior, target, alpha), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    student, prior = (torch.tensor(z).to(dtype) for z in paper.drawn(0, (5, 4), (5, 4)))
    value = pskd_loss(student, prior, torch.tensor([0, 1, 2, 3, 0]), alpha=0.4)
    expected = by_paper(student.double().numpy(), prior.double().numpy(), [0, 1, 2, 3, 0], 0.4)
    assert value.dtype == torch.float32
    assert float(value) == pytest.approx(expected, rel=1e-5)


def test_the_gradient_is_right_and_reaches_nothing_of_the_past():
    student, prior = (torch.tensor(z, requires_grad=True) for z in paper.drawn(1, (3, 4), (3, 4)))
    target = torch.tensor([0, -100, 3])
    assert torch.autograd.gradcheck(lambda s: pskd_loss(s, prior.detach(), target, alpha=0.3), student)
    pskd_loss(student, prior, target).backward()
    assert prior.grad is None


def test_label_probabilities_are_softened_alike():
    student, prior = (torch.tensor(z) for z in paper.drawn(2, (3, 4), (3, 4)))
    label = torch.tensor([1, 0, 3])
    probabilities = torch.nn.functional.one_hot(label, 4).double()
    torch.testing.assert_close(pskd_loss(student, prior, probabilities), pskd_loss(student, prior, label))


def test_the_share_grows_with_the_epochs_up_to_alpha():
    shares = [PSKDLoss(alpha=0.8).current_alpha(Progress(step=e, steps=4, epoch=e, epochs=4)) for e in range(4)]
    assert shares == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert PSKDLoss(alpha=schedules.linear(0, 1)).current_alpha(Progress(step=1, steps=4)) == 0.25


def test_an_unseen_sample_uses_its_label_only():
    context = make_context(rows=4, progress=Progress(step=3, steps=4, epoch=3, epochs=4))
    nothing = replace(context.teacher, valid=torch.zeros(4, dtype=torch.bool))
    value = PSKDLoss()(replace(context, teacher=nothing))
    torch.testing.assert_close(value, cross_entropy_loss(context.student.require_logits(), context.target))


def test_no_label_at_all_gives_zero():
    student = torch.randn(2, 3, requires_grad=True)
    value = pskd_loss(student, torch.randn(2, 3), torch.tensor([-100, -100]))
    value.backward()
    assert value.item() == 0.0


def test_wrong_shapes_and_shares_raise_errors():
    with pytest.raises(LimbeckError, match=r"\[2, 3\].*\[2, 4\]"):
        pskd_loss(torch.zeros(2, 3), torch.zeros(2, 4), torch.zeros(2))
    with pytest.raises(LimbeckError, match=r"the target of logits \[2, \d\] must be .*got \[3"):
        pskd_loss(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(3))
    for share in (-0.1, 1.5):
        with pytest.raises(LimbeckError, match=r"alpha must be in \[0, 1\]"):
            PSKDLoss(alpha=share)
        with pytest.raises(LimbeckError, match=r"alpha must be in \[0, 1\]"):
            pskd_loss(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2), alpha=share)
