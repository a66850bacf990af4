"""pkt_loss compares neighbor probabilities of a batch: cosines in 0..1, each row a distribution."""

from __future__ import annotations

import runpy
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given

from limbeck.core.errors import LimbeckError
from limbeck.losses import PKTLoss, pkt_loss
from limbeck.testing import check_loss, make_context

shared = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("numpy_relations.py"))))
HALVED = {"unchanged by repetition"}  # a mean over batch² entries of which each row sums to 1; tested below


def neighbours(features):
    rows = features.reshape(len(features), -1)
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    near = (rows @ rows.T + 1) / 2
    return near / near.sum(axis=1, keepdims=True)


def paper(student, teacher):
    q, p = neighbours(student), neighbours(teacher)
    return float((p * np.log((p + 1e-7) / (q + 1e-7))).mean())


@pytest.mark.parametrize(("student", "teacher"), [((8, 4, 4), (8, 4, 4)), ((8, 4, 4), (3, 2, 2)), ((4,), (6, 5))])
def test_it_passes_every_check_but_that_on_repetition(student, teacher):
    make = partial(make_context, student_feature_shapes={"mid": student}, teacher_feature_shapes={"mid": teacher})
    check_loss(PKTLoss("mid", teacher="teacher"), context_factory=make, skip=HALVED)


def test_the_value_computed_by_hand():
    # Student at right angles: (1, 1/2) over 3/2: (2/3, 1/3). Teacher the same twice: (1/2, 1/2).
    # Each row 1/2 ln 3/4 + 1/2 ln 3/2 = 1/2 ln 9/8, two rows over four entries: 1/4 ln 9/8.
    value = pkt_loss(torch.tensor([[3.0, 0.0], [0.0, 5.0]]), torch.tensor([[1.0], [2.0]]))
    assert float(value) == pytest.approx(0.25 * np.log(9 / 8), rel=1e-5)


@shared.FEW
@given(shared.features())
def test_it_agrees_with_the_paper_in_numpy(pair):
    assert shared.value(pkt_loss, *pair) == pytest.approx(paper(*pair), rel=1e-6, abs=1e-12)


def test_the_same_samples_twice_cost_half():
    student, teacher = torch.randn(3, 4).double(), torch.randn(3, 4).double()
    twice = pkt_loss(student.repeat(2, 1), teacher.repeat(2, 1))
    torch.testing.assert_close(twice, pkt_loss(student, teacher) / 2, rtol=1e-5, atol=0)


def test_opposite_samples_have_a_finite_value_and_gradient():
    student = torch.tensor([[1.0], [-1.0], [0.0]], requires_grad=True)
    value = pkt_loss(student, torch.tensor([[1.0], [1.0], [0.0]]))
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(student.grad).all()


def test_channels_last_memory_gives_the_same():
    student, teacher = torch.randn(4, 3, 4, 4), torch.randn(4, 5, 2, 2)
    last = (tensor.to(memory_format=torch.channels_last) for tensor in (student, teacher))
    torch.testing.assert_close(pkt_loss(*last), pkt_loss(student, teacher))


def test_half_precision_is_computed_in_float32():
    for pair, arrays in shared.halves(5, 3, 4, scale=100.0):
        value = pkt_loss(*pair)
        assert value.dtype == torch.float32
        assert float(value) == pytest.approx(paper(*arrays), rel=1e-4)


def test_the_gradient_is_that_of_finite_differences():
    assert shared.right_gradient(pkt_loss, 4, 3, 2)


def test_a_teacher_without_valid_samples_gives_zero():
    assert float(PKTLoss("mid")(shared.context_without_valid_samples())) == 0.0


def test_unequal_batches_are_refused_with_both_shapes():
    with pytest.raises(LimbeckError, match=r"pkt relates .*\[2, 4\].*\[3, 4\]: use layers"):
        pkt_loss(torch.zeros(2, 4), torch.zeros(3, 4))
