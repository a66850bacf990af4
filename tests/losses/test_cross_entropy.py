"""cross_entropy_loss is the mean over labeled rows of −log q(target), for class indices and probabilities."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import LossContext
from limbeck.core.outputs import Outputs
from limbeck.losses import CrossEntropyLoss, cross_entropy_loss
from limbeck.testing import check_loss

FEW = settings(deadline=None, max_examples=25, derandomize=True, database=None)


def paper(student, expected, smoothing):
    """Szegedy et al., section 7: −Σ ((1 − ε)·wanted + ε / classes) · log q; rows without a label are NaN."""
    z = student - student.max(axis=1, keepdims=True)
    log_q = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
    expected = (1 - smoothing) * expected + smoothing / student.shape[1]
    labelled = ~np.isnan(expected).any(axis=1)
    return float(-(expected * log_q).sum(axis=1)[labelled].mean()) if labelled.any() else 0.0


@st.composite
def cases(draw):
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows, classes = draw(st.integers(1, 7)), draw(st.integers(2, 9))
    student = random.normal(size=(rows, classes)) * draw(st.sampled_from([1e-2, 1.0, 10.0, 1e4]))
    if draw(st.booleans()):
        student = np.repeat(student[:1], rows, axis=0)
    return student, random, draw(st.sampled_from([0.0, 0.1, 0.9]))


def test_it_passes_every_check_but_zero_at_agreement():
    # To say what the teacher says is not to say what is true.
    check_loss(CrossEntropyLoss(), skip={"zero at agreement"})


def test_smoothing_fails_the_check_of_the_impossible_class():
    # The uniform share falls on every class, so a class of probability zero costs without bound.
    check_loss(CrossEntropyLoss(label_smoothing=0.1), skip={"zero at agreement", "unchanged by an impossible class"})


def test_the_value_computed_by_hand():
    # Logits (ln 3, 0): q = (3/4, 1/4). Row 1 wants class 0: −ln 3/4 = 0.287682; row 2 wants class 1: −ln 1/4 =
    # 1.386294; row 3 has no label. Mean of two: 0.836988.
    value = cross_entropy_loss(torch.tensor([[np.log(3.0), 0.0]]).repeat(3, 1), torch.tensor([0, 1, -100]))
    assert float(value) == pytest.approx(0.836988, abs=1e-6)


def test_smoothing_computed_by_hand():
    # q = (3/4, 1/4), wanted (0.9, 0.1) after smoothing 0.2 of class 0: 0.9·0.287682 + 0.1·1.386294 = 0.397543.
    value = cross_entropy_loss(torch.tensor([[np.log(3.0), 0.0]]), torch.tensor([0]), label_smoothing=0.2)
    assert float(value) == pytest.approx(0.397543, abs=1e-6)


@FEW
@given(cases())
def test_class_numbers_agree_with_numpy(case):
    student, random, smoothing = case
    target = random.integers(-1, student.shape[1], size=len(student))
    expected = np.eye(student.shape[1])[target] * np.where(target < 0, np.nan, 1.0)[:, None]
    value = cross_entropy_loss(
        torch.tensor(student), torch.tensor(np.where(target < 0, -100, target)), label_smoothing=smoothing
    )
    assert float(value) == pytest.approx(paper(student, expected, smoothing), rel=1e-6, abs=1e-12)


@FEW
@given(cases())
def test_probabilities_agree_with_numpy(case):
    student, random, smoothing = case
    expected = random.dirichlet(np.ones(student.shape[1]), size=len(student))
    value = cross_entropy_loss(torch.tensor(student), torch.tensor(expected), label_smoothing=smoothing)
    assert float(value) == pytest.approx(paper(student, expected, smoothing), rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_one_hot_probabilities_cost_what_class_numbers_cost(smoothing):
    student, target = torch.randn(6, 4), torch.tensor([0, 3, 1, 1, 2, 0])
    one_hot = torch.nn.functional.one_hot(target, 4).float()
    torch.testing.assert_close(
        cross_entropy_loss(student, one_hot, label_smoothing=smoothing),
        cross_entropy_loss(student, target, label_smoothing=smoothing),
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_batch_without_any_label_gives_zero_with_a_gradient_of_zero(smoothing):
    student = torch.randn(3, 4, requires_grad=True)
    value = cross_entropy_loss(student, torch.full((3,), -100), label_smoothing=smoothing)
    value.backward()
    assert value.item() == 0.0
    assert torch.equal(student.grad, torch.zeros(3, 4))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_row_of_zero_probabilities_has_no_label(smoothing):
    # What a mixture with a sample without a label becomes: neither its share of the mean nor of the gradient is there.
    student = torch.randn(4, 3, requires_grad=True)
    target = torch.tensor([[0.25, 0.75, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    value = cross_entropy_loss(student, target, label_smoothing=smoothing)
    expected = np.where(target.numpy().any(1, keepdims=True), target.numpy(), np.nan)
    assert value.item() == pytest.approx(paper(student.detach().double().numpy(), expected, smoothing), rel=1e-6)
    value.backward()
    assert (student.grad[[1, 3]] == 0).all()
    assert (student.grad[[0, 2]] != 0).all()
    no_samples = cross_entropy_loss(student, torch.zeros(4, 3), label_smoothing=smoothing)
    assert no_samples.item() == 0.0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("target", [torch.tensor([0, 1]), torch.tensor([[0.5, 0.5], [0.0, 1.0]])])
def test_half_precision_is_computed_in_float32(dtype, target):
    student = torch.tensor([[0.3, -1.7], [2.1, 0.4]]).to(dtype)
    value = cross_entropy_loss(student, target)
    assert value.dtype == torch.float32
    expected = target.numpy() if target.ndim == 2 else np.eye(2)[target.numpy()]
    assert float(value) == pytest.approx(paper(student.double().numpy(), expected, 0.0), rel=1e-5)


@pytest.mark.parametrize("target", [torch.tensor([0, 2, -100]), torch.tensor([[0.2, 0.3, 0.5]] * 3)])
def test_the_gradient_is_that_of_finite_differences(target):
    student = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: cross_entropy_loss(s, target, label_smoothing=0.1), student)


def test_an_impossible_class_that_is_excluded_adds_nothing():
    student = torch.tensor([[0.0, 1.0, -torch.inf]], requires_grad=True)
    value = cross_entropy_loss(student, torch.tensor([[0.5, 0.5, 0.0]]))
    torch.testing.assert_close(value, cross_entropy_loss(student[:, :2], torch.tensor([[0.5, 0.5]])))
    value.backward()
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, torch.uint8])
def test_class_numbers_come_in_any_integer_type(dtype):
    student = torch.randn(2, 3)
    torch.testing.assert_close(
        cross_entropy_loss(student, torch.tensor([0, 2], dtype=dtype)),
        cross_entropy_loss(student, torch.tensor([0, 2])),
    )


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        (torch.zeros(3, dtype=torch.long), r"the target of logits \[2, 4\] must be .*, got \[3\]"),
        (torch.zeros(2, 5), r"the target of logits \[2, 4\] must be .*, got \[2, 5\]"),
        (torch.zeros(2), r"class indices must be integers, got torch.float32: give target.long\(\)"),
    ],
)
def test_a_target_that_does_not_fit_is_refused_with_what_it_was(target, sentence):
    with pytest.raises(LimbeckError, match=sentence):
        cross_entropy_loss(torch.zeros(2, 4), target)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, float("nan")])
def test_smoothing_outside_its_range_is_refused(smoothing):
    with pytest.raises(LimbeckError, match=r"label_smoothing must be in \[0, 1\), got"):
        CrossEntropyLoss(label_smoothing=smoothing)


def test_a_batch_without_a_target_is_refused_by_the_class():
    with pytest.raises(LimbeckError, match="the batch has none: remove the loss, or add labels"):
        CrossEntropyLoss()(LossContext(student=Outputs(logits=torch.zeros(1, 2))))
