"""Networks as marks in a plane of latency and accuracy: round ticks, and names that stand in nobody's way."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

from limbeck.report.formatting import format_percent
from limbeck.report.plots import style as ink

__all__ = ["ScatterPoint", "label_points", "marker_size", "set_axis_limits"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ScatterPoint:
    """One network: its two lines of words, where it stands (ms, fraction), and its parameters, which set its size."""

    title: str
    subtitle: str
    latency: float
    accuracy: float
    parameters: int | None


def set_axis_limits(ax: Any, latencies: Sequence[float], accuracies: Sequence[float]) -> None:
    """A logarithmic axis of latencies and one of accuracies, with room for marks and words, and round ticks."""
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


def marker_size(parameters: int | None) -> float:
    """Of a mark, in points; it grows with the logarithm of the parameters."""
    return 9.0 if not parameters else 4 + 3 * math.log10(max(parameters, 10))


def label_points(
    ax: Any, scatter_points: Sequence[ScatterPoint], *, occupied: Sequence[tuple[float, float, float, float]] = ()
) -> None:
    """Two lines of words beside each mark, where they touch neither a mark, nor each other, nor what is ``taken``.

    ``taken`` are boxes in pixels of the figure: left, bottom, right, top.
    """
    box = ax.get_window_extent()
    marks = [
        (*ax.transData.transform((point.latency, point.accuracy)), marker_size(point.parameters) / 2 + 2)
        for point in scatter_points
    ]
    boxes = [*occupied, *((x - r, y - r, x + r, y + r) for x, y, r in marks)]
    for point, (x, y, r) in zip(scatter_points, marks, strict=True):
        width = 6.4 * max(len(point.title) * 1.05, len(point.subtitle) * 0.92)
        is_right_half = x > box.x0 + box.width / 2
        placements = []
        for offset_y in (0, 16, -16, 32, -32, 48, -48, 64, -64):
            for on_left in (is_right_half, not is_right_half):
                edge = x - r - 4 - width if on_left else x + r + 4
                placements.append((on_left, offset_y, (edge, y + offset_y - 14, edge + width, y + offset_y + 14)))
        free_placements = [
            placement
            for placement in placements
            if _is_inside(placement[2], box)
            and not any(_overlaps(placement[2], occupied_box) for occupied_box in boxes)
        ]
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


def _is_inside(label_box: tuple[float, float, float, float], box: Any) -> bool:
    return bool(
        label_box[0] >= box.x0 - 4
        and label_box[2] <= box.x1 + 12
        and label_box[1] >= box.y0
        and label_box[3] <= box.y1 + 8
    )


def _overlaps(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
