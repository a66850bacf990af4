"""The comparison as one page that opens from disk and makes no network request."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from limbeck.core.roles import Role
from limbeck.report.compare.comparison import Comparison, VariantResult
from limbeck.report.compare.tables import COST_COLUMNS, METRIC_COLUMNS, non_empty_columns, verdict_label
from limbeck.report.formatting import MISSING, format_date, format_interval, format_points
from limbeck.report.html.templates import load_template
from limbeck.report.plots.accuracy_curves import plot_learning_curves
from limbeck.report.plots.latency_scatter import plot_variant_latencies
from limbeck.report.plots.style import assign_styles

__all__ = ["class_difference_rows", "forest_rows", "render_compare_page"]

_MAX_CLASSES = 12
_NUM_TICKS = 5


@final
@dataclass(frozen=True, slots=True)
class ForestRow:
    """The difference of one variant: positions in per cent of the axis, and the same as text.

    ``t_interval`` is Student's interval where it extends beyond the bootstrap interval; ``outcome`` is empty for a
    teacher.
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
    """Zero and the labeled ticks, in per cent of the axis."""

    zero: float
    ticks: tuple[tuple[float, str], ...]


@final
@dataclass(frozen=True, slots=True)
class ClassDifferenceRow:
    """One class: for each variant text, number, and shade from −100 to 100."""

    name: str
    num_samples: int
    cells: tuple[tuple[str, float | None, int], ...]


def render_compare_page(comparison: Comparison, *, home_url: str = "") -> str:
    """The page as HTML; the same comparison gives the same bytes. ``home_url`` is an optional link to an index."""
    variants, trials = comparison.variants, comparison.trials
    styles = assign_styles(variants)
    names, rows, num_classes = class_difference_rows(variants)
    states = Counter(trial.state for trial in trials)
    students = [variant for variant in variants if variant.is_student and variant.name not in comparison.baselines]
    agreements = [value for row in (comparison.agreement.matrix if comparison.agreement else ()) for value in row]
    context: dict[str, Any] = {
        "styles": styles, "created": format_date(comparison.created), "verdict_label": verdict_label,
        "verdicts": [variant for variant in students if variant.baseline or variant.role != Role.BASELINE],
        "metric_columns": non_empty_columns(METRIC_COLUMNS, variants),
        "cost_columns": non_empty_columns(COST_COLUMNS, variants), "forest": forest_rows(variants),
        "curve_plot": plot_learning_curves(variants, styles),
        "latency_plot": plot_variant_latencies(variants, styles),
        "class_variants": names, "class_rows": rows, "num_classes": num_classes,
        "states": {state: states[state] for state in ("done", "running", "waiting", "failed") if states[state]},
        "seed_counts": {variant.name: _format_seed_count(comparison, variant.name) for variant in variants},
        "has_means": any(variant.accuracy and variant.accuracy.num_seeds > 1 for variant in variants),
        "num_runs": len({trial.folder for trial in trials if trial.state == "done"}),
        "titled_variants": [variant for variant in variants if variant.title or variant.note],
        # The shading of the agreement matrix begins here.
        "min_agreement": min((value for value in agreements if value is not None), default=0.0) - 0.02,
        "has_single_seed": any(variant.gain and variant.gain.resampled_unit == "samples" for variant in variants),
    }  # fmt: skip
    template = load_template("compare.html.j2", folder=Path(__file__).parent)
    return template.render(comparison=comparison, home_url=home_url, **context)


def forest_rows(variants: Sequence[VariantResult]) -> tuple[list[ForestRow], ForestAxis] | None:
    """The rows of all variants with a difference, and their axis; ``None`` where there is none."""
    gains = [(variant, variant.gain) for variant in variants if variant.gain is not None]
    if not gains:
        return None
    values = [0.0, *(value for _, gain in gains for value in (gain.mean, *(gain.interval or ())))]
    pad = 0.06 * max(max(values) - min(values), 0.5)
    low, high = min(values) - pad, max(values) + pad

    def to_percent(value: float) -> float:
        return float(round(100 * (value - low) / (high - low), 2))

    def to_positions(interval: Sequence[float | None] | None) -> tuple[float, float] | None:
        start, end = interval or (None, None)
        return None if start is None or end is None else (to_percent(start), to_percent(end))

    rows = []
    for variant, gain in gains:
        is_over_seeds = gain.resampled_unit == "seeds"
        interval = to_positions((gain.low, gain.high) if is_over_seeds else gain.sample_interval)
        t_interval = to_positions((gain.t_low, gain.t_high)) if is_over_seeds else None
        is_wider = t_interval and (interval is None or t_interval[0] < interval[0] or t_interval[1] > interval[1])
        unit = f"{gain.num_seeds} seeds" if is_over_seeds else "test samples, one seed" if gain.interval else "one seed"
        rows.append(
            ForestRow(
                variant.name, variant.outcome if variant.is_student else "", to_percent(gain.mean), interval,
                t_interval if is_wider else None, format_points(gain.mean),
                format_interval(*gain.interval) if gain.interval else "no interval", unit,
            )
        )  # fmt: skip
    digits = 0 if high - low >= _NUM_TICKS else 1 if high - low >= 0.5 else 2
    ticks = tuple((to_percent(tick), format_points(tick, digits=digits)) for tick in _round_ticks(low, high))
    return rows, ForestAxis(to_percent(0.0), ticks)


def class_difference_rows(
    variants: Sequence[VariantResult], *, max_classes: int = _MAX_CLASSES
) -> tuple[list[str], list[ClassDifferenceRow], int]:
    """The students with their differences to the baseline by class: names, rows, and the number of all classes.

    The rows are the ``max_classes`` classes with the largest change in any variant.
    """
    students = [variant for variant in variants if variant.class_changes and variant.is_student]
    changes = [{change.name: change for change in variant.class_changes} for variant in students]
    names = list(dict.fromkeys(name for by_class in changes for name in by_class))
    largest = {name: max(abs(by_class[name].points) for by_class in changes if name in by_class) for name in names}
    shown = set(sorted(names, key=lambda name: -largest[name])[:max_classes])
    maximum = max((largest[name] for name in shown), default=0.0) or 1.0
    rows = []
    for name in (name for name in names if name in shown):
        class_changes = [by_class.get(name) for by_class in changes]
        cells = tuple(
            (format_points(change.points), change.points, round(100 * change.points / maximum))
            if change else (MISSING, None, 0)
            for change in class_changes
        )  # fmt: skip
        rows.append(ClassDifferenceRow(name, next(change.num_samples for change in class_changes if change), cells))
    return [variant.name for variant in students], rows, len(names)


def _round_ticks(low: float, high: float) -> list[float]:
    """At most about five round numbers between ``low`` and ``high``."""
    step = 10.0 ** math.floor(math.log10((high - low) / _NUM_TICKS))
    step = next(step * factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= _NUM_TICKS)
    return [index * step for index in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _format_seed_count(comparison: Comparison, variant: str) -> str:
    """The number of finished seeds of a variant, and of all where they differ."""
    num_done, num_trials = comparison.count_seeds(variant), sum(trial.variant == variant for trial in comparison.trials)
    return str(num_done) if num_done == num_trials else f"{num_done} of {num_trials}"
