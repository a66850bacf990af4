"""Accuracy against latency: models as markers that grow with their parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from limbeck.report.formatting import format_count, format_milliseconds, format_percent
from limbeck.report.plots import style as ink

if TYPE_CHECKING:
    from limbeck.report.compare.comparison import VariantResult
    from limbeck.report.record import Record

__all__ = [
    "ScatterPoint",
    "draw_point",
    "label_points",
    "plot_accuracy_vs_latency",
    "plot_variant_latencies",
    "set_axis_limits",
]

_Box = tuple[float, float, float, float]
_LATENCY_TOLERANCE = 1.05
"""Latencies whose ratio is below this count as equal: two measurements of one network differ as much."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ScatterPoint:
    """A model: two lines of text, latency in ms, accuracy as a fraction, and the parameters, which set the size."""

    title: str
    subtitle: str
    latency: float
    accuracy: float
    parameters: int | None

    @property
    def marker_size(self) -> float:
        """In points; grows with the logarithm of the parameters."""
        return 9.0 if not self.parameters else 4 + 3 * math.log10(max(self.parameters, 10))


def plot_accuracy_vs_latency(record: Record) -> ink.Plot | None:
    """The models of a run with their names; ``None`` where none has both an accuracy and a latency."""
    roles, points = [], []
    for name, model in record.ordered_models():
        metrics = record.get_metrics(model)
        accuracy = metrics.metrics.get("accuracy") if metrics else None
        if accuracy is not None and model.latency_ms and model.latency_ms.median:
            roles.append(model.role)
            points.append(
                ScatterPoint(
                    title=record.display_name(name), subtitle=f"{format_count(model.parameters)} parameters",
                    latency=model.latency_ms.median, accuracy=accuracy, parameters=model.parameters,
                )
            )  # fmt: skip
    if not points:
        return None
    figure, ax = _make_axes(points)
    for role, point in zip(roles, points, strict=True):
        draw_point(ax, point, ink.role_marker(role), ink.role_color(role))
    label_points(ax, points)
    description = "; ".join(
        f"{point.title} {format_percent(point.accuracy)} at {point.latency:.2g} ms" for point in points
    )
    note = "Up and to the left is better. The marker grows with the logarithm of the parameters."
    return ink.Plot(ink.render_svg(figure, name="tradeoff"), f"Accuracy against latency: {description}.", note)


def plot_variant_latencies(
    variants: Sequence[VariantResult], styles: Mapping[str, ink.VariantStyle]
) -> ink.Plot | None:
    """The variants of a comparison with their intervals, and a line that joins the Pareto-optimal ones."""
    results, points = [], []
    for variant in variants:
        if variant.accuracy and variant.latency_ms:
            cost = f"{format_milliseconds(variant.latency_ms)} ms, {format_count(variant.parameters)} parameters"
            results.append((variant.name, variant.accuracy))
            points.append(
                ScatterPoint(
                    title=variant.name, subtitle=cost, latency=variant.latency_ms, accuracy=variant.accuracy.mean,
                    parameters=variant.parameters,
                )
            )  # fmt: skip
    if not points:
        return None
    bounds = [bound for _, mean in results for bound in (mean.low, mean.high) if bound is not None]
    figure, ax = _make_axes(points, bounds)
    front = _pareto_front([(point.latency, point.accuracy) for point in points])
    ax.step(
        *zip(*front, strict=True), where="post", color=ink.COLORS["muted"], linewidth=1, linestyle=ink.line_style(1),
        zorder=1,
    )  # fmt: skip
    for (name, mean), point in zip(results, points, strict=True):
        style = styles[name]
        if mean.low is not None and mean.high is not None:
            ax.vlines([point.latency], mean.low, mean.high, color=style.color, linewidth=1.2, alpha=0.6)
        # Small markers in front of large ones.
        draw_point(ax, point, style.marker, style.color, scale=0.8, zorder=3 - point.marker_size / 100)
    legend = tuple(
        ink.LegendEntry(
            styles[point.title].color_name, styles[point.title].marker_class,
            f"{point.title}, {format_percent(point.accuracy)}, {point.subtitle}",
        )
        for point in points
    )  # fmt: skip
    names = ", ".join(point.title for point in points if (point.latency, point.accuracy) in front)
    note = (
        "Up and to the left is better; the marker grows with the logarithm of the parameters. The dashed line joins "
        f"the Pareto-optimal variants, which no other exceeds in accuracy at the same latency: {names}. Latencies "
        "within 5 % count as equal."
    )
    description = "; ".join(entry.label for entry in legend)
    return ink.Plot(ink.render_svg(figure, name="plane"), f"Accuracy against latency: {description}.", note, legend)


def draw_point(
    ax: Any, point: ScatterPoint, marker: str, color: str, *, edge: str = ink.COLORS["paper"], scale: float = 1.0,
    zorder: float = 3,
) -> None:  # fmt: skip
    """Draw the marker of a model."""
    ax.plot(
        [point.latency], [point.accuracy], linestyle="none", marker=marker, markersize=scale * point.marker_size,
        markerfacecolor=color, markeredgecolor=edge, markeredgewidth=1.5, alpha=0.95, zorder=zorder,
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
        free_placements = [
            placement for placement in placements
            if _is_inside(placement[2], axes_box) and not any(_overlaps(placement[2], box) for box in boxes)
        ]  # fmt: skip
        on_left, offset_y, label_box = (free_placements or placements)[0]
        boxes.append(label_box)
        for text, weight, line_offset in ((point.title, "bold", 7), (point.subtitle, "normal", -7)):
            ax.annotate(
                text, (point.latency, point.accuracy),
                xytext=((r + 4) * (-1 if on_left else 1), offset_y + line_offset),
                textcoords="offset points", ha="right" if on_left else "left", va="center", weight=weight,
                fontsize=12 if line_offset > 0 else 11, color=ink.COLORS["ink" if line_offset > 0 else "muted"],
                parse_math=False,
            )  # fmt: skip


def _make_axes(points: Sequence[ScatterPoint], accuracy_bounds: Sequence[float] = ()) -> tuple[Any, Any]:
    figure = ink.make_figure(420, 280)
    ax = ink.make_axes(figure, left=52, bottom=44, right=16, top=14, grid="both")
    set_axis_limits(ax, [point.latency for point in points], [*(p.accuracy for p in points), *accuracy_bounds])
    ax.set_xlabel("latency, median, ms (log scale)", color=ink.COLORS["muted"], fontsize=12, labelpad=6)
    return figure, ax


def _pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other exceeds in accuracy at the same or a lower latency, fastest first.

    >>> _pareto_front([(1.0, 0.80), (1.02, 0.90), (3.0, 0.95), (4.0, 0.93)])
    [(1.02, 0.9), (3.0, 0.95)]
    """
    return sorted(
        (latency, accuracy) for latency, accuracy in points
        if not any(a > accuracy and t <= _LATENCY_TOLERANCE * latency for t, a in points)
    )  # fmt: skip


def _is_inside(label_box: _Box, axes_box: Any) -> bool:
    left, bottom, right, top = label_box
    return bool(
        left >= axes_box.x0 - 4 and right <= axes_box.x1 + 12 and bottom >= axes_box.y0 and top <= axes_box.y1 + 8
    )


def _overlaps(a: _Box, b: _Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
