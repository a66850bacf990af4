"""Losses from hidden states and a head have the value and gradient of those on logits, without all logits in memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from limbeck.core.errors import LimbeckError
from limbeck.losses import (
    LinearLogits,
    cross_entropy_loss,
    jsd_loss,
    kd_loss,
    linear_cross_entropy_loss,
    linear_distillation_loss,
    linear_jsd_loss,
    linear_kd_loss,
    linear_reverse_kl_loss,
    reverse_kl_loss,
)

ROWS, CLASSES = 7, 11
BY_ROW = torch.linspace(1.0, 3.0, ROWS)
DIVERGENCES = {
    "kl": (linear_kd_loss, kd_loss, {}),
    "reverse_kl": (linear_reverse_kl_loss, reverse_kl_loss, {}),
    "jsd": (linear_jsd_loss, jsd_loss, {"beta": 0.3}),
}


def head(width, *, rows=ROWS, classes=CLASSES, bias=True, dtype=torch.float32, seed=0):
    """Random hidden states, weight and bias, as leaves that require gradients."""
    draw = torch.Generator().manual_seed(seed)
    shapes = [(rows, width), (classes, width), (classes,)][: 2 + bias]
    tensors = (torch.randn(*shape, generator=draw, dtype=torch.float64) for shape in shapes)
    return LinearLogits(*(tensor.to(dtype).requires_grad_() for tensor in tensors))


def pair(**options):
    """A student of width 3 and a teacher of width 5."""
    return head(3, **options), head(5, **options, seed=1)


def logits(linear):
    return F.linear(linear.hidden, linear.weight, linear.bias)


def labels(rows=ROWS, classes=CLASSES):
    target = torch.randint(classes, (rows,), generator=torch.Generator().manual_seed(2))
    target[2] = -100
    return target


def gradients(loss, linear):
    leaves = [tensor for tensor in (linear.hidden, linear.weight, linear.bias) if tensor is not None]
    return torch.autograd.grad(loss, leaves)


def assert_same(actual, expected, linear, tolerance=1e-5):
    """Equal value and gradients, relative to the largest entry of each gradient."""
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)
    for name, ours, plain in zip("hwb", gradients(actual, linear), gradients(expected, linear), strict=False):
        assert float((ours - plain).abs().max()) <= tolerance * float(plain.abs().max()), name


@pytest.mark.parametrize("chunk_rows", [None, 1, 3])
@pytest.mark.parametrize("temperature", [1.0, 2.5, BY_ROW], ids=["1", "2.5", "by row"])
@pytest.mark.parametrize("name", DIVERGENCES)
def test_a_divergence_is_that_of_the_logits(name, temperature, chunk_rows):
    fn, plain, options = DIVERGENCES[name]
    for bias in (False, True):
        for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-13)):
            student, teacher = pair(bias=bias, dtype=dtype)
            value = fn(student, teacher, temperature=temperature, chunk_rows=chunk_rows, **options)
            expected = plain(logits(student), logits(teacher), temperature=temperature, **options)
            assert value.dtype == dtype
            assert_same(value, expected, student, tolerance)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("chunk_rows", [None, 1, 4])
def test_cross_entropy_is_that_of_the_logits(chunk_rows, label_smoothing):
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-13)):
        student = head(3, dtype=dtype)
        value = linear_cross_entropy_loss(student, labels(), label_smoothing=label_smoothing, chunk_rows=chunk_rows)
        expected = cross_entropy_loss(logits(student), labels(), label_smoothing=label_smoothing)
        assert_same(value, expected, student, tolerance)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_both_in_one_pass_are_their_weighted_sum(name):
    _, plain, options = DIVERGENCES[name]
    student, teacher = pair(dtype=torch.float64)
    for temperature in (1.0, 2.0):
        value = linear_distillation_loss(
            student, teacher, labels(), target_weight=0.3, teacher_weight=2.0, divergence=name, chunk_rows=2,
            temperature=temperature, label_smoothing=0.1, **options,
        )  # fmt: skip
        divergence = plain(logits(student), logits(teacher), temperature=temperature, **options)
        expected = 0.3 * cross_entropy_loss(logits(student), labels(), label_smoothing=0.1) + 2.0 * divergence
        assert_same(value, expected, student, 1e-13)


def numpy_log_softmax(linear, tau, classes=CLASSES):
    hidden, weight, bias = (x.detach().double().numpy() for x in (linear.hidden, linear.weight, linear.bias))
    z = (hidden @ weight.T + bias)[:, :classes] / tau
    z = z - z.max(axis=1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=1, keepdims=True))


def test_values_agree_with_numpy():
    tau, beta, target = 2.0, 0.3, labels().numpy()
    student, teacher = pair()
    log_q, log_p = (numpy_log_softmax(linear, tau) for linear in (student, teacher))
    q, p = np.exp(log_q), np.exp(log_p)
    m = beta * p + (1 - beta) * q
    by_row = {
        "kl": p * (log_p - log_q),
        "reverse_kl": q * (log_q - log_p),
        "jsd": beta * p * (log_p - np.log(m)) + (1 - beta) * q * (log_q - np.log(m)),
    }
    for name, (fn, _, options) in DIVERGENCES.items():
        expected = tau**2 * by_row[name].sum(axis=1).mean()
        assert float(fn(student, teacher, temperature=tau, **options).detach()) == pytest.approx(expected, rel=1e-5)
    labeled = target >= 0
    nll = -numpy_log_softmax(student, 1.0)[labeled, target[labeled]].mean()
    assert float(linear_cross_entropy_loss(student, labels()).detach()) == pytest.approx(nll, rel=1e-5)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_the_gradient_is_that_of_finite_differences(name):
    student, teacher = pair(rows=3, classes=4, dtype=torch.float64)
    target = torch.tensor([1, -100, 3])

    def fn(hidden, weight, bias):
        linear = LinearLogits(hidden, weight, bias)
        return linear_distillation_loss(linear, teacher, target, divergence=name, temperature=2.0, chunk_rows=2)

    assert torch.autograd.gradcheck(fn, (student.hidden, student.weight, student.bias))


def test_a_teacher_may_give_logits_and_gets_no_gradient():
    student, teacher = pair()
    teacher_logits = logits(teacher).detach()
    before = teacher_logits.clone()
    value = linear_kd_loss(student, teacher_logits, chunk_rows=3)
    assert_same(value, kd_loss(logits(student), teacher_logits), student)
    assert torch.equal(teacher_logits, before)
    value = linear_kd_loss(student, teacher)
    value.backward()
    assert student.weight.grad is not None
    assert teacher.hidden.grad is teacher.weight.grad is teacher.bias.grad is None


def test_classes_beyond_the_vocabulary_are_masked_in_either_head():
    student, teacher = head(3, classes=13), head(5, classes=16, seed=1)
    for ours, theirs in ((student, teacher), (teacher, student)):
        value = linear_distillation_loss(ours, theirs, labels(), num_classes=CLASSES, temperature=2.0, chunk_rows=3)
        masked = [logits(x)[:, :CLASSES] for x in (ours, theirs)]
        expected = 0.1 * cross_entropy_loss(masked[0], labels()) + 0.9 * kd_loss(*masked, temperature=2.0)
        assert_same(value, expected, ours)
        _, weight, bias = gradients(linear_kd_loss(ours, theirs, num_classes=CLASSES), ours)
        assert not weight[CLASSES:].any()
        assert not bias[CLASSES:].any()


@pytest.mark.parametrize("name", DIVERGENCES)
def test_a_class_of_bias_minus_infinity_in_both_is_ignored(name):
    fn, _, options = DIVERGENCES[name]
    student, teacher = pair()
    expected = fn(student, teacher, num_classes=CLASSES - 1, temperature=0.5, **options)
    masked = [
        LinearLogits(x.hidden, x.weight, torch.cat([x.bias[:-1], torch.tensor([-torch.inf])]))
        for x in (student, teacher)
    ]
    value = fn(*masked, temperature=0.5, **options)
    torch.testing.assert_close(value, expected)
    for actual, plain in zip(gradients(value, student), gradients(expected, student), strict=True):
        torch.testing.assert_close(actual, plain)


def test_row_weights_are_factors_and_booleans_leave_rows_out():
    student, teacher = pair(dtype=torch.float64)
    mask = torch.tensor([True, False, True, True, False, True, True])
    kept = LinearLogits(student.hidden[mask], student.weight, student.bias)
    kept_teacher = LinearLogits(teacher.hidden[mask], teacher.weight, teacher.bias)
    value = linear_distillation_loss(student, teacher, labels(), row_weights=mask, chunk_rows=3)
    assert_same(value, linear_distillation_loss(kept, kept_teacher, labels()[mask]), student, 1e-13)
    weights = torch.rand(ROWS, dtype=torch.float64)
    weights[3] = 0.0
    by_row = torch.stack([kd_loss(logits(student)[i : i + 1], logits(teacher)[i : i + 1]) for i in range(ROWS)])
    assert_same(linear_kd_loss(student, teacher, row_weights=weights), (weights * by_row).mean(), student, 1e-12)


def test_without_a_label_or_a_row_the_loss_and_its_gradient_are_zero():
    student, teacher = pair()
    empty, empty_teacher = pair(rows=0)
    no_label = torch.full((ROWS,), -100)
    for loss, linear in (
        (linear_cross_entropy_loss(student, no_label), student),
        (linear_kd_loss(student, teacher, row_weights=torch.zeros(ROWS)), student),
        (linear_cross_entropy_loss(empty, no_label[:0]), empty),
        (linear_kd_loss(empty, empty_teacher), empty),
    ):
        assert float(loss.detach()) == 0.0
        assert not any(gradient.any() for gradient in gradients(loss, linear))


def test_accumulated_batches_give_the_gradient_of_the_whole_however_they_are_cut():
    student, teacher = pair(dtype=torch.float64)
    counts = {"num_rows": ROWS, "num_labeled": torch.tensor(ROWS - 1)}
    for size in (1, 3):
        whole = linear_distillation_loss(student, teacher, labels())
        parts = [slice(start, start + size) for start in range(0, ROWS, size)]
        total = sum(
            linear_distillation_loss(
                LinearLogits(student.hidden[rows], student.weight, student.bias),
                LinearLogits(teacher.hidden[rows], teacher.weight, teacher.bias), labels()[rows], **counts,
            )
            for rows in parts
        )  # fmt: skip
        assert_same(total, whole, student, 1e-13)


def test_the_gradient_is_scaled_by_the_incoming_one_and_computed_twice():
    student, teacher = pair(dtype=torch.float64)
    loss = linear_kd_loss(student, teacher)
    plain = gradients(kd_loss(logits(student), logits(teacher)), student)
    leaves = (student.hidden, student.weight, student.bias)
    for factor in (1.0, 0.5, 1.0):
        scaled = torch.autograd.grad(loss, leaves, torch.tensor(factor, dtype=torch.float64), retain_graph=True)
        for actual, expected in zip(scaled, plain, strict=True):
            torch.testing.assert_close(actual, factor * expected)
    (3 * loss).backward()
    torch.testing.assert_close(student.weight.grad, 3 * plain[1])


def test_a_second_derivative_is_refused():
    student, teacher = pair()
    (gradient,) = torch.autograd.grad(linear_kd_loss(student, teacher), student.hidden, create_graph=True)
    with pytest.raises(LimbeckError, match="has no second derivative: use a loss on logits, such as KDLoss"):
        gradient.square().sum().backward()


class Largest(TorchDispatchMode):
    """Records the largest tensor that any operation returns."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_tensor_of_all_rows_and_classes_is_made(dtype):
    rows, classes, chunk_rows = 96, 500, 8
    student, teacher = pair(rows=rows, classes=classes, bias=False, dtype=dtype)
    with Largest() as largest:
        linear_distillation_loss(student, teacher, labels(rows, classes), chunk_rows=chunk_rows).backward()
    assert 0 < largest.numel <= chunk_rows * classes
    with Largest() as largest:
        kd_loss(logits(student), logits(teacher)).backward()
    assert largest.numel == rows * classes


