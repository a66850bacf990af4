"""cskd_loss is τ² · mean KL of a partner of the same class to the student."""

import runpy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.core.errors import LimbeckError
from limbeck.losses import CSKDLoss, cskd_loss
from limbeck.testing import check_loss, make_context

paper = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("numpy_itself.py"))))
FEW = settings(deadline=None, max_examples=25, derandomize=True, database=None)


def pairs(**settings):
    """A context whose second half has the labels of the first."""
    context = make_context(**settings)
    half = len(context.target) // 2
    return replace(context, target=torch.cat([context.target[:half], context.target[:half]]))


def test_it_passes_every_check():
    # Repeating the batch row after row is no batch of pairs any more, and there is no teacher to agree with.
    check_loss(CSKDLoss(), context_factory=pairs, skip={"zero at agreement", "unchanged by repetition"})


def test_the_value_computed_by_hand():
    # tau 2. Partner (2 ln 3, 0): softened p = (3/4, 1/4). Student (0, 0): q = (1/2, 1/2).
    # KL = 3/4 ln(3/2) + 1/4 ln(1/2) = 0.130812; times tau² = 4: 0.523248.
    value = cskd_loss(torch.zeros(1, 2), torch.tensor([[2 * np.log(3.0), 0.0]]), temperature=2.0)
    assert float(value) == pytest.approx(0.523248, abs=1e-6)


@FEW
@given(
    st.integers(0, 2**32 - 1), st.integers(1, 7), st.integers(2, 6), st.sampled_from([1e-2, 1.0, 10.0, 1e4]),
    st.sampled_from(["free", "equal", "duplicates"]), st.floats(0.5, 8.0),
)  # fmt: skip
def test_it_agrees_with_the_paper_in_numpy(seed, rows, classes, scale, case, tau):
    student, partner = paper.drawn(seed, (rows, classes), (rows, classes), scale=scale)
    if case == "equal":
        partner = student.copy()
    if case == "duplicates":
        student, partner = np.repeat(student[:1], rows, axis=0), np.repeat(partner[:1], rows, axis=0)
    value = cskd_loss(torch.tensor(student), torch.tensor(partner), temperature=tau)
    assert float(value) == pytest.approx(paper.kl(partner, student, tau), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    student, partner = (torch.tensor(z).to(dtype) for z in paper.drawn(0, (5, 4), (5, 4)))
    value = cskd_loss(student, partner, temperature=4.0)
    assert value.dtype == torch.float32
    assert float(value) == pytest.approx(paper.kl(partner.double(), student.double(), 4.0), rel=1e-5)


def test_the_gradient_is_right_and_does_not_pass_through_the_partner():
    student, partner = (torch.tensor(z, requires_grad=True) for z in paper.drawn(1, (3, 4), (3, 4)))
    assert torch.autograd.gradcheck(lambda s: cskd_loss(s, partner.detach()), student)
    cskd_loss(student, partner).backward()
    assert partner.grad is None


def test_the_class_compares_the_first_half_with_the_second_and_leaves_the_unlabeled_out():
    context = pairs(rows=6)
    rows = context.student.require_logits()
    torch.testing.assert_close(CSKDLoss()(context), cskd_loss(rows[:3], rows[3:]))
    unlabelled = context.target.clone()
    unlabelled[[0, 3]] = -100
    torch.testing.assert_close(CSKDLoss()(replace(context, target=unlabelled)), cskd_loss(rows[1:3], rows[4:]))


def test_a_batch_without_pairs_is_refused_with_what_to_set():
    context = replace(make_context(rows=4), target=torch.tensor([0, 1, 0, 2]))
    with pytest.raises(LimbeckError, match='set batch_pairing="same_class"'):
        CSKDLoss()(context)
    with pytest.raises(LimbeckError, match="above zero"):
        CSKDLoss(temperature=0.0)
    with pytest.raises(LimbeckError, match="above zero"):
        cskd_loss(torch.zeros(1, 2), torch.zeros(1, 2), temperature=-1.0)
    with pytest.raises(LimbeckError, match="each row needs its partner"):
        cskd_loss(torch.zeros(1, 2), torch.zeros(2, 2))
