"""Numbers that move with training: a weight or a temperature is a plain number or one of these.

Each constructor gives a frozen function of :class:`~limbeck.core.progress.Progress`; all are functions of the fraction
of training that is over, so changing the batch size or the number of epochs keeps their shape. In a training of several
stages that is the fraction of the stage; :func:`overall` makes it the fraction of all stages together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, final, runtime_checkable

from limbeck.core.errors import LimbeckError
from limbeck.core.progress import Progress

__all__ = [
    "Cosine", "Linear", "Overall", "Schedule", "Steps", "Switch", "Warmup", "at", "cosine", "linear", "overall",
    "steps", "switch", "warmup",
]  # fmt: skip


@runtime_checkable
class Schedule(Protocol):
    """A number that depends on how far training is."""

    def __call__(self, progress: Progress) -> float:
        """The number at this moment."""
        ...


def at(value: float | Schedule, progress: Progress) -> float:
    """The number that ``value`` stands for now.

    >>> at(0.5, Progress())
    0.5
    >>> at(linear(1.0, 0.0), Progress(step=3, steps=4))
    0.25
    """
    return float(value(progress)) if callable(value) else float(value)


@final
@dataclass(frozen=True, slots=True)
class Linear:
    """A straight line from ``start`` to ``end``; see :func:`linear`."""

    start: float
    end: float

    def __call__(self, progress: Progress) -> float:
        return self.start + (self.end - self.start) * progress.fraction

    def __str__(self) -> str:
        return f"{self.start:g}→{self.end:g}"


@final
@dataclass(frozen=True, slots=True)
class Cosine:
    """Half a cosine wave from ``start`` to ``end``; see :func:`cosine`."""

    start: float
    end: float

    def __call__(self, progress: Progress) -> float:
        return self.end + (self.start - self.end) * 0.5 * (1.0 + math.cos(math.pi * progress.fraction))

    def __str__(self) -> str:
        return f"{self.start:g}⤳{self.end:g}"


@final
@dataclass(frozen=True, slots=True)
class Steps:
    """``start``, times ``factor`` at each milestone passed; see :func:`steps`."""

    start: float
    factor: float
    milestones: tuple[float, ...]

    def __post_init__(self) -> None:
        if any(not 0 <= mark <= 1 for mark in self.milestones):
            raise LimbeckError(f"milestones are fractions of training between 0 and 1, not {self.milestones}")

    def __call__(self, progress: Progress) -> float:
        passed = sum(progress.fraction >= mark for mark in self.milestones)
        return self.start * float(self.factor**passed)

    def __str__(self) -> str:
        return f"{self.start:g}·{self.factor:g}^passed{self.milestones}"


@final
@dataclass(frozen=True, slots=True)
class Warmup:
    """A ramp from zero to ``value``; see :func:`warmup`."""

    value: float
    over: float

    def __post_init__(self) -> None:
        if not 0 < self.over <= 1:
            raise LimbeckError(f"a warm-up takes a fraction of training above 0 and up to 1, not {self.over}")

    def __call__(self, progress: Progress) -> float:
        return self.value * min(progress.fraction / self.over, 1.0)

    def __str__(self) -> str:
        return f"0→{self.value:g}"


@final
@dataclass(frozen=True, slots=True)
class Switch:
    """One number, then another; see :func:`switch`."""

    before: float
    after: float
    when: float

    def __post_init__(self) -> None:
        if not 0 < self.when < 1:
            raise LimbeckError(f"a switch happens at a fraction of training between 0 and 1, not at {self.when}")

    def __call__(self, progress: Progress) -> float:
        return self.after if progress.fraction >= self.when else self.before

    def __str__(self) -> str:
        return f"{self.before:g}|{self.after:g} from {self.when:g}"


@final
@dataclass(frozen=True, slots=True)
class Overall:
    """A schedule on the clock of all stages; see :func:`overall`."""

    schedule: Schedule

    def __post_init__(self) -> None:
        if isinstance(self.schedule, type) or not callable(self.schedule):
            raise LimbeckError(
                f"overall stretches a schedule over all stages, such as linear(1, 0), not {self.schedule!r}"
            )

    def __call__(self, progress: Progress) -> float:
        return self.schedule(progress.across())

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


def steps(start: float, *, factor: float, milestones: tuple[float, ...]) -> Steps:
    """``start``, multiplied by ``factor`` at each of ``milestones`` (fractions of training).

    >>> steps(1.0, factor=0.1, milestones=(0.5, 0.75))(Progress(step=6, steps=10))
    0.1
    """
    return Steps(start, factor, tuple(milestones))


def warmup(value: float, *, over: float) -> Warmup:
    """From 0 to ``value`` over the first ``over`` (a fraction) of training, then ``value``.

    >>> warmup(8.0, over=0.1)(Progress(step=5, steps=100))
    4.0
    """
    return Warmup(value, over)


def switch(before: float, after: float, *, when: float) -> Switch:
    """``before``, and from the fraction ``when`` of training on ``after``.

    Distillation first and then the task's own loss is ``{"soft": switch(1, 0, when=0.5), "truth": switch(0, 1,
    when=0.5)}``; a weight of 0 keeps a term's figures in the log, and a stage of its own would save its cost.

    >>> [switch(0.0, 1.0, when=0.5)(Progress(step=i, steps=4)) for i in range(5)]
    [0.0, 0.0, 1.0, 1.0, 1.0]
    """
    return Switch(before, after, when)


def overall(schedule: Schedule) -> Overall:
    """``schedule`` over all stages of training together, rather than over each from its start.

    >>> overall(linear(1.0, 0.0))(Progress(step=0, steps=100, before=300, total=400))
    0.25
    """
    return Overall(schedule)
