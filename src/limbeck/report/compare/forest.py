"""Differences to the baseline as rows with their intervals: positions on an axis in per cent, which the page draws."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from limbeck.report.compare.comparison import VariantResult
from limbeck.report.formatting import format_points

__all__ = ["ForestAxis", "ForestRow", "forest_rows"]

_NUM_TICKS = 5


@final
@dataclass(frozen=True, slots=True)
class ForestRow:
    """One variant: where its mean and intervals lie, in per cent of the axis, and the same as text.

    ``t_interval`` is Student's interval, where it reaches beyond the bootstrap; ``outcome`` is empty for a teacher.
    """

    name: str
    outcome: str
    mean: float
    interval: tuple[float, float] | None
    t_interval: tuple[float, float] | None
    label: str
    interval_text: str
    resampled_unit: str


@final
@dataclass(frozen=True, slots=True)
class ForestAxis:
    """Ticks and zero, in per cent of the axis."""

    zero: float
    ticks: tuple[tuple[float, str], ...]


def forest_rows(variants: Sequence[VariantResult]) -> tuple[list[ForestRow], ForestAxis] | None:
    """The rows of all variants with a difference, and their axis; ``None`` where there is none."""
    variants_and_gains = [(variant, variant.gain) for variant in variants if variant.gain is not None]
    if not variants_and_gains:
        return None
    all_values = [0.0]
    for _, gain in variants_and_gains:
        all_values += [gain.mean, *(gain.interval or ())]
    low, high = min(all_values), max(all_values)
    pad = 0.06 * max(high - low, 0.5)
    low, high = low - pad, high + pad

    def to_percent(value: float) -> float:
        return round(100 * (value - low) / (high - low), 2)

    def interval_to_percent(interval: tuple[float | None, float | None] | None) -> tuple[float, float] | None:
        return (
            None
            if interval is None or interval[0] is None or interval[1] is None
            else (to_percent(interval[0]), to_percent(interval[1]))
        )

    rows = []
    for variant, gain in variants_and_gains:
        bootstrap_interval = (gain.low, gain.high) if gain.resampled_unit == "seeds" else gain.sample_interval
        student_interval = interval_to_percent((gain.t_low, gain.t_high)) if gain.resampled_unit == "seeds" else None
        interval, full_interval = interval_to_percent(bootstrap_interval), gain.interval
        wider_interval = (
            student_interval
            if student_interval
            and (interval is None or student_interval[0] < interval[0] or student_interval[1] > interval[1])
            else None
        )
        resampled_unit = (
            f"{gain.num_seeds} seeds"
            if gain.resampled_unit == "seeds"
            else "test samples, one seed"
            if full_interval
            else "one seed"
        )
        interval_text = (
            f"{format_points(full_interval[0])} to {format_points(full_interval[1])}"
            if full_interval
            else "no interval"
        )
        outcome = variant.outcome if variant.is_student else ""
        rows.append(
            ForestRow(
                variant.name,
                outcome,
                to_percent(gain.mean),
                interval,
                wider_interval,
                format_points(gain.mean),
                interval_text,
                resampled_unit,
            )
        )
    digits = _tick_digits(high - low)
    ticks = tuple((to_percent(tick), format_points(tick, digits=digits)) for tick in _round_ticks(low, high))
    return rows, ForestAxis(to_percent(0.0), ticks)


def _round_ticks(low: float, high: float) -> list[float]:
    """Round numbers between ``low`` and ``high``, at most about five."""
    step = 10.0 ** math.floor(math.log10((high - low) / _NUM_TICKS))
    step = next(step * factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= _NUM_TICKS)
    first = math.ceil(low / step)
    return [index * step for index in range(first, math.floor(high / step) + 1)]


def _tick_digits(axis_range: float) -> int:
    return 0 if axis_range >= _NUM_TICKS else 1 if axis_range >= 0.5 else 2
