"""Logit standardization: zero mean and unit deviation before the temperature (Sun et al., CVPR 2024).

https://arxiv.org/abs/2403.01427. Each row of student and teacher becomes (z − mean) / (deviation + 1e−7), with the
unbiased deviation; the base temperature is 2. The student may have logits of another scale and loses the teacher's
confidence, so check its calibration. The published gain comes with a weight of 9 instead of 0.9: compare with KD at the
same weight.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Final, final

import torch
from torch import Tensor

from limbeck.core.outputs import Outputs
from limbeck.core.progress import Progress
from limbeck.core.schedules import Schedule, resolve
from limbeck.losses._logits import require_temperature
from limbeck.losses._ops import upcast
from limbeck.losses.temperature.entropy import valid_class_mask
from limbeck.losses.temperature.policy import ScaledLogits

_EPSILON: Final = 1e-7
_MIN_VARIANCE: Final = 1e-20  # the square root of zero has no gradient


def standardize_logits(logits: Tensor) -> Tensor:
    """(z − mean) / (deviation + 1e−7) of each row over its valid classes; a row of equal logits becomes zero.

    Shapes: ``[rows, classes]`` in and out; logits of −inf are unchanged and excluded.

    >>> standardize_logits(torch.tensor([[1.0, 2.0, 3.0]]))
    tensor([[-1.0000,  0.0000,  1.0000]])
    """
    logits = upcast(logits)
    invalid = ~valid_class_mask(logits)
    num_valid = (~invalid).sum(dim=1, keepdim=True).clamp(min=1)
    # −inf is replaced before the arithmetic: masked afterwards only, its gradient would be 0 · inf.
    finite_logits = logits.masked_fill(invalid, 0.0)
    centered = (finite_logits - finite_logits.sum(dim=1, keepdim=True) / num_valid).masked_fill(invalid, 0.0)
    variance = centered.square().sum(dim=1, keepdim=True) / (num_valid - 1).clamp(min=1)
    deviation = variance.clamp(min=_MIN_VARIANCE).sqrt()
    return (centered / (deviation + _EPSILON)).masked_fill(invalid, -torch.inf)


@final
@dataclass(frozen=True, slots=True)
class LogitStandardization:
    """:func:`standardize_logits` of both, at the base ``temperature``: a number or a schedule."""

    uses_softmax: ClassVar = True
    temperature: float | Schedule = 2.0

    def __post_init__(self) -> None:
        require_temperature(self.temperature)

    def __call__(self, student: Outputs, teacher: Outputs, progress: Progress) -> ScaledLogits:
        return ScaledLogits(
            standardize_logits(student.require_logits()),
            standardize_logits(teacher.require_logits()),
            resolve(self.temperature, progress),
        )

    def bounds(self) -> tuple[float, float]:
        """Unbounded: the usual range of a task does not apply to the scale of standardized logits."""
        return 0.0, math.inf
