"""Curves by optimizer step: the validation metric; losses, gradients, learning rate, temperatures of the student."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any, Literal

from limbeck.core.metric_spec import MetricSpec
from limbeck.report.compare.comparison import VariantResult
from limbeck.report.formatting import format_count, format_percent
from limbeck.report.metrics_csv import TemperatureSeries, TrainingCurve
from limbeck.report.plots import style as ink
from limbeck.report.plots.metric_axis import axis_margin, curve_limits, format_metric_axis
from limbeck.report.plots.style import Plot, VariantStyle
from limbeck.report.record import Record

_MARKER_LIMIT = 12
"""Lines with fewer points have markers."""
_MAX_HOVER_STEPS = 60
_Points = tuple[list[float], list[float]]
_Series = Mapping[str, tuple[Sequence[float], Sequence[float]]]
"""Steps and values by name."""


def plot_validation_curves(record: Record, curves: Mapping[str, TrainingCurve]) -> Plot | None:
    """The validation metric of each model of a run; ``None`` where no model has a curve."""
    series, num_by_role = [], Counter[str]()
    for name, model in record.ordered_models():
        if name in curves:
            style = VariantStyle(model.role, ink.MARKERS[model.role], "", num_by_role[model.role])
            num_by_role[model.role] += 1
            series.append((record.display_name(name), style, [curves[name]]))
    return _plot_validation(series, record.monitored_spec, name="curves")


def plot_learning_curves(
    variants: Sequence[VariantResult], styles: Mapping[str, VariantStyle], metric: MetricSpec
) -> Plot | None:
    """The validation metric of variants: a thin line for each seed, and a thick one for the mean."""
    series = [(variant.name, styles[variant.name], variant.curves) for variant in variants]
    return _plot_validation(series, metric, name="learning")


def plot_loss_components(curve: TrainingCurve | None) -> Plot | None:
    """Each loss of the objective with its weight, stacked to the training loss; as lines where a loss is negative."""
    if curve is None or not curve.losses:
        return None
    ax = ink.make_plot(260)
    components = {name: [0.0 if math.isnan(v) else v for v in values] for name, values in curve.losses.items()}
    total = [sum(values) for values in zip(*components.values(), strict=True)]
    all_values = [value for values in components.values() for value in values]
    is_stacked = min(all_values) >= 0 and len(curve.steps) > 1
    note = "Each loss with its weight."
    if is_stacked:
        note = "Each loss with its weight; stacked, they are the training loss."
        lower = [0.0] * len(total)
        for values in components.values():
            upper = [base + component for base, component in zip(lower, values, strict=True)]
            (line,) = ax.plot(curve.steps, upper, linewidth=2)
            ax.fill_between(curve.steps, lower, upper, color=line.get_color(), alpha=0.28, linewidth=0)
            lower = upper
    else:
        for loss_values in curve.losses.values():
            _draw_line(ax, curve.steps, loss_values)
        ax.plot(curve.steps, total, color=ink.COLORS["ink"], linewidth=1.2, linestyle=ink.LINE_STYLES[2])
        note += " The dotted line is their sum." if len(components) > 1 else ""
    heights = total if is_stacked else [*total, *all_values]
    # A large value of the first steps is cut off.
    late_maximum = max(heights[len(heights) // 20 :])
    axis_max = 1.04 * max(max(heights) if max(heights) < 3 * late_maximum else 1.15 * late_maximum, 1e-12)
    ax.set_ylim(0 if is_stacked or min(total) >= 0 else min(total) * 1.05, axis_max)
    if max(total) > axis_max:
        note += f" Higher values of the first steps, up to {max(total):.3g}, are cut off."
    marker: Literal["area", "line"] = "area" if is_stacked else "line"
    return _finish_plot(
        ax, curve, _by_step(curve, curve.losses), "losses", "Components of the training loss", note, marker
    )


def plot_temperatures(
    curve: TrainingCurve | None, series_by_loss: Mapping[str, TemperatureSeries] | None = None
) -> Plot | None:
    """The mean temperature of each loss, with a band from the minimum to the maximum where they differ.

    By step for the losses in ``series_by_loss``, and by epoch for others. ``None`` where all are constant.
    """
    series = _temperature_series(curve, series_by_loss)
    if curve is None or all(map(_is_constant, series.values())):
        return None
    ax, note = ink.make_plot(220), ""
    for steps, mean, low, high in series.values():
        color = _draw_line(ax, steps, mean)
        if any(upper - lower > 1e-9 for lower, upper in zip(low, high, strict=True)):
            ax.fill_between(steps, low, high, color=color, alpha=0.2, linewidth=0)
            note = "The band goes from the minimum to the maximum."
    values = [value for item in series.values() for column in item[1:] for value in column if math.isfinite(value)]
    ax.set_ylim(max(0.0, 0.9 * min(values)), 1.1 * max(values))
    means = {loss: (loss_series.steps, loss_series.mean) for loss, loss_series in series.items()}
    return _finish_plot(ax, curve, means, "temperatures", "Temperature by step", note)


def plot_learning_rate(curve: TrainingCurve | None) -> Plot | None:
    """The learning rate of the first parameter group at the end of each epoch; ``None`` where it is constant."""
    steps, values = learning_rates(curve)
    if curve is None or len(set(values)) < 2:
        return None
    ax = ink.make_plot(220, left=62)
    _draw_line(ax, steps, values)
    ax.set_ylim(0, 1.06 * max(values))
    return _finish_plot(ax, curve, {"learning rate": (steps, values)}, "rates", "Learning rate by step")


def learning_rates(curve: TrainingCurve | None) -> _Points:
    """Steps and learning rates; empty where ``metrics.csv`` holds none."""
    return _finite_points(curve.steps, curve.columns.get("lr", (math.nan,) * len(curve.steps))) if curve else ([], [])


def describe_constants(
    curve: TrainingCurve | None, series_by_loss: Mapping[str, TemperatureSeries] | None = None
) -> str:
    """Learning rate and temperatures that did not change, which have no plot; empty where there is none."""
    series, rates = _temperature_series(curve, series_by_loss), learning_rates(curve)[1]
    texts = [f"learning rate {rates[0]:.3g}"] if len(set(rates)) == 1 else []
    if series and all(map(_is_constant, series.values())):
        # The loss of a later stage has no temperature before.
        values = {loss: next(filter(math.isfinite, item.mean), math.nan) for loss, item in series.items()}
        texts.append(f"temperature of {', '.join(f'{loss} {value:.3g}' for loss, value in values.items())}")
    return f"Constant over the training: {'; '.join(texts)}." if texts else ""


def plot_loss_shares(curve: TrainingCurve | None) -> Plot | None:
    """The magnitude of each loss as a share of their sum; ``None`` where there is only one loss."""
    shares = curve.columns_by_loss("loss_share") if curve else {}
    if curve is None or len(shares) < 2:
        return None
    ax = ink.make_plot(220)
    for values in shares.values():
        _draw_line(ax, curve.steps, values)
    ax.set_ylim(0, 1.02)
    ax.yaxis.set_major_formatter(lambda value, _: format_percent(value, digits=0))
    return _finish_plot(ax, curve, _by_step(curve, shares), "shares", "Share of each loss by step")


def plot_gradient_ratios(curve: TrainingCurve | None) -> Plot | None:
    """The gradient norm of each weighted loss relative to that of the supervised loss, on a log axis."""
    columns = curve.columns_by_loss("grad_norm_ratio") if curve else {}
    columns = {loss: values for loss, values in columns.items() if any(v > 0 for v in values)}
    ratios = {loss: [v if v > 0 else math.nan for v in values] for loss, values in columns.items()}
    if curve is None or not ratios:
        return None
    ax = ink.make_plot(220)
    ax.set_yscale("log")
    ax.tick_params(which="minor", length=0, labelleft=False)
    for values in ratios.values():
        _draw_line(ax, *_finite_points(curve.steps, values))
    finite = [v for values in ratios.values() for v in values if math.isfinite(v)]
    ax.set_ylim(0.7 * min(*finite, 0.5), 1.4 * max(*finite, 2.0))
    ax.axhline(1.0, color=ink.COLORS["muted"], linewidth=1, linestyle=ink.LINE_STYLES[2])
    note = (
        "Norm of the gradient of each weighted loss in the student's parameters, relative to that of the supervised "
        "loss; measured on one batch at intervals. The dotted line marks equal norms."
    )
    return _finish_plot(
        ax, curve, _by_step(curve, ratios), "ratios", "Gradient norm relative to the supervised loss", note
    )


def _plot_validation(
    series: Sequence[tuple[str, VariantStyle, Sequence[TrainingCurve]]], metric: MetricSpec, *, name: str
) -> Plot | None:
    scale, lines = metric.display_scale, list[tuple[str, VariantStyle, list[_Points]]]()
    for label, style, curves in series:
        all_points = (
            _finite_points(curve.steps, [scale * value for value in curve.validation(metric.name)]) for curve in curves
        )
        if seed_points := [points for points in all_points if points[0]]:
            lines.append((label, style, seed_points))
    if not lines:
        return None
    ax, legend = ink.make_plot(270, left=axis_margin(metric, 48)), []
    for label, style, seed_points in lines:
        steps, means = _mean_curve(seed_points)
        for points in seed_points if len(seed_points) > 1 else []:
            ax.plot(*points, color=style.color, linewidth=0.8, alpha=0.35)
        marker = style.marker if len(steps) < _MARKER_LIMIT else None
        ax.plot(steps, means, color=style.color, linewidth=2, linestyle=style.line_style, marker=marker, markersize=5)
        text = f"{label}, last {metric.format(means[-1] / scale)}"
        legend.append(ink.LegendEntry(style.color_name, f"line dash{style.dash_index % 4}", text))
    seed_curves = [points for _, _, seed_points in lines for points in seed_points]
    values = [values for _, values in seed_curves]
    low, high = curve_limits(metric, values)
    ax.set_ylim(low, high)
    ax.set_xlim(0, max(steps[-1] for steps, _ in seed_curves) * 1.01)
    _format_step_axis(ax)
    format_metric_axis(ax, metric)
    notes = [] if metric.higher_is_better else ["Lower is better."]
    if len(seed_curves) > len(lines):
        notes.append("Thin lines are seeds; a thick line is the mean of the seeds that are furthest.")
    if metric.higher_is_better and min(map(min, values)) < low:
        notes.append(f"The axis starts at {low:.4g} {metric.unit}; lower values of the first steps are cut off.")
    if not metric.higher_is_better and max(map(max, values)) > high:
        notes.append(f"The axis ends at {high:.4g} {metric.unit}; higher values of the first steps are cut off.")
    alt_text = f"Validation {metric.text} by step: {'; '.join(entry.label for entry in legend)}."
    means_by_label = {label: _mean_curve(seed_points) for label, _, seed_points in lines}
    hover = _hover_columns(means_by_label, lambda value: metric.format(value / scale))
    return ink.render_plot(ax, name, alt_text, " ".join(notes), legend, hover=hover)


def _hover_columns(series: _Series, formatter: Callable[[float], str]) -> list[ink.HoverPoint]:
    """For each step the values of all series; of many steps evenly chosen ones."""
    values_by_step: dict[float, list[str]] = {}
    for label, (steps, values) in series.items():
        for step, value in zip(steps, values, strict=True):
            values_by_step.setdefault(step, []).append(f"{label}: {formatter(value)}")
    steps = sorted(values_by_step)
    stride = -(-len(steps) // _MAX_HOVER_STEPS)
    shown = steps[::-1][::stride]  # the last step is among them
    return [ink.HoverPoint(step, None, "\n".join([f"step {step:,.0f}", *values_by_step[step]])) for step in shown[::-1]]


def _temperature_series(
    curve: TrainingCurve | None, series_by_loss: Mapping[str, TemperatureSeries] | None
) -> dict[str, TemperatureSeries]:
    if curve is None:
        return {}
    series = dict(series_by_loss or {})
    minima, maxima = (curve.columns_by_loss(f"temperature_{bound}") for bound in ("min", "max"))
    for loss, means in curve.columns_by_loss("temperature").items():
        bounds = (minima.get(loss, means), maxima.get(loss, means))
        series.setdefault(loss, TemperatureSeries(curve.steps, means, *bounds))
    return series


def _is_constant(series: TemperatureSeries) -> bool:
    values = [value for column in series[1:] for value in column if math.isfinite(value)]
    return not values or max(values) - min(values) <= 1e-9 * max(map(abs, values))


def _by_step(curve: TrainingCurve, series: Mapping[str, Sequence[float]]) -> dict[str, _Points]:
    return {name: _finite_points(curve.steps, values) for name, values in series.items()}


def _finite_points(steps: Sequence[float], values: Sequence[float]) -> _Points:
    """Steps and values where the value is finite."""
    pairs = [(step, value) for step, value in zip(steps, values, strict=True) if math.isfinite(value)]
    return [step for step, _ in pairs], [value for _, value in pairs]


def _mean_curve(seed_points: Sequence[_Points]) -> _Points:
    """Mean of the seeds that are furthest, at the steps that they share."""
    values_by_step = [dict(zip(*points, strict=True)) for points in seed_points]
    last_step = max(max(by_step) for by_step in values_by_step)
    values_by_step = [by_step for by_step in values_by_step if max(by_step) == last_step]
    steps = sorted(set.intersection(*map(set, values_by_step)))
    return steps, [fmean(by_step[step] for by_step in values_by_step) for step in steps]


def _draw_line(ax: Any, steps: Sequence[float], values: Sequence[float]) -> str:
    """Draw a line in the next color, and return the color."""
    marker = "o" if sum(map(math.isfinite, values)) < _MARKER_LIMIT else None
    (line,) = ax.plot(steps, values, linewidth=2, marker=marker, markersize=4)
    return str(line.get_color())


def _finish_plot(
    ax: Any, curve: TrainingCurve, series: _Series, name: str, title: str, note: str = "",
    marker: Literal["area", "line"] = "line",
) -> Plot:  # fmt: skip
    """Axis limits, a line where each stage but the first begins, and the legend with the last values."""
    ax.set_xlim(curve.steps[0] if marker == "area" else 0, curve.steps[-1] * (1 if marker == "area" else 1.01))
    for stage, step in list(curve.stages.items())[1:]:
        ax.axvline(step, color=ink.COLORS["muted"], linewidth=1, linestyle=ink.LINE_STYLES[2])
        ax.text(
            step, 0.98, f" {stage}", transform=ax.get_xaxis_transform(), va="top", color=ink.COLORS["muted"],
            fontsize=11, parse_math=False, clip_on=True,
        )  # fmt: skip
    _format_step_axis(ax)
    legend = []
    for index, (loss, (_, values)) in enumerate(series.items()):
        last_value = next(filter(math.isfinite, reversed(values)), math.nan)
        legend.append(ink.LegendEntry(f"t{index % ink.NUM_SERIES + 1}", marker, f"{loss}, last {last_value:.3g}"))
    labels = "; ".join(entry.label for entry in legend)
    hover = _hover_columns(series, lambda value: f"{value:.4g}")
    return ink.render_plot(ax, name, f"{title}: {labels}.", note, legend, hover=hover)


def _format_step_axis(ax: Any) -> None:
    """Optimizer steps as the x-axis, and a few round numbers on a linear y-axis."""
    from matplotlib.ticker import LogLocator, MaxNLocator

    ink.set_label(ax.xaxis, "optimizer steps")
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 2.5, 5, 10]))
    ax.xaxis.set_major_formatter(lambda value, _: format_count(value) if value else "0")
    if ax.get_yscale() == "log":
        low, high = ax.get_ylim()
        if high < 50 * low:  # of powers of ten there would be a single tick
            ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}×")
    else:
        ax.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
