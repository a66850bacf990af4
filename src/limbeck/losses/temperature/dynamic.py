"""Dynamic temperature (DTKD): a temperature for each network and sample, by the size of its logits (Wei & Bai, 2024).

https://arxiv.org/abs/2404.12711. With m_s and m_t the largest logits of a row, τ_s = 2τ·m_s / (m_s + m_t) and
τ_t = 2τ·m_t / (m_s + m_t), whose mean is τ; the loss is multiplied by τ_s·τ_t. Here m is the largest of z − mean, which
does not change when a constant is added to a row. The temperatures have no gradient. The non-target term of the paper's
loss is not included.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from limbeck.core.outputs import Outputs
from limbeck.core.progress import Progress
from limbeck.losses._logits import require_temperature
from limbeck.losses._ops import upcast
from limbeck.losses.temperature.entropy import valid_class_mask
from limbeck.losses.temperature.policy import ScaledLogits

_MIN_PEAK = 1e-6


def dynamic_temperatures(student: Tensor, teacher: Tensor, *, temperature: float = 4.0) -> tuple[Tensor, Tensor]:
    """The student's and the teacher's temperature of each row, both ``[rows]``; their mean is ``temperature``.

    Shapes: both ``[rows, classes]``. A row of equal logits counts as one whose largest is 1e−6 above its mean.

    >>> import torch
    >>> dynamic_temperatures(torch.tensor([[1.0, -1.0]]), torch.tensor([[8.0, 2.0]]), temperature=4.0)
    (tensor([2.]), tensor([6.]))
    """
    student_peak, teacher_peak = _peak_above_mean(student), _peak_above_mean(teacher)
    peak_sum = student_peak + teacher_peak
    return 2.0 * temperature * student_peak / peak_sum, 2.0 * temperature * teacher_peak / peak_sum


@final
@dataclass(frozen=True, slots=True)
class Dynamic:
    """:func:`dynamic_temperatures` around ``temperature``, above zero; the recorded temperature is √(τ_s·τ_t)."""

    uses_softmax: ClassVar = True
    temperature: float = 4.0

    def __post_init__(self) -> None:
        require_temperature(self.temperature)

    def __call__(self, student: Outputs, teacher: Outputs, progress: Progress) -> ScaledLogits:
        student_logits, teacher_logits = upcast(student.require_logits()), upcast(teacher.require_logits())
        student_temperature, teacher_temperature = dynamic_temperatures(
            student_logits.detach(), teacher_logits.detach(), temperature=self.temperature
        )
        temperature = (student_temperature * teacher_temperature).sqrt()
        return ScaledLogits(
            student_logits * (temperature / student_temperature)[:, None],
            teacher_logits * (temperature / teacher_temperature)[:, None],
            temperature,
        )

    def bounds(self) -> tuple[float, float]:
        """Above zero and up to ``temperature``: the geometric mean of two temperatures of this mean."""
        return 0.0, self.temperature


def _peak_above_mean(logits: Tensor) -> Tensor:
    """The largest logit of each row minus the mean over its valid classes."""
    logits = upcast(logits)
    valid = valid_class_mask(logits)
    mean = logits.masked_fill(~valid, 0.0).sum(dim=1) / valid.sum(dim=1).clamp(min=1)
    return (logits.amax(dim=1) - mean).clamp(min=_MIN_PEAK)
