"""The comparison as one page that opens from disk and makes no network request."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from limbeck.core.metric_spec import MetricSpec
from limbeck.core.roles import Role
from limbeck.report.compare.comparison import ClassChange, Comparison, VariantResult
from limbeck.report.compare.tables import COST_COLUMNS, metric_columns, non_empty_columns, verdict_label
from limbeck.report.formatting import MISSING, format_gain_number, format_points
from limbeck.report.html.templates import load_template
from limbeck.report.plots.curves import plot_learning_curves
from limbeck.report.plots.latency_scatter import plot_variant_latencies
from limbeck.report.plots.style import assign_styles

_MAX_CLASSES = 12
_NUM_TICKS = 5
_Interval = tuple[float, float]


class ForestRow(NamedTuple):
    """The gain of one variant, with positions in per cent of the axis.

    ``t_interval`` is Student's interval where it extends beyond the bootstrap interval; ``outcome`` is empty for a
    teacher.
    """

    variant: VariantResult
    outcome: str
    mean: float
    interval: _Interval | None
    t_interval: _Interval | None
    resampled_unit: str


class ForestAxis(NamedTuple):
    """Zero and the labeled ticks, in per cent of the axis."""

    zero: float
    ticks: tuple[tuple[float, str], ...]


class ClassDifferenceRow(NamedTuple):
    """One class: for each variant text, number, and shade from −100 to 100."""

    name: str
    num_samples: int
    cells: tuple[tuple[str, float | None, int], ...]


def render_compare_page(comparison: Comparison, *, home_url: str = "") -> str:
    """The page as HTML; the same comparison gives the same bytes. ``home_url`` is an optional link to an index."""
    variants, metrics = comparison.variants, comparison.task_metrics
    styles, primary = assign_styles(variants), metrics.primary_spec
    names, class_rows, num_classes = class_difference_rows(variants, primary)
    students = [variant for variant in variants if variant.is_student and variant.name not in comparison.baselines]
    agreements = [value for row in (comparison.agreement.matrix if comparison.agreement else ()) for value in row]
    return load_template("compare.html.j2", folder=Path(__file__).parent).render(
        comparison=comparison, primary=primary, monitored=metrics.monitored_spec, home_url=home_url, styles=styles,
        verdict_label=verdict_label,
        verdicts=[variant for variant in students if variant.baseline or variant.role != Role.BASELINE],
        metric_columns=non_empty_columns(metric_columns(metrics, variants), variants),
        metric_specs=metrics.metric_specs,
        cost_columns=non_empty_columns(COST_COLUMNS, variants), forest=forest_rows(variants),
        curve_plot=plot_learning_curves(variants, styles, metrics.monitored_spec),
        latency_plot=plot_variant_latencies(variants, styles, primary),
        class_variants=names, class_rows=class_rows, num_classes=num_classes,
        has_seed_gains=any(variant.gain and variant.gain.resampled_unit == "seeds" for variant in variants),
        has_means=any(mean.num_seeds > 1 for variant in variants for mean in variant.metrics.values()),
        num_runs=len({trial.folder for trial in comparison.trials if trial.state == "done"}),
        # The shading of the agreement matrix begins here.
        min_agreement=min((value for value in agreements if value is not None), default=0.0) - 0.02,
    )  # fmt: skip


def forest_rows(variants: Sequence[VariantResult]) -> tuple[list[ForestRow], ForestAxis] | None:
    """The rows of all variants with a gain, and their axis; ``None`` where there is none."""
    gains = [(variant, variant.gain) for variant in variants if variant.gain is not None]
    if not gains:
        return None
    values = [0.0, *(value for _, gain in gains for value in (gain.mean, *(gain.interval or ())))]
    pad = 0.06 * ((max(values) - min(values)) or 0.5)
    low, high = min(values) - pad, max(values) + pad

    def to_percent(value: float) -> float:
        return float(round(100 * (value - low) / (high - low), 2))

    def to_positions(interval: Sequence[float | None] | None) -> _Interval | None:
        start, end = interval or (None, None)
        return None if start is None or end is None else (to_percent(start), to_percent(end))

    rows = []
    for variant, gain in gains:
        is_over_seeds = gain.resampled_unit == "seeds"
        interval = to_positions((gain.low, gain.high) if is_over_seeds else gain.sample_interval)
        t_interval = to_positions((gain.t_low, gain.t_high)) if is_over_seeds else None
        is_wider = t_interval and (interval is None or t_interval[0] < interval[0] or t_interval[1] > interval[1])
        unit = f"{gain.num_seeds} seeds" if is_over_seeds else "test samples, one seed" if gain.interval else "one seed"
        outcome = variant.outcome if variant.is_student else ""
        rows.append(
            ForestRow(variant, outcome, to_percent(gain.mean), interval, t_interval if is_wider else None, unit)
        )
    step = 10.0 ** math.floor(math.log10((high - low) / _NUM_TICKS))
    step = next(step * factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= _NUM_TICKS)
    ticks = [index * step for index in range(math.ceil(low / step), math.floor(high / step) + 1)]
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    labels = tuple((to_percent(tick), format_points(tick, digits=digits)) for tick in ticks)
    return rows, ForestAxis(to_percent(0.0), labels)


def class_difference_rows(
    variants: Sequence[VariantResult], metric: MetricSpec, *, max_classes: int = _MAX_CLASSES
) -> tuple[list[str], list[ClassDifferenceRow], int]:
    """The students with their gains over the baseline by class: names, rows, and the number of all classes.

    The rows are the ``max_classes`` classes with the largest change in any variant.
    """
    students = [variant for variant in variants if variant.class_changes and variant.is_student]
    changes_by_class: dict[str, dict[str, ClassChange]] = {}
    for variant in students:
        for change in variant.class_changes:
            changes_by_class.setdefault(change.name, {})[variant.name] = change
    largest = {name: max(abs(c.gain) for c in changes.values()) for name, changes in changes_by_class.items()}
    largest = dict(sorted(largest.items(), key=lambda item: -item[1])[:max_classes])
    maximum = max(largest.values(), default=0.0) or 1.0

    def make_cell(change: ClassChange | None) -> tuple[str, float | None, int]:
        if change is None:
            return MISSING, None, 0
        return format_gain_number(change.gain, metric), change.gain, round(100 * change.gain / maximum)

    rows = [
        ClassDifferenceRow(
            name, next(iter(changes.values())).num_samples,
            tuple(make_cell(changes.get(variant.name)) for variant in students),
        )
        for name, changes in changes_by_class.items() if name in largest
    ]  # fmt: skip
    return [variant.name for variant in students], rows, len(changes_by_class)