def test_a_frozen_head_gets_no_gradient_and_none_is_computed():
    student, teacher = pair(rows=2, classes=50, bias=False)
    frozen = LinearLogits(student.hidden, student.weight.detach())
    with Largest() as largest:
        value = linear_kd_loss(frozen, teacher, chunk_rows=1)
        (gradient,) = torch.autograd.grad(value, student.hidden)
    assert largest.numel == teacher.weight.numel()  # as a view; the student's is smaller
    expected = torch.autograd.grad(kd_loss(logits(student), logits(teacher)), student.hidden)[0]
    torch.testing.assert_close(gradient, expected)
    with torch.no_grad(), Largest():
        assert not linear_kd_loss(student, teacher).requires_grad


def test_half_precision_is_accumulated_in_float32():
    exact_student, exact_teacher = pair(rows=40, dtype=torch.float64)
    for dtype, tolerance in ((torch.bfloat16, 2e-2), (torch.float16, 2e-3)):
        student, teacher = (
            LinearLogits(*(t.detach().to(dtype).requires_grad_() for t in (x.hidden, x.weight, x.bias)))
            for x in (exact_student, exact_teacher)
        )
        value = linear_kd_loss(student, teacher, temperature=2.0, chunk_rows=7)
        expected = kd_loss(logits(exact_student), logits(exact_teacher), temperature=2.0)
        assert value.dtype == torch.float32
        torch.testing.assert_close(value.double(), expected, rtol=tolerance, atol=tolerance)
        for actual, exact in zip(gradients(value, student), gradients(expected, exact_student), strict=True):
            assert actual.dtype == dtype
            assert float((actual.double() - exact).abs().max()) < tolerance * float(exact.abs().max())


