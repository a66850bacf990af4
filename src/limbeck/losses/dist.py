"""DIST: Pearson correlation of predictions over classes and over the batch.

Huang et al., NeurIPS 2022, https://arxiv.org/abs/2205.10536. With ρ Pearson's correlation between the student's and
the teacher's softmax at temperature τ:

    loss = τ² · (beta · mean over rows of (1 − ρ over classes) + gamma · mean over classes of (1 − ρ over the batch))

The second part relates samples: gather the batch of all processes for it (``gather_distributed: true`` in a recipe).
The correlation with a constant row or column (as the columns of a batch of one are) is 0 without a gradient, and that
of two constant ones is 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final, final

import torch
from torch import Tensor

from limbeck.losses._bases import LogitLoss
from limbeck.losses._logits import (
    TemperatureValue,
    broadcast_temperature,
    prepare_logits,
    require_classes,
    scale_logits,
    temperature_scaled_mean,
)
from limbeck.losses._ops import row_mean

_MAX_ROUNDINGS: Final = 8  # roundings by which equal probabilities may lie apart


def dist_loss(
    student: Tensor, teacher: Tensor, *, beta: float = 1.0, gamma: float = 1.0, temperature: TemperatureValue = 1.0
) -> Tensor:
    """``temperature ** 2`` times beta · (1 − correlation over classes) + gamma · (1 − correlation over the batch).

    Shapes: both ``[rows, classes]`` logits; ``temperature`` a number or ``[rows]``: each row then has its own square,
    and the part over the batch their mean. Zero where they agree, and where their probabilities are linear in each
    other. The published setting for CIFAR is ``beta=2, gamma=2, temperature=4``.

    >>> student, teacher = torch.tensor([[2.0, 0.0], [0.0, 3.0]]), torch.tensor([[1.0, 0.0], [3.0, 0.0]])
    >>> dist_loss(student, teacher)
    tensor(3.)
    """
    student, teacher = prepare_logits(student, teacher)
    require_classes(student)
    temperature = broadcast_temperature(temperature, student)
    q, p = (scale_logits(logits, temperature).softmax(dim=1) for logits in (student, teacher))
    squared_temperature = row_mean(temperature.reshape(-1) ** 2) if isinstance(temperature, Tensor) else temperature**2
    between_classes = temperature_scaled_mean(_pearson_distance(q, p, dim=1), temperature)
    return beta * between_classes + gamma * squared_temperature * row_mean(_pearson_distance(q, p, dim=0))


@final
@dataclass(frozen=True)
class DISTLoss(LogitLoss):
    """:func:`dist_loss` of the student's and a teacher's logits, at temperature 1 by default.

    Args:
        beta: weight of the correlation over the classes of a sample.
        gamma: weight of the correlation over the samples of a class.
    """

    paper: ClassVar = "https://arxiv.org/abs/2205.10536"
    paper_temperature: ClassVar = 1.0
    fn: ClassVar = staticmethod(dist_loss)

    beta: float = 1.0
    gamma: float = 1.0


def _pearson_distance(student: Tensor, teacher: Tensor, dim: int) -> Tensor:
    """1 − Pearson's correlation along ``dim``; 1 where one of the two is constant, 0 where both are."""
    (u, u_constant), (v, v_constant) = _center_and_normalize(student, dim), _center_and_normalize(teacher, dim)
    # Half the squared distance of unit vectors is exactly 0 where they agree, as 1 − u·v is not.
    return ((u - v).square().sum(dim=dim) + (u_constant ^ v_constant).squeeze(dim)) / 2


def _center_and_normalize(values: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """``values`` minus their mean, of length 1 along ``dim``, and where they are constant; those become 0."""
    if not values.shape[dim]:
        return values, values.sum(dim=dim, keepdim=True).bool()
    mean = values.mean(dim=dim, keepdim=True)
    centered = values - mean
    squared_norm = centered.square().sum(dim=dim, keepdim=True)
    finfo = torch.finfo(values.dtype)
    # Rounding of equal values, and squares too small to have all their digits.
    noise = (_MAX_ROUNDINGS * finfo.eps) ** 2 * values.shape[dim]
    is_constant = torch.addcmul(squared_norm, mean, mean, value=-noise) <= finfo.tiny / finfo.eps
    # Masked before the square root, whose gradient is infinite at 0.
    return centered / squared_norm.masked_fill(is_constant, torch.inf).sqrt(), is_constant
