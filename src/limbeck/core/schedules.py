"""Schedules of weights and temperatures: numbers that depend on the completed fraction of training."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from typing import Protocol, final, runtime_checkable

from limbeck.core.errors import LimbeckError
from limbeck.core.progress import Progress

__all__ = ["Schedule", "across_stages", "cosine", "linear", "multistep", "resolve", "step_change", "warmup"]


@runtime_checkable
class Schedule(Protocol):
    """A number that depends on the progress of training."""

    def __call__(self, progress: Progress) -> float:
        """The current number."""


def resolve(value: float | Schedule, progress: Progress) -> float:
    """The current value of a number or a schedule."""
    return float(value(progress)) if callable(value) else float(value)


@final
@dataclass(frozen=True, slots=True)
class linear:
    """From ``start`` to ``end`` in a straight line.

    >>> linear(100.0, 0.0)(Progress(step=1, steps=4))
    75.0
    """

    start: float
    end: float

    def __call__(self, progress: Progress) -> float:
        return self.start + (self.end - self.start) * progress.fraction

    def __str__(self) -> str:
        return f"{self.start:g}→{self.end:g}"


@final
@dataclass(frozen=True, slots=True)
class cosine:
    """From ``start`` to ``end`` along half a cosine: slow, fast, slow.

    >>> cosine(1.0, 0.0)(Progress(step=1, steps=2))
    0.5
    """

    start: float
    end: float

    def __call__(self, progress: Progress) -> float:
        return self.end + (self.start - self.end) * 0.5 * (1.0 + math.cos(math.pi * progress.fraction))

    def __str__(self) -> str:
        return f"{self.start:g}⤳{self.end:g}"


@final
@dataclass(frozen=True, slots=True)
class multistep:
    """``start``, multiplied by ``gamma`` at each of ``milestones`` (fractions of training).

    >>> multistep(1.0, gamma=0.1, milestones=(0.5, 0.75))(Progress(step=6, steps=10))
    0.1
    """

    start: float
    _: KW_ONLY
    gamma: float
    milestones: tuple[float, ...]

    def __post_init__(self) -> None:
        if any(not 0 <= milestone <= 1 for milestone in self.milestones):
            raise LimbeckError(f"milestones must be fractions of training between 0 and 1, got {self.milestones}")

    def __call__(self, progress: Progress) -> float:
        num_passed = sum(progress.fraction >= milestone for milestone in self.milestones)
        return self.start * float(self.gamma**num_passed)

    def __str__(self) -> str:
        return f"{self.start:g}·{self.gamma:g}^passed{self.milestones}"


@final
@dataclass(frozen=True, slots=True)
class warmup:
    """From 0 to ``value`` over the first ``fraction`` of training, then ``value``.

    >>> warmup(8.0, fraction=0.1)(Progress(step=5, steps=100))
    4.0
    """

    value: float
    _: KW_ONLY
    fraction: float

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise LimbeckError(f"the fraction of a warmup must be above 0 and up to 1, got {self.fraction}")

    def __call__(self, progress: Progress) -> float:
        return self.value * min(progress.fraction / self.fraction, 1.0)

    def __str__(self) -> str:
        return f"0→{self.value:g}"


@final
@dataclass(frozen=True, slots=True)
class step_change:
    """``before``, and ``after`` from the fraction ``milestone`` of training on.

    A loss of weight 0 is still computed and logged.

    >>> [step_change(0.0, 1.0, milestone=0.5)(Progress(step=i, steps=4)) for i in range(5)]
    [0.0, 0.0, 1.0, 1.0, 1.0]
    """

    before: float
    after: float
    _: KW_ONLY
    milestone: float

    def __post_init__(self) -> None:
        if not 0 < self.milestone < 1:
            raise LimbeckError(f"the milestone of a step change must be between 0 and 1, got {self.milestone}")

    def __call__(self, progress: Progress) -> float:
        return self.after if progress.fraction >= self.milestone else self.before

    def __str__(self) -> str:
        return f"{self.before:g}|{self.after:g} from {self.milestone:g}"


@final
@dataclass(frozen=True, slots=True)
class across_stages:
    """``schedule`` over all stages of training instead of each stage.

    >>> across_stages(linear(1.0, 0.0))(Progress(step=0, steps=100, steps_before=300, total_steps=400))
    0.25
    """

    schedule: Schedule

    def __post_init__(self) -> None:
        if isinstance(self.schedule, type) or not callable(self.schedule):
            raise LimbeckError(f"across_stages needs a schedule such as linear(1, 0), got {self.schedule!r}")

    def __call__(self, progress: Progress) -> float:
        return self.schedule(progress.overall())

    def __str__(self) -> str:
        return f"{self.schedule} over all stages"