def test_products_are_in_the_dtype_of_autocast():
    student, teacher = pair()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = linear_kd_loss(student, teacher)
        expected = kd_loss(logits(student), logits(teacher))
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
    for actual, plain in zip(gradients(value, student), gradients(expected, student), strict=True):
        assert actual.dtype == torch.float32
        torch.testing.assert_close(actual, plain, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_extreme_logits_have_a_finite_value_and_gradient(name):
    fn, plain, options = DIVERGENCES[name]
    identity = torch.eye(3)
    student = LinearLogits(torch.tensor([[1e4, -1e4, 0.0], [0.0, 1e4, 1e4]]).requires_grad_(), identity)
    teacher = LinearLogits(torch.tensor([[-1e4, 1e4, 0.0], [1e4, 0.0, -1e4]]), identity)
    value = fn(student, teacher, **options)
    torch.testing.assert_close(value, plain(student.hidden, teacher.hidden, **options))
    assert torch.isfinite(torch.autograd.grad(value, student.hidden)[0]).all()


def test_networks_that_agree_have_no_divergence():
    student = head(3)
    for fn, _, options in DIVERGENCES.values():
        value = fn(student, student, **options)
        assert float(value.detach()) == 0.0
        assert float(gradients(value, student)[0].abs().max()) < 1e-6


def refused(match, fn, *arguments, **options):
    with pytest.raises(LimbeckError, match=match):
        fn(*arguments, **options)


def test_what_does_not_fit_is_refused_in_one_sentence():
    student, teacher = pair()
    refused(r"\[2, 3\] and \[5, 4\]: flatten", LinearLogits, torch.zeros(2, 3), torch.zeros(5, 4))
    refused(r"5 classes must be \[5\], got \[4\]", LinearLogits, torch.zeros(2, 3), torch.zeros(5, 3), torch.zeros(4))
    refused("has 11 classes and the teacher's 12.*num_classes", linear_kd_loss, student, head(5, classes=12))
    refused("from 2 to 11, those of the head, got 12", linear_kd_loss, student, teacher, num_classes=12)
    refused("at least 2 classes for a softmax", linear_kd_loss, head(3, classes=1), head(3, classes=1))
    refused("same rows, got 7 and 6", linear_kd_loss, student, head(5, rows=6))
    refused(
        "labels must be from 0 to 10, got -1 to 9", linear_cross_entropy_loss, student, torch.tensor([9] * 6 + [-1])
    )
    refused("labels must be from 0 to 4, got", linear_cross_entropy_loss, student, labels(), num_classes=5)
    refused(r"must be \[7\] class indices, got \[7, 11\]", linear_cross_entropy_loss, student, logits(student))
    refused(r"row_weights must be \[7\], got \[6\]", linear_kd_loss, student, teacher, row_weights=torch.ones(6))
    refused("above zero, got 0", linear_kd_loss, student, teacher, num_rows=0)
    refused("above zero", linear_kd_loss, student, teacher, temperature=0.0)
    refused("detach it", linear_kd_loss, student, teacher, temperature=BY_ROW.clone().requires_grad_())
    refused("kl, reverse_kl or jsd, got 'js'", linear_distillation_loss, student, teacher, labels(), divergence="js")
    refused(r"beta must be in \(0, 1\)", linear_jsd_loss, student, teacher, beta=1.0)
    refused(r"label_smoothing must be in \[0, 1\)", linear_cross_entropy_loss, student, labels(), label_smoothing=1.0)
    refused("chunk_rows must be at least 1, got 0", linear_kd_loss, student, teacher, chunk_rows=0)
