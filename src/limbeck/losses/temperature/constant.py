"""One temperature for all rows: a number (Hinton et al., 2015, https://arxiv.org/abs/1503.02531), or a schedule.

A loss accepts both directly as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from limbeck.core.errors import LimbeckError
from limbeck.core.outputs import Outputs
from limbeck.core.progress import Progress
from limbeck.core.schedules import Schedule
from limbeck.losses._logits import require_temperature
from limbeck.losses.temperature.policy import ScaledLogits
from limbeck.losses.temperature.temperature_range import temperature_range


@final
@dataclass(frozen=True, slots=True)
class Constant:
    """The same ``temperature``, above zero, at all times."""

    temperature: float = 4.0

    def __post_init__(self) -> None:
        require_temperature(self.temperature)

    def __call__(self, student: Outputs, teacher: Outputs, progress: Progress) -> ScaledLogits:
        return ScaledLogits(student.require_logits(), teacher.require_logits(), self.temperature)

    def bounds(self) -> tuple[float, float]:
        return self.temperature, self.temperature


@final
@dataclass(frozen=True, slots=True)
class Scheduled:
    """The temperature of a schedule, such as ``schedules.linear(6.0, 3.0)``.

    >>> from limbeck import schedules
    >>> Scheduled(schedules.linear(6.0, 3.0)).bounds()
    (3.0, 6.0)
    """

    schedule: Schedule

    def __post_init__(self) -> None:
        if isinstance(self.schedule, type) or not callable(self.schedule):
            raise LimbeckError(
                f"Scheduled needs a schedule such as schedules.linear(6.0, 3.0), got {self.schedule!r}: use Constant "
                "for a number"
            )

    def __call__(self, student: Outputs, teacher: Outputs, progress: Progress) -> ScaledLogits:
        return ScaledLogits(student.require_logits(), teacher.require_logits(), float(self.schedule(progress)))

    def bounds(self) -> tuple[float, float]:
        """The lowest and highest of a hundred values over training."""
        return temperature_range(self.schedule)
