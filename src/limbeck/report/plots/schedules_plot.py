"""What changed while the distilled student was trained: temperatures, loss shares, and gradient norms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from limbeck.report.plots import style as ink
from limbeck.report.plots.curves import draw_stage_boundaries, format_step_axis, last_finite
from limbeck.report.temperature_csv import TemperatureSeries

if TYPE_CHECKING:
    from limbeck.report.metrics_csv import TrainingCurve

__all__ = ["plot_gradient_ratios", "plot_loss_shares", "plot_temperatures"]

_SIZE = (420.0, 220.0)
_MARKER_LIMIT = 12


def plot_temperatures(
    curve: TrainingCurve | None, series_by_loss: Mapping[str, TemperatureSeries] | None = None
) -> ink.Plot | None:
    """The mean temperature of each loss, with a band from the lowest to the highest where they differ.

    By step where ``series_by_loss`` has it, and else by epoch.
    """
    if curve is None:
        return None
    series = dict(series_by_loss or {})
    for loss, mean in curve.columns_by_loss("temperature").items():
        low, high = (curve.columns_by_loss(kind).get(loss, mean) for kind in ("temperature_min", "temperature_max"))
        series.setdefault(loss, TemperatureSeries(curve.steps, mean, low, high))
    if not series:
        return None
    figure, ax = _make_axes()
    has_band = False
    for loss_series, name in zip(series.values(), _series_colors(series), strict=True):
        if any(upper - lower > 1e-9 for lower, upper in zip(loss_series.low, loss_series.high, strict=True)):
            ax.fill_between(
                loss_series.steps, loss_series.low, loss_series.high, color=ink.COLORS[name], alpha=0.2, linewidth=0
            )
            has_band = True
        _draw_line(ax, loss_series.steps, loss_series.mean, name)
    all_values = [
        v
        for loss_series in series.values()
        for values in (loss_series.mean, loss_series.low, loss_series.high)
        for v in values
        if math.isfinite(v)
    ]
    ax.set_ylim(max(0.0, 0.9 * min(all_values)), 1.1 * max(all_values))
    note = "The band goes from the lowest to the highest." if has_band else ""
    means = {loss: loss_series.mean for loss, loss_series in series.items()}
    return _finish_plot(figure, ax, curve, means, name="temperatures", title="Temperature by step", note=note)


def plot_loss_shares(curve: TrainingCurve | None) -> ink.Plot | None:
    """The size of each loss as a share of the sizes of all; ``None`` where there is one loss only."""
    shares_by_loss = {} if curve is None else curve.columns_by_loss("loss_share")
    if curve is None or len(shares_by_loss) < 2:
        return None
    figure, ax = _make_axes()
    for values, name in zip(shares_by_loss.values(), _series_colors(shares_by_loss), strict=True):
        _draw_line(ax, curve.steps, values, name)
    ax.set_ylim(0, 1.02)
    ax.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    return _finish_plot(figure, ax, curve, shares_by_loss, name="shares", title="Share of each loss by step", note="")


def plot_gradient_ratios(curve: TrainingCurve | None) -> ink.Plot | None:
    """The gradient norm of each loss relative to that of the supervised loss, on a log axis; weights included."""
    ratios = (
        {}
        if curve is None
        else {loss: _mask_non_positive(values) for loss, values in curve.columns_by_loss("grad_norm_ratio").items()}
    )
    ratios = {loss: values for loss, values in ratios.items() if any(map(math.isfinite, values))}
    if curve is None or not ratios:
        return None
    figure, ax = _make_axes()
    ax.set_yscale("log")
    ax.tick_params(which="minor", length=0, labelleft=False)
    for values, name in zip(ratios.values(), _series_colors(ratios), strict=True):
        points = [(step, value) for step, value in zip(curve.steps, values, strict=True) if math.isfinite(value)]
        _draw_line(ax, [step for step, _ in points], [value for _, value in points], name)
    all_values = [v for values in ratios.values() for v in values if math.isfinite(v)]
    low, high = min(*all_values, 0.5), max(*all_values, 2.0)
    ax.set_ylim(0.7 * low, 1.4 * high)
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}×")
    ax.axhline(1.0, color=ink.COLORS["muted"], linewidth=1, linestyle=ink.line_style(2))
    note = (
        "Norm of each loss's gradient in the student's weights, with its weight, over that of the supervised loss; "
        "measured on one batch at intervals. On the dotted line both are equal."
    )
    return _finish_plot(
        figure, ax, curve, ratios, name="ratios", title="Gradient norm relative to the supervised loss", note=note,
        log=True,
    )  # fmt: skip


def _make_axes() -> tuple[Any, Any]:
    figure = ink.make_figure(*_SIZE)
    return figure, ink.make_axes(figure, left=48, bottom=44, right=14, top=12)


def _series_colors(losses: Mapping[str, object]) -> list[str]:
    return [f"t{index % ink.NUM_SERIES + 1}" for index in range(len(losses))]


def _draw_line(ax: Any, steps: Sequence[float], values: Sequence[float], color: str) -> None:
    marker = "o" if sum(map(math.isfinite, values)) < _MARKER_LIMIT else None
    ax.plot(steps, values, color=ink.COLORS[color], linewidth=2, marker=marker, markersize=4)


def _finish_plot(
    figure: Any, ax: Any, curve: TrainingCurve, series: Mapping[str, Sequence[float]], *, name: str, title: str,
    note: str,
    log: bool = False,
) -> ink.Plot:  # fmt: skip
    ax.set_xlim(0, curve.steps[-1] * 1.01)
    draw_stage_boundaries(ax, curve)
    format_step_axis(ax, log=log)
    labels = [f"{loss}, last {last_finite(values):.3g}" for loss, values in series.items()]
    legend = tuple(
        ink.LegendEntry(color, "line", text) for color, text in zip(_series_colors(series), labels, strict=True)
    )
    return ink.Plot(ink.render_svg(figure, name=name), f"{title}: {'; '.join(labels)}.", note, legend)


def _mask_non_positive(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(value if value > 0 else math.nan for value in values)
