"""One temperature for all rows: a number (Hinton et al., 2015, https://arxiv.org/abs/1503.02531), or a schedule.

A term takes both without these as well; they are here for code that asks every temperature alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from limbeck.core.errors import LimbeckError
from limbeck.core.outputs import Outputs
from limbeck.core.progress import Progress
from limbeck.core.schedules import Schedule
from limbeck.core.temperature_range import span
from limbeck.losses._logits import require_temperature
from limbeck.losses.temperature.policy import Tempered

__all__ = ["Fixed", "Scheduled"]


@final
@dataclass(frozen=True, slots=True)
class Fixed:
    """The same temperature ``tau``, above zero, at all times.

    >>> Fixed(4.0).bounds()
    (4.0, 4.0)
    """

    tau: float = 4.0

    def __post_init__(self) -> None:
        require_temperature(self.tau)

    def __call__(self, student: Outputs, teacher: Outputs, progress: Progress) -> Tempered:
        return Tempered(student.rows(), teacher.rows(), self.tau)

    def bounds(self) -> tuple[float, float]:
        """The temperature, twice."""
        return self.tau, self.tau


@final
@dataclass(frozen=True, slots=True)
class Scheduled:
    """The temperature that a schedule gives, such as ``schedule.linear(6.0, 3.0)``.

    >>> from limbeck import schedule
    >>> Scheduled(schedule.linear(6.0, 3.0)).bounds()
    (3.0, 6.0)
    """

    schedule: Schedule

    def __post_init__(self) -> None:
        if isinstance(self.schedule, type) or not callable(self.schedule):
            raise LimbeckError(
                f"Scheduled takes a schedule, such as schedule.linear(6.0, 3.0), not {self.schedule!r}: for a number "
                "there is Fixed"
            )

    def __call__(self, student: Outputs, teacher: Outputs, progress: Progress) -> Tempered:
        return Tempered(student.rows(), teacher.rows(), float(self.schedule(progress)))

    def bounds(self) -> tuple[float, float]:
        """The lowest and highest of a hundred looks over training."""
        return span(self.schedule)
