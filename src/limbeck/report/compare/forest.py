"""Differences to the control as lines with their intervals: places on an axis in per cent, which the page draws."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from limbeck.report.compare.comparison import Arm
from limbeck.report.formatting import points

__all__ = ["Axis", "Line", "forest"]

_TICKS = 5


@final
@dataclass(frozen=True, slots=True)
class Line:
    """One arm: where its mean and intervals lie, in per cent of the axis, and the same in words.

    ``wide`` is Student's interval, where it reaches beyond the bootstrap; ``judgement`` is empty for a teacher.
    """

    name: str
    judgement: str
    mean: float
    reach: tuple[float, float] | None
    wide: tuple[float, float] | None
    words: str
    ends: str
    over: str


@final
@dataclass(frozen=True, slots=True)
class Axis:
    """Ticks and zero, in per cent of the axis."""

    zero: float
    ticks: tuple[tuple[float, str], ...]


def forest(arms: Sequence[Arm]) -> tuple[list[Line], Axis] | None:
    """The lines of all arms with a difference, and their axis; ``None`` where there is none."""
    drawn = [(arm, arm.gain) for arm in arms if arm.gain is not None]
    if not drawn:
        return None
    every = [0.0]
    for _, gain in drawn:
        every += [gain.mean, *(gain.interval or ())]
    low, high = min(every), max(every)
    pad = 0.06 * max(high - low, 0.5)
    low, high = low - pad, high + pad

    def place(value: float) -> float:
        return round(100 * (value - low) / (high - low), 2)

    def ends(one: tuple[float | None, float | None] | None) -> tuple[float, float] | None:
        return None if one is None or one[0] is None or one[1] is None else (place(one[0]), place(one[1]))

    lines = []
    for arm, gain in drawn:
        inner = (gain.low, gain.high) if gain.over == "seeds" else gain.samples
        t = ends((gain.t_low, gain.t_high)) if gain.over == "seeds" else None
        reach, whole = ends(inner), gain.interval
        wider = t if t and (reach is None or t[0] < reach[0] or t[1] > reach[1]) else None
        over = f"{gain.n} seeds" if gain.over == "seeds" else "test samples, one seed" if whole else "one seed"
        said = f"{points(whole[0])} to {points(whole[1])}" if whole else "no interval"
        judgement = arm.judgement if arm.student else ""
        lines.append(Line(arm.name, judgement, place(gain.mean), reach, wider, points(gain.mean), said, over))
    return lines, Axis(place(0.0), tuple((place(tick), points(tick, digits=_digits(high - low)))
                                         for tick in _rounds(low, high)))  # fmt: skip


def _rounds(low: float, high: float) -> list[float]:
    """Round numbers between ``low`` and ``high``, at most about five."""
    step = 10.0 ** math.floor(math.log10((high - low) / _TICKS))
    step = next(step * more for more in (1, 2, 5, 10) if (high - low) / (step * more) <= _TICKS)
    first = math.ceil(low / step)
    return [number * step for number in range(first, math.floor(high / step) + 1)]


def _digits(spread: float) -> int:
    return 0 if spread >= _TICKS else 1 if spread >= 0.5 else 2
