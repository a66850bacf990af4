"""sp_loss is ‖S − T‖² / batch², S and T the row-normalized F·Fᵀ."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import LossContext
from limbeck.core.outputs import Outputs
from limbeck.losses import SPLoss, sp_loss
from limbeck.testing import check_loss, make_context

FEW = settings(deadline=None, max_examples=25, derandomize=True, database=None)
HALVED = {"unchanged by repetition"}  # the paper's division by batch² halves it; tested below


def paper(student, teacher):
    def matrix(features):
        rows = features.reshape(len(features), -1)
        products = rows @ rows.T
        norms = np.sqrt(np.square(products).sum(axis=1, keepdims=True))
        return products / np.maximum(norms, 1e-12)

    return float(np.square(matrix(student) - matrix(teacher)).sum() / len(student) ** 2)


@st.composite
def features(draw):
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    batch = draw(st.integers(1, 5))
    return tuple(
        random.normal(size=(batch, *(draw(st.integers(1, 4)) for _ in range(draw(st.integers(1, 3))))))
        * draw(st.sampled_from([0.0, 1.0, 1e3]))
        for _ in range(2)
    )


@pytest.mark.parametrize(("student", "teacher"), [((8, 4, 4), (8, 4, 4)), ((8, 4, 4), (3, 2, 2)), ((4,), (6, 5))])
def test_it_passes_every_check_but_that_on_repetition(student, teacher):
    make = partial(make_context, student_feature_shapes={"mid": student}, teacher_feature_shapes={"mid": teacher})
    check_loss(SPLoss("mid"), context_factory=make, skip=HALVED)


def test_the_value_computed_by_hand():
    # Student rows (3, 0) and (0, 1): products [[9, 0], [0, 1]], rows of length 1: [[1, 0], [0, 1]].
    # Teacher rows (1, 0) and (1, 0): products all 1, rows of length 1: all 1/√2.
    # (1 − 1/√2)² · 2 + (1/√2)² · 2 = 4 − 2√2, by 2²: 1 − 1/√2.
    value = sp_loss(torch.tensor([[3.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    assert float(value) == pytest.approx(1 - 0.5**0.5, rel=1e-6)


@FEW
@given(features())
def test_it_agrees_with_the_paper_in_numpy(pair):
    student, teacher = pair
    assert float(sp_loss(*map(torch.tensor, pair))) == pytest.approx(paper(student, teacher), rel=1e-6, abs=1e-12)


def test_rows_are_normalized_not_the_first_norm():
    """``normalize(x, 1)`` is the norm of order 1: a slip that gives another number."""
    student, teacher = np.random.default_rng(0).normal(size=(2, 4, 6))
    wrong = [torch.nn.functional.normalize(torch.tensor(x @ x.T), 1) for x in (student, teacher)]
    slipped = float((wrong[0] - wrong[1]).square().sum() / 16)
    assert abs(slipped / paper(student, teacher) - 1) > 0.3
    assert float(sp_loss(torch.tensor(student), torch.tensor(teacher))) == pytest.approx(paper(student, teacher))


def test_the_same_samples_twice_cost_half():
    student, teacher = torch.randn(3, 4).double(), torch.randn(3, 4).double()
    twice = sp_loss(student.repeat(2, 1), teacher.repeat(2, 1))
    torch.testing.assert_close(twice, sp_loss(student, teacher) / 2)


def test_the_order_of_channels_and_a_rotation_do_not_matter():
    student, teacher = torch.randn(4, 6).double(), torch.randn(4, 5).double()
    rotation = torch.linalg.qr(torch.randn(6, 6).double())[0]
    torch.testing.assert_close(sp_loss(student @ rotation, teacher), sp_loss(student, teacher))


def test_the_gradient_is_that_of_finite_differences():
    student, teacher = torch.randn(3, 2, 2).double().requires_grad_(), torch.randn(3, 4).double()
    assert torch.autograd.gradcheck(lambda s: sp_loss(s, teacher), student)


def test_a_teacher_without_valid_samples_gives_zero():
    no_samples = Outputs(features={"mid": torch.randn(2, 5)}, valid=torch.tensor([False, False]))
    context = LossContext(student=Outputs(features={"mid": torch.randn(2, 3)}), teacher=no_samples)
    assert float(SPLoss("mid")(context)) == 0.0


def test_unequal_batches_are_refused_with_both_sizes():
    with pytest.raises(LimbeckError, match=r"sp relates .*\[2, .*\[3, "):
        sp_loss(torch.zeros(2, 4), torch.zeros(3, 4))
