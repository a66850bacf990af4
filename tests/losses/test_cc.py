"""cc_loss compares kernel matrices of a batch, Gaussian or bilinear, between features of length 1."""

from __future__ import annotations

import runpy
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from limbeck.core.errors import LimbeckError
from limbeck.losses import CCLoss, cc_loss
from limbeck.testing import check_loss, make_context

shared = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("numpy_relations.py"))))


def unit(features):
    rows = features.reshape(len(features), -1)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def gaussian(rows, gamma):
    squares = np.square(rows[:, None] - rows[None, :]).sum(axis=2)
    return np.exp(-gamma * squares)


def paper(student, teacher, gamma=0.4):
    return float(np.square(gaussian(unit(student), gamma) - gaussian(unit(teacher), gamma)).mean())


@pytest.mark.parametrize("kernel", ["gaussian", "bilinear"])
@pytest.mark.parametrize(("student", "teacher"), [((8, 4, 4), (8, 4, 4)), ((8, 4, 4), (3, 2, 2)), ((4,), (6, 5))])
def test_it_passes_every_check(student, teacher, kernel):
    make = partial(make_context, student_feature_shapes={"mid": student}, teacher_feature_shapes={"mid": teacher})
    check_loss(CCLoss("mid", kernel=kernel, teacher="teacher"), context_factory=make)


def test_the_value_computed_by_hand():
    # Student at right angles, teacher the same twice: off the diagonal 0 and 1, or exp(−2 gamma) and 1.
    student, teacher = torch.tensor([[3.0, 0.0], [0.0, 5.0]]), torch.tensor([[1.0], [2.0]])
    assert float(cc_loss(student, teacher, kernel="bilinear")) == pytest.approx(0.5, rel=1e-6)
    assert float(cc_loss(student, teacher)) == pytest.approx((1 - np.exp(-0.8)) ** 2 / 2, rel=1e-6)


# The paper's kernel by distances, of features that are not zero: of those one form says distance 0, the other cosine 0.
@shared.FEW
@given(shared.features(scales=(1e-2, 1.0, 1e4)), st.floats(0.05, 4.0))
def test_the_gaussian_agrees_with_the_paper_in_numpy(pair, gamma):
    assert shared.value(cc_loss, *pair, gamma=gamma) == pytest.approx(paper(*pair, gamma), rel=1e-6, abs=1e-12)


@shared.FEW
@given(shared.features())
def test_the_bilinear_agrees_with_numpy(pair):
    student, teacher = map(unit, pair)
    expected = np.square(student @ student.T - teacher @ teacher.T).mean()
    assert shared.value(cc_loss, *pair, kernel="bilinear") == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_the_papers_expansion_to_second_order_is_near():
    student, teacher = (unit(x) for x in np.random.default_rng(0).normal(size=(2, 6, 20)))
    expanded = []
    for rows in (student, teacher):
        products = 0.8 * rows @ rows.T
        expanded.append(np.exp(-0.8) * (1 + products + products**2 / 2))
    expected = np.square(expanded[0] - expanded[1]).mean()
    assert shared.value(cc_loss, student, teacher) == pytest.approx(expected, rel=0.05)


def test_channels_last_memory_gives_the_same():
    student, teacher = torch.randn(4, 3, 4, 4), torch.randn(4, 5, 2, 2)
    last = (tensor.to(memory_format=torch.channels_last) for tensor in (student, teacher))
    torch.testing.assert_close(cc_loss(*last), cc_loss(student, teacher))


def test_half_precision_is_computed_in_float32():
    for pair, arrays in shared.halves(5, 3, 4, scale=100.0):
        value = cc_loss(*pair)
        assert value.dtype == torch.float32
        assert float(value) == pytest.approx(paper(*arrays), rel=1e-4)


def test_the_gradient_is_that_of_finite_differences():
    assert shared.right_gradient(cc_loss, 4, 3, 2)
    assert shared.right_gradient(cc_loss, 4, 3, 2, kernel="bilinear")


def test_a_teacher_without_valid_samples_gives_zero():
    assert float(CCLoss("mid")(shared.context_without_valid_samples())) == 0.0


def test_what_does_not_fit_is_refused():
    with pytest.raises(LimbeckError, match=r"cc relates .*\[2, 4\].*\[3, 4\]: use layers"):
        cc_loss(torch.zeros(2, 4), torch.zeros(3, 4))
    with pytest.raises(LimbeckError, match="'gaussian' or 'bilinear', got 'rbf'"):
        CCLoss("mid", kernel="rbf")
    with pytest.raises(LimbeckError, match=r"gamma must be in \(0, inf\), got 0"):
        CCLoss("mid", gamma=0.0)
