"""Knowledge of responses: the order and spacing of answers rather than their size (DIST).

Huang et al., NeurIPS 2022, https://arxiv.org/abs/2205.10536. With ρ Pearson's correlation between the student's and
the teacher's softmax at temperature τ:

    loss = τ² · (beta · mean over rows of (1 − ρ over classes) + gamma · mean over classes of (1 − ρ over the batch))

The first part relates the classes of one sample, the second the samples of one class; for the second, a batch spread
over processes is gathered (``gather_distributed: true`` in a recipe). A row or column that does not vary beyond
rounding (or by less than 3e-16 in float32, where squares lose their digits), such as the columns of a batch of one, has
no direction: two of them agree and cost 0, one of them beside one that varies is uncorrelated and costs 1, without a
gradient. The published code adds 1e-8 to the denominator instead, which makes columns of small probabilities cost more
than they are apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Final, final

import torch
from torch import Tensor

from limbeck.core.loss_context import LossContext
from limbeck.core.protocols import Loss
from limbeck.core.schedules import Schedule
from limbeck.losses._logits import (
    TemperatureValue,
    broadcast_temperature,
    prepare_logits,
    require_temperature,
    scale_logits,
    temperature_scaled_mean,
)
from limbeck.losses._ops import row_mean
from limbeck.losses.temperature import Temperature, apply_temperature

__all__ = ["DISTLoss", "dist_loss"]

Direction = tuple[Tensor, Tensor]

_MAX_ROUNDINGS: Final = 8  # roundings by which equal probabilities may lie apart


def dist_loss(
    student: Tensor, teacher: Tensor, *, beta: float = 1.0, gamma: float = 1.0, temperature: TemperatureValue = 1.0
) -> Tensor:
    """Weighted: beta · (1 − correlation over classes) + gamma · (1 − correlation over the batch), times ``temperature ** 2``.

    Shapes: both ``[rows, classes]`` logits; ``temperature`` a number or ``[rows]``: each row then has its own square,
        and the
    part over the batch the mean of them. Zero where they agree, and where their probabilities are linear in each other.
    The published setting for CIFAR is ``beta=2, gamma=2, temperature=4``.

    >>> student, teacher = torch.tensor([[2.0, 0.0], [0.0, 3.0]]), torch.tensor([[1.0, 0.0], [3.0, 0.0]])
    >>> dist_loss(student, teacher)
    tensor(3.)
    """
    student, teacher = prepare_logits(student, teacher)
    temperature = broadcast_temperature(temperature, student)
    q, p = (scale_logits(logits, temperature).softmax(dim=1) for logits in (student, teacher))
    squared_temperature = row_mean(temperature.reshape(-1) ** 2) if isinstance(temperature, Tensor) else temperature**2
    by_row, by_class = _PearsonDistances.apply(q, p)
    between_classes, between_samples = temperature_scaled_mean(by_row, temperature), row_mean(by_class)
    return between_classes * (beta / 2) + between_samples * (squared_temperature * gamma / 2)


@final
@dataclass(frozen=True, slots=True)
class DISTLoss(Loss):
    """:func:`dist_loss` of the student's and a teacher's logits.

    Args:
        beta: weight of the correlation over the classes of a sample.
        gamma: weight of the correlation over the samples of a class.
        temperature: the temperature, above zero: a number, a schedule, or a policy of
            :mod:`limbeck.losses.temperature`; ``None``: 1.
        teacher: which teacher; ``None`` takes the combination of all.
    """

    knowledge: ClassVar = "response"
    uses_temperature: ClassVar = True

    beta: float = 1.0
    gamma: float = 1.0
    temperature: float | Schedule | Temperature | None = None
    teacher: str | None = None

    def __post_init__(self) -> None:
        if self.temperature is not None:
            require_temperature(self.temperature)

    def __call__(self, context: LossContext) -> Tensor:
        loss = partial(dist_loss, beta=self.beta, gamma=self.gamma)
        temperature = 1.0 if self.temperature is None else self.temperature
        return apply_temperature(loss, context, temperature=temperature, teacher=self.teacher)


class _PearsonDistances(torch.autograd.Function):
    """2 · (1 − Pearson's correlation) over the classes, ``[rows]``, and over the rows, ``[classes]``.

    With u and v the two directions and ρ = u·v, the gradient of the first is −2 · (v − ρ · u) over its length; that
    takes a third of autograd's operations, which small logits feel. For a second derivative the directions are made
    again, from the probabilities that they depend on.
    """

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        (by_row, *over_classes), (by_class, *over_rows) = (_pearson_distance(student, teacher, dim) for dim in (1, 0))
        ctx.save_for_backward(student, teacher, by_row, by_class)
        ctx.transform = over_classes, over_rows
        return by_row, by_class

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        student, teacher, *values = ctx.saved_tensors
        directions = ctx.transform
        if torch.is_grad_enabled():
            directions = [_pearson_distance(student, teacher, dim)[1:] for dim in (1, 0)]
        grad_student = grad_teacher = None
        for dim, grad_value, value, ((u, u_length), (v, v_length)) in zip(
            (1, 0), gradients, values, directions, strict=True
        ):
            grad_value, correlation = grad_value.unsqueeze(dim), (1 - value / 2).unsqueeze(dim)
            if ctx.needs_input_grad[0]:
                grad = (u * correlation - v) * (2 * grad_value / u_length)
                grad_student = grad if grad_student is None else grad_student + grad
            if ctx.needs_input_grad[1]:  # by a temperature that is learned
                grad = (v * correlation - u) * (2 * grad_value / v_length)
                grad_teacher = grad if grad_teacher is None else grad_teacher + grad
        return grad_student, grad_teacher


def _pearson_distance(student: Tensor, teacher: Tensor, dim: int) -> tuple[Tensor, Direction, Direction]:
    """2 · (1 − Pearson's correlation along ``dim``), and both directions with the lengths that they had."""
    student_direction, teacher_direction = _center_and_normalize(student, dim), _center_and_normalize(teacher, dim)
    # The squared distance between vectors of length 1: exactly 0 where they are the same, as 1 − a product is not.
    squared_distance = (student_direction[0] - teacher_direction[0]).square().sum(dim=dim)
    # Where one stands still, that is 1 already.
    return (
        squared_distance + (student_direction[1].isinf() ^ teacher_direction[1].isinf()).squeeze(dim),
        student_direction,
        teacher_direction,
    )


def _center_and_normalize(values: Tensor, dim: int) -> Direction:
    """Probabilities around their mean, of length 1 along ``dim``, and their length; 0 and infinite where they stand."""
    if not values.shape[dim]:
        return values, values.sum(dim=dim, keepdim=True)
    mean = values.mean(dim=dim, keepdim=True)
    centered = values - mean
    squared_norm = centered.square().sum(dim=dim, keepdim=True)
    finfo = torch.finfo(values.dtype)
    # Rounding of equal values, and squares that are too small to have all their digits.
    noise = (_MAX_ROUNDINGS * finfo.eps) ** 2 * values.shape[dim]
    is_constant = torch.addcmul(squared_norm, mean, mean, value=-noise) <= finfo.tiny / finfo.eps
    # Masked before the root, whose gradient is infinite at 0.
    length = squared_norm.masked_fill(is_constant, torch.inf).sqrt()
    return centered / length, length
