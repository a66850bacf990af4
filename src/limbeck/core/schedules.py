"""Schedules of weights and temperatures: functions of the completed fraction of a stage, or of all stages.

Since they depend on the fraction, their shape does not change with the batch size or the number of epochs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, final, runtime_checkable

from limbeck.core.errors import LimbeckError
from limbeck.core.progress import Progress

__all__ = [
    "AcrossStages",
    "Cosine",
    "Linear",
    "MultiStep",
    "Schedule",
    "StepChange",
    "Warmup",
    "across_stages",
    "cosine",
    "linear",
    "multistep",
    "resolve",
    "step_change",
    "warmup",
]  # fmt: skip


@runtime_checkable
class Schedule(Protocol):
    """A number that depends on the progress of training."""

    def __call__(self, progress: Progress) -> float:
        """The current number."""
        ...


def resolve(value: float | Schedule, progress: Progress) -> float:
    """The current value of a number or a schedule.

    >>> resolve(0.5, Progress())
    0.5
    >>> resolve(linear(1.0, 0.0), Progress(step=3, steps=4))
    0.25
    """
    return float(value(progress)) if callable(value) else float(value)


@final
@dataclass(frozen=True, slots=True)
class Linear:
    """See :func:`linear`."""

    start: float
    end: float

    def __call__(self, progress: Progress) -> float:
        return self.start + (self.end - self.start) * progress.fraction

    def __str__(self) -> str:
        return f"{self.start:g}→{self.end:g}"


@final
@dataclass(frozen=True, slots=True)
class Cosine:
    """See :func:`cosine`."""

    start: float
    end: float

    def __call__(self, progress: Progress) -> float:
        return self.end + (self.start - self.end) * 0.5 * (1.0 + math.cos(math.pi * progress.fraction))

    def __str__(self) -> str:
        return f"{self.start:g}⤳{self.end:g}"


@final
@dataclass(frozen=True, slots=True)
class MultiStep:
    """See :func:`multistep`."""

    start: float
    gamma: float
    milestones: tuple[float, ...]

    def __post_init__(self) -> None:
        if any(not 0 <= milestone <= 1 for milestone in self.milestones):
            raise LimbeckError(f"milestones are fractions of training between 0 and 1, not {self.milestones}")

    def __call__(self, progress: Progress) -> float:
        num_passed = sum(progress.fraction >= milestone for milestone in self.milestones)
        return self.start * float(self.gamma**num_passed)

    def __str__(self) -> str:
        return f"{self.start:g}·{self.gamma:g}^passed{self.milestones}"


@final
@dataclass(frozen=True, slots=True)
class Warmup:
    """See :func:`warmup`."""

    value: float
    fraction: float

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise LimbeckError(f"a warm-up takes a fraction of training above 0 and up to 1, not {self.fraction}")

    def __call__(self, progress: Progress) -> float:
        return self.value * min(progress.fraction / self.fraction, 1.0)

    def __str__(self) -> str:
        return f"0→{self.value:g}"


@final
@dataclass(frozen=True, slots=True)
class StepChange:
    """See :func:`step_change`."""

    before: float
    after: float
    milestone: float

    def __post_init__(self) -> None:
        if not 0 < self.milestone < 1:
            raise LimbeckError(
                f"a step change happens at a fraction of training between 0 and 1, not at {self.milestone}"
            )

    def __call__(self, progress: Progress) -> float:
        return self.after if progress.fraction >= self.milestone else self.before

    def __str__(self) -> str:
        return f"{self.before:g}|{self.after:g} from {self.milestone:g}"


@final
@dataclass(frozen=True, slots=True)
class AcrossStages:
    """See :func:`across_stages`."""

    schedule: Schedule

    def __post_init__(self) -> None:
        if isinstance(self.schedule, type) or not callable(self.schedule):
            raise LimbeckError(
                f"across_stages stretches a schedule over all stages, such as linear(1, 0), not {self.schedule!r}"
            )

    def __call__(self, progress: Progress) -> float:
        return self.schedule(progress.overall())

    def __str__(self) -> str:
        return f"{self.schedule} over all stages"


def linear(start: float, end: float) -> Linear:
    """From ``start`` to ``end`` in a straight line.

    >>> linear(100.0, 0.0)(Progress(step=1, steps=4))
    75.0
    """
    return Linear(start, end)


def cosine(start: float, end: float) -> Cosine:
    """From ``start`` to ``end`` along half a cosine: slow, fast, slow.

    >>> cosine(1.0, 0.0)(Progress(step=1, steps=2))
    0.5
    """
    return Cosine(start, end)


def multistep(start: float, *, gamma: float, milestones: tuple[float, ...]) -> MultiStep:
    """``start``, multiplied by ``gamma`` at each of ``milestones`` (fractions of training).

    >>> multistep(1.0, gamma=0.1, milestones=(0.5, 0.75))(Progress(step=6, steps=10))
    0.1
    """
    return MultiStep(start, gamma, tuple(milestones))


def warmup(value: float, *, fraction: float) -> Warmup:
    """From 0 to ``value`` over the first ``fraction`` of training, then ``value``.

    >>> warmup(8.0, fraction=0.1)(Progress(step=5, steps=100))
    4.0
    """
    return Warmup(value, fraction)


def step_change(before: float, after: float, *, milestone: float) -> StepChange:
    """``before``, and from the fraction ``milestone`` of training on ``after``.

    Distillation followed by supervised training is ``{"kd": step_change(1, 0, milestone=0.5), "target":
    step_change(0, 1, milestone=0.5)}``; a loss of weight 0 is still computed and logged.

    >>> [step_change(0.0, 1.0, milestone=0.5)(Progress(step=i, steps=4)) for i in range(5)]
    [0.0, 0.0, 1.0, 1.0, 1.0]
    """
    return StepChange(before, after, milestone)


def across_stages(schedule: Schedule) -> AcrossStages:
    """``schedule`` over all stages of training instead of each stage.

    >>> across_stages(linear(1.0, 0.0))(Progress(step=0, steps=100, steps_before=300, total_steps=400))
    0.25
    """
    return AcrossStages(schedule)
