"""Losses and gradients of a block of logits, ``[rows, classes]``, without autograd.

With p and q the teacher's and the student's softmax and r = log p − log q, a divergence is a function of (r, p, q).
With g its derivative in log q, its gradient in the student's logits is g − q · Σ g.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError
from limbeck.losses._ops import require_interval

Divergence = Literal["kl", "reverse_kl", "jsd"]
DivergenceFn = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""From r, p and q, which it may overwrite, the divergence of each row, ``[rows]``, and g."""


def divergence_fn(divergence: Divergence, *, beta: float) -> DivergenceFn:
    """The function of a divergence; ``beta`` is the teacher's weight in the mixture of ``jsd``."""
    return partial(_jsd, beta=beta) if divergence == "jsd" else _DIVERGENCES[divergence]


def require_divergence(divergence: str, beta: float) -> None:
    """Raise an error for an unknown divergence, or ``beta`` outside of (0, 1)."""
    if divergence not in ("jsd", *_DIVERGENCES):
        raise LimbeckError(f"divergence must be kl, reverse_kl or jsd, got {divergence!r}")
    require_interval("beta", beta, "(0, 1)")


def shift(logits: Tensor, dtype: torch.dtype) -> Tensor:
    """A copy minus the maximum of each row, in ``dtype``.

    >>> shift(torch.tensor([[1.0, 3.0]]), torch.float64)
    tensor([[-2.,  0.]], dtype=torch.float64)
    """
    logits = logits.to(dtype)
    return logits - logits.amax(dim=1, keepdim=True)


def cross_entropy_block(
    shifted: Tensor, target: Tensor, factors: Tensor, label_smoothing: float
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of each row, ``[rows]``, and the gradient of its sum with ``factors``.

    Args:
        shifted: logits, see :func:`shift`.
        target: ``[rows, 1]`` class indices.
        factors: ``[rows, 1]``.
        label_smoothing: weight of the uniform distribution.
    """
    exponentials = shifted.exp()
    totals = exponentials.sum(dim=1, keepdim=True)
    by_row = totals.log() - (1 - label_smoothing) * shifted.gather(1, target)
    gradient = exponentials.mul_(factors / totals)
    gradient.scatter_add_(1, target, (label_smoothing - 1) * factors)
    if label_smoothing:
        by_row = by_row - label_smoothing * shifted.mean(dim=1, keepdim=True)
        gradient.sub_(factors * (label_smoothing / shifted.shape[1]))
    return by_row.squeeze(1), gradient


def divergence_block(student: Tensor, teacher: Tensor, factors: Tensor, fn: DivergenceFn) -> tuple[Tensor, Tensor]:
    """The divergence of each row, ``[rows]``, and the gradient of its sum with ``factors``.

    Args:
        student: logits at the temperature, see :func:`shift`; overwritten.
        teacher: likewise.
        factors: ``[rows, 1]``.
        fn: the divergence.
    """
    (q, log_total_q), (p, log_total_p) = _softmax(student), _softmax(teacher)
    log_ratio = teacher.sub_(student).sub_(log_total_p - log_total_q)
    by_row, slope = fn(log_ratio, p, q)
    return by_row, slope.sub_(q.mul_(slope.sum(dim=1, keepdim=True))).mul_(factors)


def top_k_block(
    student: Tensor, log_p: Tensor, classes: Tensor, factors: Tensor, fn: DivergenceFn
) -> tuple[Tensor, Tensor]:
    """:func:`divergence_block` over k classes and, where there are more, the rest of all classes as one.

    Args:
        student: logits at the temperature, see :func:`shift`.
        log_p: ``[rows, k + 1]`` logarithms of the teacher's probabilities, the last of the rest; ``[rows, k]`` where k
            is the number of classes.
        classes: ``[rows, k]``.
        factors: ``[rows, 1]``.
        fn: the divergence.
    """
    dtype, k = torch.finfo(student.dtype), classes.shape[1]
    exponentials, top = student.exp(), student.gather(1, classes)
    # The rest is summed without the k classes: the difference of two sums would lose a small rest.
    rest_total = exponentials.scatter_(1, classes, 0.0).sum(dim=1, keepdim=True)
    total = rest_total + top.exp().sum(dim=1, keepdim=True)
    log_q = torch.cat([top, rest_total.log()], dim=1)[:, : log_p.shape[1]] - total.log()
    log_q = log_q.clamp(min=dtype.min)
    q = log_q.exp()
    by_row, slope = fn(log_p - log_q, log_p.exp(), q.clone())
    slope_sum = slope.sum(dim=1, keepdim=True)
    # The share of each other class in the gradient of the rest is its share in the rest.
    rest_slope = slope[:, k:].sum(dim=1, keepdim=True) / rest_total.clamp(min=dtype.tiny)
    gradient = exponentials.mul_(rest_slope - slope_sum / total)
    gradient.scatter_(1, classes, slope[:, :k] - q[:, :k] * slope_sum)
    return by_row, gradient.mul_(factors)


def _softmax(shifted: Tensor) -> tuple[Tensor, Tensor]:
    """The softmax, and the logarithm of its divisor, ``[rows, 1]``."""
    exponentials = shifted.exp()
    totals = exponentials.sum(dim=1, keepdim=True)
    return exponentials.div_(totals), totals.log_()


def _kl(log_ratio: Tensor, p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    """Σ p · r; its derivative in log q is −p."""
    return log_ratio.mul_(p).sum(dim=1), p.neg_()


def _reverse_kl(log_ratio: Tensor, p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    """−Σ q · r; its derivative in log q is q − q · r, of which the gradient in logits is that of −q · r."""
    slope = log_ratio.mul_(q).neg_()
    return slope.sum(dim=1), slope


def _jsd(log_ratio: Tensor, p: Tensor, q: Tensor, *, beta: float) -> tuple[Tensor, Tensor]:
    """Σ beta · p · log(p / m) + (1 − beta) · q · log(q / m); the gradient in logits is that of its second summand."""
    # log m, from whichever of log p and log q is larger: never −inf, and exact where they are nearly the same.
    mixture_weight = torch.full_like(log_ratio, beta).masked_fill_(log_ratio > 0, 1 - beta)
    log_mixture = log_ratio.abs().neg_().expm1_().mul_(mixture_weight).log1p_()
    teacher_part = (log_mixture + F.relu(-log_ratio)).mul_(p).sum(dim=1)
    slope = log_mixture.add_(F.relu(log_ratio)).mul_(q).mul_(beta - 1)
    return slope.sum(dim=1) - beta * teacher_part, slope


_DIVERGENCES: Final[Mapping[str, DivergenceFn]] = {"kl": _kl, "reverse_kl": _reverse_kl}
