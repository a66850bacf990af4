"""How training went: validation accuracy of every phase, and what the distilled student's loss was made of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from limbeck.core.roles import Role
from limbeck.report.formatting import format_count, format_percent
from limbeck.report.metrics_csv import TrainingCurve
from limbeck.report.plots import style as ink

if TYPE_CHECKING:
    from limbeck.report.record import Record

__all__ = ["draw_stage_boundaries", "format_step_axis", "last_finite", "plot_accuracy", "plot_loss_components"]

_SIZE = (420.0, 260.0)
_MARKER_LIMIT = 12


def plot_accuracy(record: Record, curves: dict[str, TrainingCurve]) -> ink.Plot | None:
    """Validation accuracy by step for each phase; ``None`` where no phase has any."""
    phases = [
        (name, curves[name])
        for name, _ in record.ordered_models()
        if name in curves and _has_finite(curves[name].accuracy)
    ]
    if not phases:
        return None
    figure = ink.make_figure(*_SIZE)
    ax = ink.make_axes(figure, left=44, bottom=44, right=14, top=12)
    legend, labels = [], []
    num_by_role: dict[str, int] = {}
    for name, curve in phases:
        role = record.models[name].role
        index = num_by_role.get(role, 0)
        num_by_role[role] = index + 1
        ax.plot(
            curve.steps, curve.accuracy, color=ink.role_color(role), linestyle=ink.line_style(index),
            linewidth=1.6 if role == Role.TEACHER else 2, markersize=5,
            marker=ink.role_marker(role) if len(curve.steps) < _MARKER_LIMIT else None,
        )  # fmt: skip
        label = f"{record.display_name(name)}, last {format_percent(last_finite(curve.accuracy))}"
        legend.append(ink.LegendEntry(role, f"line dash{index % 4}", label))
        labels.append(label)
    axis_min = _axis_minimum([curve for _, curve in phases])
    best = max(max(v for v in curve.accuracy if math.isfinite(v)) for _, curve in phases)
    ax.set_ylim(axis_min, min(1.0, best + 0.05 * (best - axis_min)) + 0.002 if best > axis_min else best + 0.01)
    ax.set_xlim(0, max(curve.steps[-1] for _, curve in phases) * 1.01)
    ax.yaxis.set_major_formatter(lambda value, _: format_percent(value, digits=0 if best - axis_min > 0.04 else 1))
    format_step_axis(ax)
    is_cut = any(value < axis_min for _, curve in phases for value in curve.accuracy)
    note = (
        f"The axis starts at {format_percent(axis_min, digits=0)}; lower values of the first steps are cut off."
        if is_cut
        else ""
    )
    return ink.Plot(
        ink.render_svg(figure, name="curves"), f"Validation accuracy by step: {'; '.join(labels)}.", note, tuple(legend)
    )


def plot_loss_components(curve: TrainingCurve | None) -> ink.Plot | None:
    """Each loss of the distilled student's objective; stacked, since they sum to the training loss.

    One that goes below zero cannot be stacked; then all are lines.
    """
    if curve is None or not curve.losses:
        return None
    figure = ink.make_figure(*_SIZE)
    ax = ink.make_axes(figure, left=44, bottom=44, right=14, top=12)
    components = {name: [0.0 if math.isnan(v) else v for v in values] for name, values in curve.losses.items()}
    colors = [f"t{index % ink.NUM_SERIES + 1}" for index in range(len(components))]
    total = [sum(values) for values in zip(*components.values(), strict=True)]
    is_stacked = all(value >= 0 for values in components.values() for value in values) and len(curve.steps) > 1
    if is_stacked:
        lower = [0.0] * len(total)
        for name, values in zip(colors, components.values(), strict=True):
            upper = [base + component for base, component in zip(lower, values, strict=True)]
            ax.fill_between(curve.steps, lower, upper, color=ink.COLORS[name], alpha=0.28, linewidth=0)
            ax.plot(curve.steps, upper, color=ink.COLORS[name], linewidth=2)
            lower = upper
    else:
        for name, line in zip(colors, curve.losses.values(), strict=True):
            marker = "o" if len(line) < _MARKER_LIMIT else None
            ax.plot(curve.steps, line, color=ink.COLORS[name], linewidth=2, marker=marker)
        ax.plot(curve.steps, total, color=ink.COLORS["ink"], linewidth=1.2, linestyle=ink.line_style(2))
    axis_max, low = (
        _axis_maximum(total if is_stacked else [*total, *(v for values in components.values() for v in values)]),
        min(total),
    )
    ax.set_ylim(0 if is_stacked or low >= 0 else low * 1.05, axis_max)
    ax.set_xlim(0 if not is_stacked else curve.steps[0], curve.steps[-1] * (1 if is_stacked else 1.01))
    draw_stage_boundaries(ax, curve)
    format_step_axis(ax)
    legend = [
        ink.LegendEntry(name, "area" if is_stacked else "line", f"{loss}, last {last_finite(values):.3g}")
        for (loss, values), name in zip(curve.losses.items(), colors, strict=True)
    ]
    note = (
        "Each loss with its weight; stacked, they are the training loss."
        if is_stacked
        else "Each loss with its weight."
    )
    note = note if is_stacked or len(components) < 2 else f"{note} The dotted line is their sum."
    if any(value > axis_max for value in total):
        note += f" Higher values of the first steps, up to {max(total):.3g}, are cut off."
    description = ", ".join(f"{loss} ends at {last_finite(values):.3g}" for loss, values in curve.losses.items())
    return ink.Plot(
        ink.render_svg(figure, name="losses"), f"Components of the training loss: {description}.", note, tuple(legend)
    )


def _axis_minimum(curves: Sequence[TrainingCurve]) -> float:
    """Where the axis begins: the lowest accuracy once the first tenth of a training is over, to a round number."""
    late_values = [v for c in curves for v in c.accuracy[len(c.accuracy) // 10 :] if math.isfinite(v)]
    all_values = [v for c in curves for v in c.accuracy if math.isfinite(v)]
    lowest = min(late_values or all_values)
    return max(0.0, math.floor(20 * (lowest - 0.01)) / 20)


def _axis_maximum(total: Sequence[float]) -> float:
    """Where the axis ends: a tall first epoch must not flatten all the others."""
    ordered = sorted(total)
    late_maximum = max(total[len(total) // 20 :])
    return max(ordered[-1] if ordered[-1] < 3 * late_maximum else 1.15 * late_maximum, 1e-12) * 1.04


def draw_stage_boundaries(ax: Any, curve: TrainingCurve) -> None:
    """A line where each stage but the first began."""
    for name, step in list(curve.stages.items())[1:]:
        ax.axvline(step, color=ink.COLORS["muted"], linewidth=1, linestyle=ink.line_style(2))
        ax.text(
            step, 0.98, f" {name}", transform=ax.get_xaxis_transform(), va="top", color=ink.COLORS["muted"],
            fontsize=11, parse_math=False, clip_on=True,
        )  # fmt: skip


def format_step_axis(ax: Any, *, log: bool = False) -> None:
    """Optimizer steps below, and a few round numbers at the side; ``log`` leaves a logarithmic side as it is."""
    from matplotlib.ticker import MaxNLocator

    ax.set_xlabel("optimizer steps", color=ink.COLORS["muted"], fontsize=12, labelpad=6)
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 2.5, 5, 10]))
    if not log:
        ax.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    ax.xaxis.set_major_formatter(lambda value, _: format_count(value, significant=2) if value else "0")


def last_finite(values: Sequence[float]) -> float:
    """The last number that is one."""
    return next((value for value in reversed(values) if math.isfinite(value)), math.nan)


def _has_finite(values: Sequence[float]) -> bool:
    return any(map(math.isfinite, values))
