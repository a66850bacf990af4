"""Logits of mean 0 and deviation 1 before the temperature (logit standardisation; Sun et al., CVPR 2024).

https://arxiv.org/abs/2403.01427. Each row becomes (z − mean) / (deviation + 1e−7), with the unbiased deviation, for
student and teacher alike; then the loss is taken at a base temperature of 2. So the student is free to have logits of
another size, and it gives up what the size tells: how sure the teacher is (look at its calibration). With two classes
every standardised row is (±0.71, ∓0.71), so nothing but the sign is left. The published gain comes together with a
weight of 9 instead of 0.9: compare with the plain loss at the same weight.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from limbeck.core.numeric import widen
from limbeck.core.outputs import Outputs
from limbeck.core.progress import Progress
from limbeck.core.ranges import span
from limbeck.core.schedule import Schedule, at
from limbeck.core.softening import require_temperature
from limbeck.core.temperature.policy import Tempered
from limbeck.core.temperature.unsure import possible

__all__ = ["Standardised", "standardised"]

_EPSILON = 1e-7


def standardised(logits: Tensor) -> Tensor:
    """(z − mean) / (deviation + 1e−7) of each row over its possible classes; a row of equal logits becomes zero.

    Shapes: ``[rows, classes]`` in and out; a logit of −inf stays what it is and counts for nothing.

    >>> standardised(torch.tensor([[1.0, 2.0, 3.0]]))
    tensor([[-1.0000,  0.0000,  1.0000]])
    """
    logits = widen(logits)
    there = possible(logits)
    many = there.sum(dim=1, keepdim=True)
    # −inf is taken away before the arithmetic: its gradient would be 0 · inf even where it is masked afterwards.
    known = logits.masked_fill(~there, 0.0)
    away = (known - known.sum(dim=1, keepdim=True) / many.clamp(min=1)).masked_fill(~there, 0.0)
    variance = away.square().sum(dim=1, keepdim=True) / (many - 1).clamp(min=1)
    # The square root of zero has no gradient; below this floor the row counts as flat, and the floor has none.
    deviation = variance.clamp(min=1e-20).sqrt()
    return (away / (deviation + _EPSILON)).masked_fill(~there, -torch.inf)


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
