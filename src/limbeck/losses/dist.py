"""Knowledge of responses: the order and spacing of answers rather than their size (DIST).

Huang et al., NeurIPS 2022, https://arxiv.org/abs/2205.10536. With ρ Pearson's correlation between the student's and
the teacher's softmax at temperature tau:

    loss = tau² · (beta · mean over rows of (1 − ρ over classes) + gamma · mean over classes of (1 − ρ over the batch))

The first part relates the classes of one sample, the second the samples of one class; for the second, a batch spread
over processes is gathered (``gather: true`` in a recipe). A row or column that does not vary beyond rounding (or by
less than 3e-16 in float32, where squares lose their digits), such as the columns of a batch of one, has no direction:
two of them agree and cost 0, one of them beside one that varies is uncorrelated and costs 1, without a gradient. The
published code adds 1e-8 to the denominator instead, which makes columns of small probabilities cost more than they are
apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Final, final

import torch
from torch import Tensor

from limbeck.core.loss_context import Exchange
from limbeck.core.schedules import Schedule
from limbeck.losses._logits import Tau, logits_pair, mean_softened, require_temperature, softened, temperature
from limbeck.losses._ops import mean_rows
from limbeck.losses.temperature import Temperature, tempered

__all__ = ["Dist", "dist"]

Direction = tuple[Tensor, Tensor]

_NOISE: Final = 8  # roundings by which equal probabilities may lie apart


def dist(student: Tensor, teacher: Tensor, *, beta: float = 1.0, gamma: float = 1.0, tau: Tau = 1.0) -> Tensor:
    """Weighted: beta · (1 − correlation over classes) + gamma · (1 − correlation over the batch), times ``tau ** 2``.

    Shapes: both ``[rows, classes]`` logits; ``tau`` a number or ``[rows]``: each row then has its own square, and the
    part over the batch the mean of them. Zero where they agree, and where their probabilities are linear in each other.
    The published setting for CIFAR is ``beta=2, gamma=2, tau=4``.

    >>> student, teacher = torch.tensor([[2.0, 0.0], [0.0, 3.0]]), torch.tensor([[1.0, 0.0], [3.0, 0.0]])
    >>> dist(student, teacher)
    tensor(3.)
    """
    student, teacher = logits_pair(student, teacher)
    tau = temperature(tau, student)
    q, p = (softened(logits, tau).softmax(dim=1) for logits in (student, teacher))
    square = mean_rows(tau.reshape(-1) ** 2) if isinstance(tau, Tensor) else tau**2
    by_row, by_class = _DoublyUncorrelated.apply(q, p)
    between_classes, between_samples = mean_softened(by_row, tau), mean_rows(by_class)
    return between_classes * (beta / 2) + between_samples * (square * gamma / 2)


@final
@dataclass(frozen=True, slots=True)
class Dist:
    """:func:`dist` of the student's and a teacher's logits.

    Arguments:
        beta: weight of the correlation over the classes of a sample.
        gamma: weight of the correlation over the samples of a class.
        tau: the temperature, above zero: a number, a schedule, or a policy of :mod:`limbeck.temperature`.
        teacher: which teacher; ``None`` takes the combination of all.
    """

    beta: float = 1.0
    gamma: float = 1.0
    tau: float | Schedule | Temperature = 1.0
    teacher: str | None = None

    def __post_init__(self) -> None:
        require_temperature(self.tau)

    def __call__(self, exchange: Exchange) -> Tensor:
        student, teacher = exchange.pair(self.teacher)
        loss = partial(dist, beta=self.beta, gamma=self.gamma)
        return tempered(loss, student, teacher, tau=self.tau, progress=exchange.progress)


class _DoublyUncorrelated(torch.autograd.Function):
    """2 · (1 − Pearson's correlation) over the classes, ``[rows]``, and over the rows, ``[classes]``.

    With u and v the two directions and ρ = u·v, the gradient of the first is −2 · (v − ρ · u) over its length; that
    takes a third of autograd's operations, which small logits feel. For a second derivative the directions are made
    again, from the probabilities that they depend on.
    """

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        (by_row, *over_classes), (by_class, *over_rows) = (_compared(student, teacher, dim) for dim in (1, 0))
        ctx.save_for_backward(student, teacher, by_row, by_class)
        ctx.made = over_classes, over_rows
        return by_row, by_class

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        student, teacher, *values = ctx.saved_tensors
        made = ctx.made
        if torch.is_grad_enabled():
            made = [_compared(student, teacher, dim)[1:] for dim in (1, 0)]
        by_student = by_teacher = None
        for dim, by_value, value, ((u, length), (v, its_length)) in zip((1, 0), gradients, values, made, strict=True):
            by_value, correlation = by_value.unsqueeze(dim), (1 - value / 2).unsqueeze(dim)
            if ctx.needs_input_grad[0]:
                here = (u * correlation - v) * (2 * by_value / length)
                by_student = here if by_student is None else by_student + here
            if ctx.needs_input_grad[1]:  # by a temperature that is learned
                here = (v * correlation - u) * (2 * by_value / its_length)
                by_teacher = here if by_teacher is None else by_teacher + here
        return by_student, by_teacher


def _compared(student: Tensor, teacher: Tensor, dim: int) -> tuple[Tensor, Direction, Direction]:
    """2 · (1 − Pearson's correlation along ``dim``), and both directions with the lengths that they had."""
    own, its = _direction(student, dim), _direction(teacher, dim)
    # The squared distance between vectors of length 1: exactly 0 where they are the same, as 1 − a product is not.
    apart = (own[0] - its[0]).square().sum(dim=dim)
    # Where one stands still, that is 1 already.
    return apart + (own[1].isinf() ^ its[1].isinf()).squeeze(dim), own, its


def _direction(values: Tensor, dim: int) -> Direction:
    """Probabilities around their mean, of length 1 along ``dim``, and their length; 0 and infinite where they stand."""
    if not values.shape[dim]:
        return values, values.sum(dim=dim, keepdim=True)
    mean = values.mean(dim=dim, keepdim=True)
    around = values - mean
    square = around.square().sum(dim=dim, keepdim=True)
    number = torch.finfo(values.dtype)
    # Rounding of equal values, and squares that are too small to have all their digits.
    noise = (_NOISE * number.eps) ** 2 * values.shape[dim]
    still = torch.addcmul(square, mean, mean, value=-noise) <= number.tiny / number.eps
    # Masked before the root, whose gradient is infinite at 0.
    length = square.masked_fill(still, torch.inf).sqrt()
    return around / length, length
