"""Validation accuracy by step, of the models of a run or the variants of a comparison."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from limbeck.report.formatting import format_percent
from limbeck.report.metrics_csv import TrainingCurve
from limbeck.report.plots import style as ink
from limbeck.report.plots.style import VariantStyle

if TYPE_CHECKING:
    from limbeck.report.compare.comparison import VariantResult
    from limbeck.report.record import Record

__all__ = ["plot_accuracy", "plot_learning_curves"]

_Points = tuple[list[float], list[float]]


def plot_accuracy(record: Record, curves: Mapping[str, TrainingCurve]) -> ink.Plot | None:
    """A line for each model of a run; ``None`` where no model has a curve."""
    series, num_by_role = [], Counter[str]()
    for name, model in record.ordered_models():
        if name in curves:
            style = VariantStyle(model.role, ink.role_marker(model.role), "", num_by_role[model.role])
            num_by_role[model.role] += 1
            series.append((record.display_name(name), style, [curves[name]]))
    return _plot_curves(series, name="curves")


def plot_learning_curves(variants: Sequence[VariantResult], styles: Mapping[str, VariantStyle]) -> ink.Plot | None:
    """A thin line for each seed of a variant, and a thick one for the mean; ``None`` without curves."""
    return _plot_curves([(variant.name, styles[variant.name], variant.curves) for variant in variants], name="learning")


def _plot_curves(series: Sequence[tuple[str, VariantStyle, Sequence[TrainingCurve]]], *, name: str) -> ink.Plot | None:
    lines: list[tuple[str, VariantStyle, list[_Points]]] = []
    for label, style, curves in series:
        seed_points = [points for curve in curves if (points := _finite_points(curve))[0]]
        lines += [(label, style, seed_points)] if seed_points else []
    if not lines:
        return None
    figure = ink.make_figure(420, 270)
    ax = ink.make_axes(figure, left=48, bottom=44, right=14, top=12)
    legend = []
    for label, style, seed_points in lines:
        steps, means = _mean_curve(seed_points)
        for points in seed_points if len(seed_points) > 1 else []:
            ax.plot(*points, color=style.color, linewidth=0.8, alpha=0.35)
        marker = style.marker if len(steps) < ink.MARKER_LIMIT else None
        ax.plot(steps, means, color=style.color, linewidth=2, linestyle=style.line_style, marker=marker, markersize=5)
        text = f"{label}, last {format_percent(means[-1])}"
        legend.append(ink.LegendEntry(style.color_name, f"line dash{style.dash_index % 4}", text))
    all_points = [points for _, _, seed_points in lines for points in seed_points]
    values = [value for _, accuracies in all_points for value in accuracies]
    # The axis begins at the lowest accuracy after the first tenth of a training, rounded down to 5 %.
    lowest = min(min(accuracies[len(accuracies) // 10 :]) for _, accuracies in all_points)
    axis_min, best = max(0.0, math.floor(20 * (lowest - 0.01)) / 20), max(values)
    axis_range = best - axis_min
    ax.set_ylim(axis_min, min(1.0, best + 0.05 * axis_range) + 0.002 if axis_range > 0 else best + 0.01)
    ax.set_xlim(0, max(steps[-1] for steps, _ in all_points) * 1.01)
    ink.format_step_axis(ax)
    ax.yaxis.set_major_formatter(lambda value, _: format_percent(value, digits=0 if axis_range > 0.04 else 1))
    notes = []
    if len(all_points) > len(lines):
        notes.append("Thin lines are seeds; a thick line is the mean of the seeds that are furthest.")
    if min(values) < axis_min:
        start = format_percent(axis_min, digits=0)
        notes.append(f"The axis starts at {start}; lower values of the first steps are cut off.")
    alt_text = f"Validation accuracy by step: {'; '.join(entry.label for entry in legend)}."
    return ink.Plot(ink.render_svg(figure, name=name), alt_text, " ".join(notes), tuple(legend))


def _finite_points(curve: TrainingCurve) -> _Points:
    """Steps and accuracies of the rows that have an accuracy."""
    pairs = [(step, value) for step, value in zip(curve.steps, curve.accuracy, strict=True) if math.isfinite(value)]
    return [step for step, _ in pairs], [value for _, value in pairs]


def _mean_curve(seed_points: Sequence[_Points]) -> _Points:
    """Mean accuracy of the seeds that are furthest, at the steps that they share."""
    accuracies_by_step = [dict(zip(*points, strict=True)) for points in seed_points]
    last_step = max(max(by_step) for by_step in accuracies_by_step)
    accuracies_by_step = [by_step for by_step in accuracies_by_step if max(by_step) == last_step]
    steps = sorted(set.intersection(*map(set, accuracies_by_step)))
    return steps, [fmean(by_step[step] for by_step in accuracies_by_step) for step in steps]
