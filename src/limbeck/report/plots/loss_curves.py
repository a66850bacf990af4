"""The losses of the distilled student by step: values, shares, gradient norms and temperatures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from limbeck.report.metrics_csv import TemperatureSeries, TrainingCurve
from limbeck.report.plots import style as ink

__all__ = ["plot_gradient_ratios", "plot_loss_components", "plot_loss_shares", "plot_temperatures"]


def plot_loss_components(curve: TrainingCurve | None) -> ink.Plot | None:
    """Each loss of the objective with its weight, stacked to the training loss; as lines where a loss is negative."""
    if curve is None or not curve.losses:
        return None
    figure, ax = _make_axes(height=260)
    components: dict[str, Sequence[float]] = {
        name: [0.0 if math.isnan(v) else v for v in values] for name, values in curve.losses.items()
    }  # fmt: skip
    colors = [ink.COLORS[name] for name in _series_colors(components)]
    total = [sum(values) for values in zip(*components.values(), strict=True)]
    all_values = [value for values in components.values() for value in values]
    is_stacked = min(all_values) >= 0 and len(curve.steps) > 1
    if is_stacked:
        lower: Sequence[float] = [0.0] * len(total)
        for color, values in zip(colors, components.values(), strict=True):
            upper = [base + component for base, component in zip(lower, values, strict=True)]
            ax.fill_between(curve.steps, lower, upper, color=color, alpha=0.28, linewidth=0)
            ax.plot(curve.steps, upper, color=color, linewidth=2)
            lower = upper
    else:
        for name, values in zip(_series_colors(components), curve.losses.values(), strict=True):
            _draw_line(ax, curve.steps, values, name)
        ax.plot(curve.steps, total, color=ink.COLORS["ink"], linewidth=1.2, linestyle=ink.line_style(2))
    axis_max = _axis_maximum(total if is_stacked else [*total, *all_values])
    ax.set_ylim(0 if is_stacked or min(total) >= 0 else min(total) * 1.05, axis_max)
    note = "Each loss with its weight"
    note += "; stacked, they are the training loss." if is_stacked else "."
    note += " The dotted line is their sum." if not is_stacked and len(components) > 1 else ""
    if any(value > axis_max for value in total):
        note += f" Higher values of the first steps, up to {max(total):.3g}, are cut off."
    return _finish_plot(
        figure, ax, curve, curve.losses, name="losses", title="Components of the training loss", note=note,
        marker="area" if is_stacked else "line",
    )  # fmt: skip


def plot_temperatures(
    curve: TrainingCurve | None, series_by_loss: Mapping[str, TemperatureSeries] | None = None
) -> ink.Plot | None:
    """The mean temperature of each loss, with a band from the minimum to the maximum where they differ.

    By step for the losses in ``series_by_loss``, and by epoch for others.
    """
    if curve is None:
        return None
    series = dict(series_by_loss or {})
    minima, maxima = (curve.columns_by_loss(f"temperature_{bound}") for bound in ("min", "max"))
    for loss, mean in curve.columns_by_loss("temperature").items():
        series.setdefault(loss, TemperatureSeries(curve.steps, mean, minima.get(loss, mean), maxima.get(loss, mean)))
    if not series:
        return None
    figure, ax = _make_axes()
    note = ""
    for loss_series, name in zip(series.values(), _series_colors(series), strict=True):
        low, high = loss_series.low, loss_series.high
        if any(upper - lower > 1e-9 for lower, upper in zip(low, high, strict=True)):
            ax.fill_between(loss_series.steps, low, high, color=ink.COLORS[name], alpha=0.2, linewidth=0)
            note = "The band goes from the minimum to the maximum."
        _draw_line(ax, loss_series.steps, loss_series.mean, name)
    bounds = [bound for item in series.values() for bound in (*item.mean, *item.low, *item.high)]
    bounds = list(filter(math.isfinite, bounds))
    ax.set_ylim(max(0.0, 0.9 * min(bounds)), 1.1 * max(bounds))
    means = {loss: loss_series.mean for loss, loss_series in series.items()}
    return _finish_plot(figure, ax, curve, means, name="temperatures", title="Temperature by step", note=note)


def plot_loss_shares(curve: TrainingCurve | None) -> ink.Plot | None:
    """The magnitude of each loss as a share of their sum; ``None`` where there is only one loss."""
    shares = curve.columns_by_loss("loss_share") if curve else {}
    if curve is None or len(shares) < 2:
        return None
    figure, ax = _make_axes()
    for values, name in zip(shares.values(), _series_colors(shares), strict=True):
        _draw_line(ax, curve.steps, values, name)
    ax.set_ylim(0, 1.02)
    ax.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    return _finish_plot(figure, ax, curve, shares, name="shares", title="Share of each loss by step", note="")


def plot_gradient_ratios(curve: TrainingCurve | None) -> ink.Plot | None:
    """The gradient norm of each weighted loss relative to that of the supervised loss, on a log axis."""
    columns = curve.columns_by_loss("grad_norm_ratio") if curve else {}
    ratios = {loss: tuple(v if v > 0 else math.nan for v in values) for loss, values in columns.items()}
    ratios = {loss: values for loss, values in ratios.items() if any(map(math.isfinite, values))}
    if curve is None or not ratios:
        return None
    figure, ax = _make_axes()
    ax.set_yscale("log")
    ax.tick_params(which="minor", length=0, labelleft=False)
    for values, name in zip(ratios.values(), _series_colors(ratios), strict=True):
        points = [(step, value) for step, value in zip(curve.steps, values, strict=True) if math.isfinite(value)]
        _draw_line(ax, [step for step, _ in points], [value for _, value in points], name)
    finite = [v for values in ratios.values() for v in values if math.isfinite(v)]
    ax.set_ylim(0.7 * min(*finite, 0.5), 1.4 * max(*finite, 2.0))
    ax.axhline(1.0, color=ink.COLORS["muted"], linewidth=1, linestyle=ink.line_style(2))
    note = (
        "Norm of the gradient of each weighted loss in the student's parameters, relative to that of the supervised "
        "loss; measured on one batch at intervals. The dotted line marks equal norms."
    )
    title = "Gradient norm relative to the supervised loss"
    return _finish_plot(figure, ax, curve, ratios, name="ratios", title=title, note=note)


def _make_axes(height: float = 220) -> tuple[Any, Any]:
    figure = ink.make_figure(420, height)
    return figure, ink.make_axes(figure, left=48, bottom=44, right=14, top=12)


def _series_colors(losses: Mapping[str, object]) -> list[str]:
    return [f"t{index % ink.NUM_SERIES + 1}" for index in range(len(losses))]


def _draw_line(ax: Any, steps: Sequence[float], values: Sequence[float], color: str) -> None:
    marker = "o" if sum(map(math.isfinite, values)) < ink.MARKER_LIMIT else None
    ax.plot(steps, values, color=ink.COLORS[color], linewidth=2, marker=marker, markersize=4)


def _finish_plot(
    figure: Any, ax: Any, curve: TrainingCurve, series: Mapping[str, Sequence[float]], *, name: str, title: str,
    note: str, marker: str = "line",
) -> ink.Plot:  # fmt: skip
    """Axis limits, a line where each stage but the first begins, and the legend with the last values."""
    ax.set_xlim(curve.steps[0] if marker == "area" else 0, curve.steps[-1] * (1 if marker == "area" else 1.01))
    for stage, step in list(curve.stages.items())[1:]:
        ax.axvline(step, color=ink.COLORS["muted"], linewidth=1, linestyle=ink.line_style(2))
        ax.text(
            step, 0.98, f" {stage}", transform=ax.get_xaxis_transform(), va="top", color=ink.COLORS["muted"],
            fontsize=11, parse_math=False, clip_on=True,
        )  # fmt: skip
    ink.format_step_axis(ax)
    if ax.get_yscale() == "log":
        ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}×")
    last_values = [next((v for v in reversed(values) if math.isfinite(v)), math.nan) for values in series.values()]
    labels = [f"{loss}, last {value:.3g}" for loss, value in zip(series, last_values, strict=True)]
    legend = tuple(map(ink.LegendEntry, _series_colors(series), [marker] * len(labels), labels))
    return ink.Plot(ink.render_svg(figure, name=name), f"{title}: {'; '.join(labels)}.", note, legend)


def _axis_maximum(total: Sequence[float]) -> float:
    """The end of the axis: a large value of the first steps is cut off."""
    highest, late_maximum = max(total), max(total[len(total) // 20 :])
    return max(highest if highest < 3 * late_maximum else 1.15 * late_maximum, 1e-12) * 1.04
