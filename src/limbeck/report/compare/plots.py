"""Plots of the comparison: accuracy by step, and accuracy against latency and size."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from limbeck.report.compare.columns import format_milliseconds
from limbeck.report.compare.comparison import VariantResult
from limbeck.report.compare.styles import VariantStyle
from limbeck.report.formatting import format_count, format_percent
from limbeck.report.metrics_csv import TrainingCurve
from limbeck.report.plots import style as ink
from limbeck.report.plots.scatter import marker_size, set_axis_limits

__all__ = ["plot_learning_curves", "plot_variant_latencies"]

_SIZE = (420.0, 280.0)
_LATENCY_TOLERANCE = 1.05
"""Times another one's latency up to which two count as equally quick: one network measured twice differs by as much."""


def plot_learning_curves(variants: Sequence[VariantResult], styles: Mapping[str, VariantStyle]) -> ink.Plot | None:
    """Validation accuracy by step: a thin line for each seed, a thick one for their mean; ``None`` without curves."""
    variants_and_curves = [
        (variant, curves)
        for variant in variants
        if (curves := [curve for curve in variant.curves if _finite_points(curve)[0]])
    ]
    if not variants_and_curves:
        return None
    figure = ink.make_figure(*_SIZE)
    ax = ink.make_axes(figure, left=48, bottom=44, right=14, top=12)
    legend, labels = [], []
    for variant, curves in variants_and_curves:
        style = styles[variant.name]
        means = _mean_curve(curves)
        for curve in curves if len(curves) > 1 else []:
            ax.plot(*_finite_points(curve), color=style.color, linewidth=0.8, alpha=0.35)
        marker = style.marker if len(means[0]) == 1 else None
        ax.plot(*means, color=style.color, linewidth=2, linestyle=style.line_style, marker=marker)
        label = f"{variant.name}, {format_percent(means[1][-1])}"
        legend.append(ink.LegendEntry(style.color_name, f"line dash{style.dash_index % 4}", label))
        labels.append(label)
    all_values = [
        [value for curve in curves for value in _finite_points(curve)[1]] for _, curves in variants_and_curves
    ]
    late_values = [value for _, curves in variants_and_curves for curve in curves for value in _late_accuracies(curve)]
    best = max(max(values) for values in all_values)
    axis_min = max(0.0, math.floor(20 * (min(late_values) - 0.01)) / 20)
    ax.set_ylim(axis_min, min(1.0, best + 0.05 * (best - axis_min)) + 0.002 if best > axis_min else best + 0.01)
    ax.set_xlim(0, max(curve.steps[-1] for _, curves in variants_and_curves for curve in curves) * 1.01)
    _format_ticks(ax, best - axis_min)
    has_several_seeds = any(len(curves) > 1 for _, curves in variants_and_curves)
    note = "Thin lines are seeds, thick ones the mean of those that came furthest." if has_several_seeds else ""
    if any(value < axis_min for values in all_values for value in values):
        axis_note = (
            f"The axis starts at {format_percent(axis_min, digits=0)}; lower values of the first steps are cut off."
        )
        note = f"{note} {axis_note}".strip()
    alt_text = f"Validation accuracy by step, at the end: {'; '.join(labels)}."
    return ink.Plot(ink.render_svg(figure, name="learning"), alt_text, note, tuple(legend))


