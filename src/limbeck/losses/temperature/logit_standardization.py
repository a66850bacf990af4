"""Logits of mean 0 and deviation 1 before the temperature (logit standardisation; Sun et al., CVPR 2024).

https://arxiv.org/abs/2403.01427. Each row becomes (z − mean) / (deviation + 1e−7), with the unbiased deviation, for
student and teacher alike; then the loss is taken at a base temperature of 2. So the student is free to have logits of
another size, and it gives up what the size tells: how sure the teacher is (look at its calibration). With two classes
every standardised row is (±0.71, ∓0.71), so nothing but the sign is left. The published gain comes together with a
weight of 9 instead of 0.9: compare with the plain loss at the same weight.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, NamedTuple, final

import torch
from torch import Tensor

from limbeck.core.outputs import Outputs
from limbeck.core.progress import Progress
from limbeck.core.schedules import Schedule, at
from limbeck.core.temperature_range import span
from limbeck.losses._logits import require_temperature
from limbeck.losses._ops import widen
from limbeck.losses.temperature.entropy import possible
from limbeck.losses.temperature.policy import Tempered

__all__ = ["Standardised", "standardised"]

_EPSILON: Final = 1e-7
_FLAT: Final = 1e-20  # a variance below counts as this: the square root of zero has no gradient


def standardised(logits: Tensor) -> Tensor:
    """(z − mean) / (deviation + 1e−7) of each row over its possible classes; a row of equal logits becomes zero.

    Shapes: ``[rows, classes]`` in and out; a logit of −inf stays what it is and counts for nothing.

    >>> standardised(torch.tensor([[1.0, 2.0, 3.0]]))
    tensor([[-1.0000,  0.0000,  1.0000]])
    """
    made: Tensor = _Standardised.apply(widen(logits))
    return made


@final
@dataclass(frozen=True, slots=True)
class Standardised:
    """:func:`standardised` logits of both, at the base temperature ``tau``: a number or a schedule.

    >>> said = Outputs(logits=torch.tensor([[10.0, 20.0, 30.0]]))
    >>> Standardised()(said, said, Progress()).student, Standardised().bounds()
    (tensor([[-1.,  0.,  1.]]), (2.0, 2.0))
    """

    tau: float | Schedule = 2.0

    def __post_init__(self) -> None:
        require_temperature(self.tau)

    def __call__(self, student: Outputs, teacher: Outputs, progress: Progress) -> Tempered:
        return Tempered(standardised(student.rows()), standardised(teacher.rows()), at(self.tau, progress))

    def bounds(self) -> tuple[float, float]:
        """Those of the base temperature."""
        return span(self.tau)


class _Standardised(torch.autograd.Function):
    """The gradient is written out, since small logits feel each of autograd's operations.

    With z = away / (deviation + ε), it is g / (deviation + ε) around its mean, less what would change the deviation.
    For a second derivative the parts are made again, from the logits that they depend on.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor) -> Tensor:
        ctx.save_for_backward(logits)
        ctx.made = made = _parted(logits)
        return _without(made.away / made.length, made.ruled_out, -torch.inf)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (logits,) = ctx.saved_tensors
        away, length, flat, many, less, ruled_out = _parted(logits) if torch.is_grad_enabled() else ctx.made
        by_away = _without(gradients[0] / length, ruled_out, 0.0)
        along = (by_away * away).sum(dim=1, keepdim=True) / (length * (length - _EPSILON) * less)
        along = along.masked_fill(flat, 0.0)  # their deviation is the floor, which does not move
        mean = by_away.sum(dim=1, keepdim=True) / many
        return _without(by_away - mean - away * along, ruled_out, 0.0)


class _Parts(NamedTuple):
    """Logits around their mean; deviation + ε; which rows are flat; how many classes are possible; one less, but 1 at
    least; and which classes are ruled out, ``None`` where none is.
    """

    away: Tensor
    length: Tensor
    flat: Tensor
    many: Tensor | int
    less: Tensor | int
    ruled_out: Tensor | None


def _parted(logits: Tensor) -> _Parts:
    if logits.is_cpu and logits.numel() and logits.shape[1] > 1 and float(logits.detach().min()) > -torch.inf:
        # A small batch feels each operation, and here looking at the numbers makes nobody wait.
        variance, mean = torch.var_mean(logits, dim=1, keepdim=True)
        flat = variance <= _FLAT
        length = variance.masked_fill(flat, _FLAT).sqrt() + _EPSILON
        return _Parts(logits - mean, length, flat, logits.shape[1], logits.shape[1] - 1, None)
    ruled_out = ~possible(logits)
    many = (logits.shape[1] - ruled_out.sum(dim=1, keepdim=True)).clamp(min=1)
    # −inf is taken away before the arithmetic: its gradient would be 0 · inf even where it is masked afterwards.
    known = logits.masked_fill(ruled_out, 0.0)
    away = (known - known.sum(dim=1, keepdim=True) / many).masked_fill(ruled_out, 0.0)
    less = (many - 1).clamp(min=1)
    variance = away.square().sum(dim=1, keepdim=True) / less
    flat = variance <= _FLAT
    return _Parts(away, variance.masked_fill(flat, _FLAT).sqrt() + _EPSILON, flat, many, less, ruled_out)


def _without(values: Tensor, ruled_out: Tensor | None, value: float) -> Tensor:
    return values if ruled_out is None else values.masked_fill(ruled_out, value)
