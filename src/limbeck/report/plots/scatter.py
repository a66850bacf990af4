"""Networks as marks in a plane of latency and accuracy: round ticks, and names that stand in nobody's way."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

from limbeck.report.formatting import percent
from limbeck.report.plots import style as ink

__all__ = ["Dot", "diameter", "labels", "ranges"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Dot:
    """One network: its two lines of words, where it stands (ms, fraction), and its parameters, which set its size."""

    title: str
    second: str
    latency: float
    accuracy: float
    parameters: int | None


def ranges(panel: Any, latencies: Sequence[float], accuracies: Sequence[float]) -> None:
    """A logarithmic axis of latencies and one of accuracies, with room for marks and words, and round ticks."""
    from matplotlib.ticker import MaxNLocator, NullLocator

    panel.set_xscale("log")
    spread = max(max(latencies) / min(latencies), 1.6)
    low, high = min(latencies) / spread**0.22, max(latencies) * spread**0.22
    panel.set_xlim(low, high)
    rounds = [base * 10.0**power for power in range(-7, 8) for base in (1, 2, 3, 5)]
    ticks = [tick for tick in rounds if low <= tick <= high]
    while len(ticks) > 6:
        ticks = ticks[::2]
    panel.xaxis.set_minor_locator(NullLocator())
    panel.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    room = max(max(accuracies) - min(accuracies), 0.01)
    panel.set_ylim(min(accuracies) - 0.3 * room, max(accuracies) + 0.3 * room)
    digits = 1 if room < 0.08 else 0
    panel.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    panel.yaxis.set_major_formatter(lambda value, _: "" if value > 1.0001 else percent(value, digits=digits))


def diameter(parameters: int | None) -> float:
    """Of a mark, in points; it grows with the logarithm of the parameters."""
    return 9.0 if not parameters else 4 + 3 * math.log10(max(parameters, 10))


def labels(panel: Any, dots: Sequence[Dot], *, taken: Sequence[tuple[float, float, float, float]] = ()) -> None:
    """Two lines of words beside each mark, where they touch neither a mark, nor each other, nor what is ``taken``.

    ``taken`` are boxes in pixels of the figure: left, bottom, right, top.
    """
    box = panel.get_window_extent()
    marks = [(*panel.transData.transform((d.latency, d.accuracy)), diameter(d.parameters) / 2 + 2) for d in dots]
    full = [*taken, *((x - r, y - r, x + r, y + r) for x, y, r in marks)]
    for dot, (x, y, r) in zip(dots, marks, strict=True):
        width = 6.4 * max(len(dot.title) * 1.05, len(dot.second) * 0.92)
        late = x > box.x0 + box.width / 2
        tries = []
        for down in (0, 16, -16, 32, -32, 48, -48, 64, -64):
            for left in (late, not late):
                edge = x - r - 4 - width if left else x + r + 4
                tries.append((left, down, (edge, y + down - 14, edge + width, y + down + 14)))
        free = [one for one in tries if _inside(one[2], box) and not any(_touch(one[2], other) for other in full)]
        left, down, place = (free or tries)[0]
        full.append(place)
        for words, weight, shift in ((dot.title, "bold", 7), (dot.second, "normal", -7)):
            panel.annotate(
                words, (dot.latency, dot.accuracy), xytext=((r + 4) * (-1 if left else 1), down + shift),
                textcoords="offset points", ha="right" if left else "left", va="center", weight=weight,
                fontsize=12 if shift > 0 else 11, color=ink.INK["ink" if shift > 0 else "muted"], parse_math=False,
            )  # fmt: skip


def _inside(place: tuple[float, float, float, float], box: Any) -> bool:
    return bool(place[0] >= box.x0 - 4 and place[2] <= box.x1 + 12 and place[1] >= box.y0 and place[3] <= box.y1 + 8)


def _touch(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
