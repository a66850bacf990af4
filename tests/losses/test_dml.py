"""dml_loss is the mean over students of the KL divergences from the others."""

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
from limbeck.losses import DMLLoss, dml_loss
from limbeck.testing import check_loss, make_context

paper = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("numpy_itself.py"))))
FEW = settings(deadline=None, max_examples=25, derandomize=True, database=None)


def by_paper(students, tau):
    """Zhang et al., section 3.3: for each student the mean KL from the others, and the mean of that over students."""
    many = len(students)
    costs = [
        sum(paper.kl(students[j], students[k], tau) for j in range(many) if j != k) / (many - 1) for k in range(many)
    ]
    return float(np.mean(costs))


def peers(**settings):
    context = make_context(**settings)
    half = len(context.target) // 2
    return replace(context, target=torch.cat([context.target[:half], context.target[:half]]))


def test_it_passes_every_check():
    check_loss(DMLLoss(), context_factory=peers, skip={"zero at agreement", "unchanged by repetition"})


def test_the_value_computed_by_hand():
    # p = (3/4, 1/4), q = (1/2, 1/2): KL(p‖q) = 3/4 ln(3/2) + 1/4 ln(1/2) = 0.130812,
    # KL(q‖p) = 1/2 ln(2/3) + 1/2 ln 2 = 0.143841; their mean 0.137327.
    value = dml_loss([torch.tensor([[np.log(3.0), 0.0]]), torch.zeros(1, 2)])
    assert float(value) == pytest.approx(0.137327, abs=1e-6)


@FEW
@given(
    st.integers(0, 2**32 - 1), st.integers(2, 4), st.integers(1, 5), st.integers(2, 6),
    st.sampled_from([1e-2, 1.0, 10.0, 1e4]), st.booleans(), st.floats(0.5, 5.0),
)  # fmt: skip
def test_it_agrees_with_the_paper_in_numpy(seed, many, rows, classes, scale, equal, tau):
    students = paper.drawn(seed, *[(rows, classes)] * many, scale=scale)
    students = [students[0]] * many if equal else students
    value = dml_loss([torch.tensor(z) for z in students], temperature=tau)
    assert float(value) == pytest.approx(by_paper(students, tau), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    students = [torch.tensor(z).to(dtype) for z in paper.drawn(0, (5, 4), (5, 4))]
    value = dml_loss(students)
    assert value.dtype == torch.float32
    assert float(value) == pytest.approx(by_paper([z.double() for z in students], 1.0), rel=1e-5)


def test_each_student_learns_from_the_other_as_from_a_frozen_teacher():
    one, other = (torch.tensor(z, requires_grad=True) for z in paper.drawn(1, (3, 4), (3, 4)))
    dml_loss([one, other]).backward()
    p, q = one.detach().softmax(1), other.detach().softmax(1)
    torch.testing.assert_close(one.grad, (p - q) / 3 / 2)
    torch.testing.assert_close(other.grad, (q - p) / 3 / 2)


def test_the_class_takes_the_rows_of_one_student_after_the_other():
    context = peers(rows=6)
    rows = context.student.require_logits()
    torch.testing.assert_close(DMLLoss(temperature=2.0)(context), dml_loss([rows[:3], rows[3:]], temperature=2.0))


def test_rows_that_are_not_those_of_peers_are_refused():
    context = replace(make_context(rows=4), target=torch.tensor([0, 1, 0, 2]))
    with pytest.raises(LimbeckError, match="got 4 rows that are not theirs"):
        DMLLoss()(context)
    with pytest.raises(LimbeckError, match=r"must be in \[2, inf\), got"):
        DMLLoss(num_peers=1)
    with pytest.raises(LimbeckError, match=r"must be in \[2, inf\), got"):
        dml_loss([torch.zeros(1, 2)])
    with pytest.raises(LimbeckError, match="above zero"):
        DMLLoss(temperature=0.0)
    with pytest.raises(LimbeckError, match="same rows with the same classes"):
        dml_loss([torch.zeros(1, 2), torch.zeros(1, 3)])
