"""pkd_loss is half the mean squared difference of features whose channels are standardized over the batch."""

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
from limbeck.losses import PKDLoss, pkd_loss
from limbeck.testing import check_loss, make_context

shared = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("numpy_features.py"))))

# The deviation is the unbiased one, as published, and n − 1 of n values is another share for twice as many.
REPEATED = "unchanged by repetition"


def paper(student, teacher):
    dims = tuple(axis for axis in range(student.ndim) if axis != 1)

    def standard(maps):
        centred = maps - maps.mean(axis=dims, keepdims=True)
        return centred / (maps.std(axis=dims, ddof=1, keepdims=True) + 1e-6)

    if student.size < 2 * student.shape[1]:
        return 0.0
    return np.square(standard(student) - standard(teacher)).mean() / 2


@pytest.mark.parametrize(
    ("student", "teacher"), [((8, 4, 4), (8, 4, 4)), ((8, 4, 4), (8, 2, 3)), ((6, 5), (6, 5)), ((5,), (5,))]
)
def test_it_passes_every_check_between_equal_channels_but_repetition(student, teacher):
    make = partial(make_context, student_feature_shapes={"mid": student}, teacher_feature_shapes={"mid": teacher})
    check_loss(PKDLoss("mid"), context_factory=make, skip={REPEATED})


def test_it_passes_every_check_but_zero_at_agreement_and_repetition_through_a_projection():
    make = partial(make_context, student_feature_shapes={"mid": (8, 4, 4)}, teacher_feature_shapes={"mid": (6, 2, 2)})
    check_loss(PKDLoss("mid", teacher="teacher"), context_factory=make, skip={"zero at agreement", REPEATED})


def test_the_value_computed_by_hand():
    # (0, 1, 2) becomes (−1, 0, 1), and so does (5, 7, 9); the teacher (1, −1, 0) stays. Against it, squares 4, 1, 1.
    student, teacher = torch.tensor([[0.0, 5.0], [1.0, 7.0], [2.0, 9.0]]), torch.tensor([[1.0, 0], [-1.0, 1], [0.0, 2]])
    assert float(pkd_loss(student, teacher)) == pytest.approx(6 / 6 / 2, abs=1e-5)


@shared.FEW
@given(shared.features())
def test_it_agrees_with_the_published_form_in_numpy(pair):
    shared.close(pkd_loss(*map(torch.tensor, pair)), paper(*pair))


@shared.FEW
@given(shared.features(rank=2))
def test_it_agrees_with_the_published_form_on_embeddings(pair):
    shared.close(pkd_loss(*map(torch.tensor, pair)), paper(*pair))


def test_it_is_one_minus_the_correlation_of_each_channel():
    random = np.random.default_rng(0)
    student, teacher = random.normal(size=(50, 1)), random.normal(size=(50, 1))
    expected = 49 / 50 * (1 - np.corrcoef(student[:, 0], teacher[:, 0])[0, 1])
    assert float(pkd_loss(torch.tensor(student), torch.tensor(teacher))) == pytest.approx(expected, rel=1e-5)


def test_scale_and_shift_of_a_channel_give_zero():
    student = torch.randn(3, 4, 5, 5)
    scale, shift = (torch.rand(4) + 0.5).view(1, 4, 1, 1), torch.randn(1, 4, 1, 1)
    assert float(pkd_loss(student, student * scale + shift)) == pytest.approx(0.0, abs=1e-8)


@pytest.mark.parametrize("height", [0.0, 0.1, 1e4])
def test_a_constant_channel_becomes_zero_and_gets_no_gradient(height):
    # Its computed mean is off by a rounding, which must not become a deviation of 1.
    student, teacher = torch.full((7, 1, 9, 9), height, requires_grad=True), torch.randn(7, 1, 9, 9)
    value = pkd_loss(student, teacher)
    value.backward()
    expected = paper(np.zeros(teacher.shape), teacher.double().numpy())
    assert float(value) == pytest.approx(expected, rel=1e-5)
    assert not student.grad.any()


def test_half_precision_is_computed_in_float32():
    shared.check_half(pkd_loss, paper, (2, 3, 4, 4), (2, 3, 4, 4))


def test_the_gradient_is_that_of_finite_differences():
    shared.check_gradient(pkd_loss, (2, 3, 2, 2), (2, 3, 2, 2))


def test_channels_last_memory_gives_the_same():
    shared.check_memory_order(pkd_loss, (2, 3, 4, 4), (2, 3, 4, 4))


def test_a_teacher_without_valid_samples_gives_zero():
    shared.check_no_valid_samples(PKDLoss("mid"), (2, 3, 4, 4), (2, 5, 2, 2))


def test_a_projection_may_be_moved_to_another_precision():
    shared.check_precisions(PKDLoss("mid"), (2, 3, 4, 4), (2, 5, 2, 2))


def test_an_unprepared_loss_names_the_call():
    shared.check_unprepared(PKDLoss("mid"))


def test_shapes_that_cannot_be_compared_are_refused():
    with pytest.raises(LimbeckError, match=r"\[2, 3, 4, 4\].*\[2, 5, 4, 4\]: the class PKDLoss projects"):
        pkd_loss(torch.zeros(2, 3, 4, 4), torch.zeros(2, 5, 4, 4))
    with pytest.raises(LimbeckError, match=r"features must be \[batch, channels, ...\]"):
        pkd_loss(torch.zeros(2), torch.zeros(2))
