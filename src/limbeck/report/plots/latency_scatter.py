"""A metric against latency: models as markers that grow with their parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from limbeck.core.metric_spec import MetricSpec
from limbeck.report.compare.comparison import SeedMean, VariantResult
from limbeck.report.formatting import format_count, format_milliseconds
from limbeck.report.latency import LatencyInterval, merge_equal_latencies, model_latencies
from limbeck.report.plots import style as ink
from limbeck.report.plots.metric_axis import axis_margin, format_metric_axis
from limbeck.report.record import Record

_Box = tuple[float, float, float, float]
_EQUAL_NOTE = "Latencies whose 95 % intervals overlap are drawn as equal."


class ScatterPoint(NamedTuple):
    """A model: two lines of text, latency in ms, metric as shown, parameters, marker and its colors."""

    title: str
    subtitle: str
    latency: float
    value: float
    parameters: int | None
    marker: str
    color: str
    edge: str = ink.COLORS["paper"]

    @property
    def marker_size(self) -> float:
        """In points; grows with the logarithm of the parameters."""
        return 9.0 if not self.parameters else 4 + 3 * math.log10(max(self.parameters, 10))


def plot_metric_vs_latency(record: Record) -> ink.Plot | None:
    """The models of a run with their names; ``None`` where none has both a primary metric and a latency."""
    metric, points, labels = record.primary_spec, list[ScatterPoint](), list[str]()
    latencies, intervals = model_latencies(record.models), list[LatencyInterval]()
    for name, model in record.ordered_models():
        value = record.get_metric(model, metric.name)
        if value is not None and name in latencies:
            latency = latencies[name].median
            texts = record.display_name(name), f"{format_count(model.parameters)} parameters"
            style = ink.MARKERS[model.role], ink.COLORS[model.role]
            intervals.append(latencies[name])
            points.append(ScatterPoint(*texts, latency, metric.display_scale * value, model.parameters, *style))
            labels.append(f"{texts[0]} {metric.format(value)} at {latency:.2g} ms")
    if not points:
        return None
    points = _at_merged_latencies(points, intervals)
    ax = _make_axes(points, metric)
    for point in points:
        draw_point(ax, point)
    label_points(ax, points)
    alt_text = f"{metric.heading} against latency: {'; '.join(labels)}."
    hover = [
        ink.HoverPoint(point.latency, point.value, f"{label}\n{_format_latency(interval)}\n{point.subtitle}")
        for point, label, interval in zip(points, labels, intervals, strict=True)
    ]
    note = f"{_direction_note(metric)} {_EQUAL_NOTE}"
    return ink.render_plot(ax, "tradeoff", alt_text, note, hover=hover)


def plot_variant_latencies(
    variants: Sequence[VariantResult], styles: Mapping[str, ink.VariantStyle], metric: MetricSpec
) -> ink.Plot | None:
    """The variants of a comparison with their intervals, and a line that joins the Pareto-optimal ones."""
    scale, means, points, legend = metric.display_scale, list[SeedMean](), list[ScatterPoint](), []
    intervals: list[LatencyInterval] = []
    for variant in variants:
        mean = variant.metrics.get(metric.name)
        if mean and variant.latency and variant.latency_ms:
            style = styles[variant.name]
            cost = f"{format_milliseconds(variant.latency_ms)} ms, {format_count(variant.parameters)} parameters"
            text = f"{variant.name}, {metric.format(mean.mean)}, {cost}"
            means.append(mean)
            intervals.append(variant.latency)
            points.append(
                ScatterPoint(
                    variant.name, cost, variant.latency_ms, scale * mean.mean, variant.parameters, style.marker,
                    style.color,
                )
            )  # fmt: skip
            legend.append(ink.LegendEntry(style.color_name, style.marker_class, text))
    if not points:
        return None
    points = _at_merged_latencies(points, intervals)
    ax = _make_axes(points, metric, [scale * end for mean in means for end in mean.interval or ()])
    front = _pareto_front([(point.latency, point.value) for point in points], sign=metric.sign)
    if len(front) > 1:
        ax.step(
            *zip(*front, strict=True), where="post", color=ink.COLORS["muted"], linewidth=1,
            linestyle=ink.LINE_STYLES[1], zorder=1,
        )  # fmt: skip
    for mean, point in zip(means, points, strict=True):
        if mean.interval:
            ax.vlines(
                [point.latency], *(scale * end for end in mean.interval), color=point.color, linewidth=1.2, alpha=0.6
            )
        # Small markers in front of large ones.
        draw_point(ax, point, scale=0.8, zorder=3 - point.marker_size / 100)
    note = f"{_direction_note(metric)} {_EQUAL_NOTE}"
    if len(front) > 1:
        names = ", ".join(point.title for point in points if (point.latency, point.value) in front)
        note += (
            " The dashed line joins the Pareto-optimal variants: no other has a better "
            f"{metric.text} at the same or a lower latency: {names}."
        )
    alt_text = f"{metric.heading} against latency: {'; '.join(entry.label for entry in legend)}."
    hover = [
        ink.HoverPoint(point.latency, point.value, f"{entry.label}\n{_format_latency(interval)}")
        for point, entry, interval in zip(points, legend, intervals, strict=True)
    ]
    return ink.render_plot(ax, "plane", alt_text, note, legend, hover=hover)


def draw_point(ax: Any, point: ScatterPoint, *, scale: float = 1.0, zorder: float = 3) -> None:
    """Draw the marker of a model."""
    ax.plot(
        [point.latency], [point.value], linestyle="none", marker=point.marker, markersize=scale * point.marker_size,
        markerfacecolor=point.color, markeredgecolor=point.edge, markeredgewidth=1.5, alpha=0.95, zorder=zorder,
    )  # fmt: skip


def set_axis_limits(ax: Any, latencies: Sequence[float], values: Sequence[float], metric: MetricSpec) -> None:
    """A logarithmic latency axis and a metric axis with margins and round ticks; ``values`` are as shown."""
    from matplotlib.ticker import MaxNLocator, NullLocator

    ax.set_xscale("log")
    ratio = max(max(latencies) / min(latencies), 1.6)
    low, high = min(latencies) / ratio**0.22, max(latencies) * ratio**0.22
    ax.set_xlim(low, high)
    round_numbers = [base * 10.0**power for power in range(-7, 8) for base in (1, 2, 3, 5)]
    ticks = [tick for tick in round_numbers if low <= tick <= high]
    while len(ticks) > 6:
        ticks = ticks[::2]
    if len(ticks) < 2:
        ticks = [tick for tick in MaxNLocator(3).tick_values(low, high) if low <= tick <= high]
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    value_range = max(max(values) - min(values), 1.0 if metric.unit == "%" else 0.1 * abs(max(values)) or 1.0)
    ax.set_ylim(min(values) - 0.3 * value_range, max(values) + 0.3 * value_range)
    format_metric_axis(ax, metric)


def label_points(ax: Any, points: Sequence[ScatterPoint], *, occupied: Sequence[_Box] = ()) -> None:
    """Two lines of text next to each marker that overlap no marker, no other label, and no box in ``occupied``.

    Boxes are left, bottom, right and top in pixels of the figure.
    """
    axes_box = ax.get_window_extent()
    limits = (axes_box.x0 - 4, axes_box.y0, axes_box.x1 + 12, axes_box.y1 + 8)
    markers = [(*ax.transData.transform((point.latency, point.value)), point.marker_size / 2 + 2) for point in points]
    boxes = [*occupied, *((x - r, y - r, x + r, y + r) for x, y, r in markers)]
    for point, (x, y, r) in zip(points, markers, strict=True):
        width = 6.4 * max(len(point.title) * 1.05, len(point.subtitle) * 0.92)
        is_right_half = x > axes_box.x0 + axes_box.width / 2
        placements = []
        for offset_y in (0, 16, -16, 32, -32, 48, -48, 64, -64):
            for on_left in (is_right_half, not is_right_half):
                edge = x - r - 4 - width if on_left else x + r + 4
                placements.append((on_left, offset_y, (edge, y + offset_y - 14, edge + width, y + offset_y + 14)))
        free_placements = (placement for placement in placements if _is_free(placement[2], limits, boxes))
        on_left, offset_y, label_box = next(free_placements, placements[0])
        boxes.append(label_box)
        for text, is_title in ((point.title, True), (point.subtitle, False)):
            ax.annotate(
                text, (point.latency, point.value), textcoords="offset points",
                xytext=((r + 4) * (-1 if on_left else 1), offset_y + (7 if is_title else -7)),
                ha="right" if on_left else "left", va="center", weight="bold" if is_title else "normal",
                fontsize=12 if is_title else 11, color=ink.COLORS["ink" if is_title else "muted"], parse_math=False,
            )  # fmt: skip


def _direction_note(metric: MetricSpec) -> str:
    direction = "Up" if metric.higher_is_better else "Down"
    return f"{direction} and to the left is better. The marker grows with the logarithm of the parameters."


def _at_merged_latencies(points: Sequence[ScatterPoint], intervals: Sequence[LatencyInterval]) -> list[ScatterPoint]:
    merged = merge_equal_latencies(intervals)
    return [point._replace(latency=latency) for point, latency in zip(points, merged, strict=True)]


def _format_latency(interval: LatencyInterval) -> str:
    median, low, high = map(format_milliseconds, interval)
    return f"{median} ms, 95 % interval {low} to {high}"


def _make_axes(points: Sequence[ScatterPoint], metric: MetricSpec, bounds: Sequence[float] = ()) -> Any:
    ax = ink.make_plot(280, left=axis_margin(metric, 52), right=16, top=14, grid="both")
    set_axis_limits(ax, [point.latency for point in points], [*(point.value for point in points), *bounds], metric)
    ink.set_label(ax.xaxis, "latency, median, ms (log scale)")
    return ax


def _pareto_front(points: Sequence[tuple[float, float]], *, sign: float) -> list[tuple[float, float]]:
    """The points for which no other is better at the same or a lower latency, fastest first.

    >>> points = [(1.0, 0.80), (1.0, 0.90), (3.0, 0.95), (4.0, 0.93)]
    >>> _pareto_front(points, sign=1.0), _pareto_front(points, sign=-1.0)
    ([(1.0, 0.9), (3.0, 0.95)], [(1.0, 0.8)])
    """
    return sorted(
        (latency, value) for latency, value in points
        if not any(sign * other > sign * value and t <= latency for t, other in points)
    )  # fmt: skip


def _is_free(box: _Box, limits: _Box, boxes: Sequence[_Box]) -> bool:
    """Whether ``box`` lies within ``limits`` and overlaps none of ``boxes``."""
    left, bottom, right, top = box
    is_inside = left >= limits[0] and bottom >= limits[1] and right <= limits[2] and top <= limits[3]
    return is_inside and not any(left < b[2] and b[0] < right and bottom < b[3] and b[1] < top for b in boxes)
