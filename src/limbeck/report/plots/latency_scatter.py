"""Accuracy against latency: models as markers that grow with their parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from limbeck.report.compare.comparison import VariantResult
from limbeck.report.formatting import format_count, format_milliseconds, format_percent
from limbeck.report.plots import style as ink
from limbeck.report.record import Record

_Box = tuple[float, float, float, float]
_LATENCY_TOLERANCE = 1.05
"""Latencies whose ratio is below this count as equal: two measurements of one network differ as much."""
_NOTE = "Up and to the left is better. The marker grows with the logarithm of the parameters."


class ScatterPoint(NamedTuple):
    """A model: two lines of text, latency in ms, accuracy as a fraction, parameters, marker and its colors."""

    title: str
    subtitle: str
    latency: float
    accuracy: float
    parameters: int | None
    marker: str
    color: str
    edge: str = ink.COLORS["paper"]

    @property
    def marker_size(self) -> float:
        """In points; grows with the logarithm of the parameters."""
        return 9.0 if not self.parameters else 4 + 3 * math.log10(max(self.parameters, 10))


def plot_accuracy_vs_latency(record: Record) -> ink.Plot | None:
    """The models of a run with their names; ``None`` where none has both an accuracy and a latency."""
    points = []
    for name, model in record.ordered_models():
        accuracy = record.get_metric(model, "accuracy")
        latency = model.latency_ms.median if model.latency_ms else None
        if accuracy is not None and latency:
            texts = record.display_name(name), f"{format_count(model.parameters)} parameters"
            style = ink.MARKERS[model.role], ink.COLORS[model.role]
            points.append(ScatterPoint(*texts, latency, accuracy, model.parameters, *style))
    if not points:
        return None
    ax = _make_axes(points)
    for point in points:
        draw_point(ax, point)
    label_points(ax, points)
    labels = (f"{point.title} {format_percent(point.accuracy)} at {point.latency:.2g} ms" for point in points)
    return ink.render_plot(ax, "tradeoff", f"Accuracy against latency: {'; '.join(labels)}.", _NOTE)


def plot_variant_latencies(
    variants: Sequence[VariantResult], styles: Mapping[str, ink.VariantStyle]
) -> ink.Plot | None:
    """The variants of a comparison with their intervals, and a line that joins the Pareto-optimal ones."""
    means, points, legend = [], [], []
    for variant in variants:
        if variant.accuracy and variant.latency_ms:
            style, mean = styles[variant.name], variant.accuracy
            cost = f"{format_milliseconds(variant.latency_ms)} ms, {format_count(variant.parameters)} parameters"
            text = f"{variant.name}, {format_percent(mean.mean)}, {cost}"
            means.append(mean)
            points.append(
                ScatterPoint(
                    variant.name, cost, variant.latency_ms, mean.mean, variant.parameters, style.marker, style.color
                )
            )
            legend.append(ink.LegendEntry(style.color_name, style.marker_class, text))
    if not points:
        return None
    ax = _make_axes(points, [end for mean in means for end in mean.interval or ()])
    front = _pareto_front([(point.latency, point.accuracy) for point in points])
    ax.step(
        *zip(*front, strict=True), where="post", color=ink.COLORS["muted"], linewidth=1, linestyle=ink.LINE_STYLES[1],
        zorder=1,
    )  # fmt: skip
    for mean, point in zip(means, points, strict=True):
        if mean.interval:
            ax.vlines([point.latency], *mean.interval, color=point.color, linewidth=1.2, alpha=0.6)
        # Small markers in front of large ones.
        draw_point(ax, point, scale=0.8, zorder=3 - point.marker_size / 100)
    names = ", ".join(point.title for point in points if (point.latency, point.accuracy) in front)
    note = (
        f"{_NOTE} The dashed line joins the Pareto-optimal variants, which no other exceeds in accuracy at the same "
        f"latency: {names}. Latencies within 5 % count as equal."
    )
    alt_text = f"Accuracy against latency: {'; '.join(entry.label for entry in legend)}."
    return ink.render_plot(ax, "plane", alt_text, note, legend)


def draw_point(ax: Any, point: ScatterPoint, *, scale: float = 1.0, zorder: float = 3) -> None:
    """Draw the marker of a model."""
    ax.plot(
        [point.latency], [point.accuracy], linestyle="none", marker=point.marker, markersize=scale * point.marker_size,
        markerfacecolor=point.color, markeredgecolor=point.edge, markeredgewidth=1.5, alpha=0.95, zorder=zorder,
    )  # fmt: skip


def set_axis_limits(ax: Any, latencies: Sequence[float], accuracies: Sequence[float]) -> None:
    """A logarithmic latency axis and an accuracy axis with margins and round ticks."""
    from matplotlib.ticker import MaxNLocator, NullLocator

    ax.set_xscale("log")
    ratio = max(max(latencies) / min(latencies), 1.6)
    low, high = min(latencies) / ratio**0.22, max(latencies) * ratio**0.22
    ax.set_xlim(low, high)
    round_numbers = [base * 10.0**power for power in range(-7, 8) for base in (1, 2, 3, 5)]
    ticks = [tick for tick in round_numbers if low <= tick <= high]
    while len(ticks) > 6:
        ticks = ticks[::2]
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    accuracy_range = max(max(accuracies) - min(accuracies), 0.01)
    ax.set_ylim(min(accuracies) - 0.3 * accuracy_range, max(accuracies) + 0.3 * accuracy_range)
    digits = 1 if accuracy_range < 0.08 else 0
    ax.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    ax.yaxis.set_major_formatter(lambda value, _: "" if value > 1.0001 else format_percent(value, digits=digits))


def label_points(ax: Any, points: Sequence[ScatterPoint], *, occupied: Sequence[_Box] = ()) -> None:
    """Two lines of text next to each marker that overlap no marker, no other label, and no box in ``occupied``.

    Boxes are left, bottom, right and top in pixels of the figure.
    """
    axes_box = ax.get_window_extent()
    limits = (axes_box.x0 - 4, axes_box.y0, axes_box.x1 + 12, axes_box.y1 + 8)
    markers = [
        (*ax.transData.transform((point.latency, point.accuracy)), point.marker_size / 2 + 2) for point in points
    ]
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
                text, (point.latency, point.accuracy), textcoords="offset points",
                xytext=((r + 4) * (-1 if on_left else 1), offset_y + (7 if is_title else -7)),
                ha="right" if on_left else "left", va="center", weight="bold" if is_title else "normal",
                fontsize=12 if is_title else 11, color=ink.COLORS["ink" if is_title else "muted"], parse_math=False,
            )  # fmt: skip


def _make_axes(points: Sequence[ScatterPoint], accuracy_bounds: Sequence[float] = ()) -> Any:
    ax = ink.make_plot(280, left=52, right=16, top=14, grid="both")
    set_axis_limits(ax, [point.latency for point in points], [*(p.accuracy for p in points), *accuracy_bounds])
    ink.set_label(ax.xaxis, "latency, median, ms (log scale)")
    return ax


def _pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other exceeds in accuracy at the same or a lower latency, fastest first.

    >>> _pareto_front([(1.0, 0.80), (1.02, 0.90), (3.0, 0.95), (4.0, 0.93)])
    [(1.02, 0.9), (3.0, 0.95)]
    """
    return sorted(
        (latency, accuracy) for latency, accuracy in points
        if not any(a > accuracy and t <= _LATENCY_TOLERANCE * latency for t, a in points)
    )  # fmt: skip


def _is_free(box: _Box, limits: _Box, boxes: Sequence[_Box]) -> bool:
    """Whether ``box`` lies within ``limits`` and overlaps none of ``boxes``."""
    left, bottom, right, top = box
    is_inside = left >= limits[0] and bottom >= limits[1] and right <= limits[2] and top <= limits[3]
    return is_inside and not any(left < b[2] and b[0] < right and bottom < b[3] and b[1] < top for b in boxes)
