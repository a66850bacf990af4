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
from typing import Final, final

import torch
from torch import Tensor

from limbeck.core.exchange import Exchange
from limbeck.core.numeric import mean_rows
from limbeck.core.schedule import Schedule
from limbeck.core.softening import Tau, logits_pair, mean_softened, require_temperature, softened, temperature
from limbeck.core.temperature import Temperature, tempered

__all__ = ["Dist", "dist"]

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
    between_classes = mean_softened(_doubly_uncorrelated(q, p, dim=1), tau)
    between_samples = mean_rows(_doubly_uncorrelated(q, p, dim=0))
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


def _doubly_uncorrelated(student: Tensor, teacher: Tensor, *, dim: int) -> Tensor:
    """2 · (1 − Pearson's correlation along ``dim``)."""
    (student, still), (teacher, silent) = _direction(student, dim), _direction(teacher, dim)
    # The squared distance between vectors of length 1: exactly 0 where they are the same, as 1 − a product is not.
    return (student - teacher).square().sum(dim=dim) + (still ^ silent).squeeze(dim)


def _direction(values: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Probabilities around their mean, of length 1 along ``dim``; zero where they stand still, and where they do."""
    if not values.shape[dim]:
        return values, values.new_zeros(values.shape[1 - dim], dtype=torch.bool).unsqueeze(dim)
    mean = values.mean(dim=dim, keepdim=True)
    around = values - mean
    square = around.square().sum(dim=dim, keepdim=True)
    number = torch.finfo(values.dtype)
    # Rounding of equal values, and squares that are too small to have all their digits.
    noise = (mean.detach() * (_NOISE * number.eps)) ** 2 * values.shape[dim] + number.tiny / number.eps
    still = square.detach() <= noise
    # Masked before the root, whose gradient is infinite at 0.
    return around / square.masked_fill(still, torch.inf).sqrt(), still