def plot_variant_latencies(variants: Sequence[VariantResult], styles: Mapping[str, VariantStyle]) -> ink.Plot | None:
    """Accuracy against latency, the mark grows with the size; the line joins the variants that no other one beats."""
    variant_points = [
        (variant, variant.latency_ms, variant.accuracy.mean)
        for variant in variants
        if variant.accuracy and variant.latency_ms
    ]
    if not variant_points:
        return None
    figure = ink.make_figure(*_SIZE)
    ax = ink.make_axes(figure, left=52, bottom=44, right=16, top=14, grid="both")
    bounds = [
        bound
        for variant, *_ in variant_points
        if variant.accuracy
        for bound in (variant.accuracy.low, variant.accuracy.high)
        if bound is not None
    ]
    set_axis_limits(
        ax, [latency for _, latency, _ in variant_points], [*(accuracy for *_, accuracy in variant_points), *bounds]
    )
    front = _pareto_front([(latency, accuracy) for _, latency, accuracy in variant_points])
    ax.step(
        [latency for latency, _ in front], [accuracy for _, accuracy in front], where="post",
        color=ink.COLORS["muted"], linewidth=1,
        linestyle=ink.line_style(1), zorder=1,
    )  # fmt: skip
    legend = []
    for variant, latency, accuracy in sorted(variant_points, key=lambda point: -(point[0].parameters or 0)):
        style = styles[variant.name]
        if variant.accuracy and variant.accuracy.low is not None and variant.accuracy.high is not None:
            ax.vlines(
                [latency], variant.accuracy.low, variant.accuracy.high, color=style.color, linewidth=1.2, alpha=0.6
            )
        ax.plot(
            [latency], [accuracy], linestyle="none", marker=style.marker,
            markersize=0.8 * marker_size(variant.parameters),
            markerfacecolor=style.color, markeredgecolor=ink.COLORS["paper"], markeredgewidth=1.2, alpha=0.92, zorder=3,
        )  # fmt: skip
    for variant, latency, accuracy in variant_points:
        cost = f"{format_milliseconds(latency)} ms, {format_count(variant.parameters)} parameters"
        label = f"{variant.name}, {format_percent(accuracy)}, {cost}"
        legend.append(ink.LegendEntry(styles[variant.name].color_name, styles[variant.name].marker_class, label))
    ax.set_xlabel("latency, median, ms (log scale)", color=ink.COLORS["muted"], fontsize=12, labelpad=6)
    names = ", ".join(variant.name for variant, latency, accuracy in variant_points if (latency, accuracy) in front)
    note = (
        "Up and to the left is better; the mark grows with the logarithm of the parameters. The dashed line joins the "
        f"variants that no other beats in accuracy in the same time: {names}. Latencies within 5 % count as the same."
    )
    description = "; ".join(entry.label for entry in legend)
    return ink.Plot(
        ink.render_svg(figure, name="plane"), f"Accuracy against latency: {description}.", note, tuple(legend)
    )


def _pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The dots that no other one beats by more accuracy in the same time or less, the quickest first.

    >>> _pareto_front([(1.0, 0.80), (1.02, 0.90), (3.0, 0.95), (4.0, 0.93)])
    [(1.02, 0.9), (3.0, 0.95)]
    """

    def is_beaten(point: tuple[float, float]) -> bool:
        latency_limit = _LATENCY_TOLERANCE * point[0]
        return any(accuracy > point[1] and latency <= latency_limit for latency, accuracy in points)

    return sorted(point for point in points if not is_beaten(point))


def _mean_curve(curves: Sequence[TrainingCurve]) -> tuple[list[float], list[float]]:
    """Mean accuracy of the seeds that have come furthest, at the steps that all of them have."""
    accuracy_by_step: list[dict[float, float]] = [dict(zip(*_finite_points(curve), strict=True)) for curve in curves]
    last = max(max(seed_curve) for seed_curve in accuracy_by_step)
    accuracy_by_step = [seed_curve for seed_curve in accuracy_by_step if max(seed_curve) == last]
    steps = sorted(set.intersection(*(set(seed_curve) for seed_curve in accuracy_by_step)))
    return steps, [fmean(seed_curve[step] for seed_curve in accuracy_by_step) for step in steps]


def _finite_points(curve: TrainingCurve) -> tuple[list[float], list[float]]:
    """Steps and accuracies of the rows that have one."""
    pairs = [(step, value) for step, value in zip(curve.steps, curve.accuracy, strict=True) if math.isfinite(value)]
    return [step for step, _ in pairs], [value for _, value in pairs]


def _late_accuracies(curve: TrainingCurve) -> list[float]:
    values = _finite_points(curve)[1]
    return values[len(values) // 10 :]


def _format_ticks(ax: Any, axis_range: float) -> None:
    from matplotlib.ticker import MaxNLocator

    ax.set_xlabel("optimizer steps", color=ink.COLORS["muted"], fontsize=12, labelpad=6)
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 2.5, 5, 10]))
    ax.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    ax.xaxis.set_major_formatter(lambda value, _: format_count(value, significant=2) if value else "0")
    ax.yaxis.set_major_formatter(lambda value, _: format_percent(value, digits=0 if axis_range > 0.04 else 1))
