"""What a model is worth: how honest its confidence is, and what its accuracy costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from limbeck.report import ink
from limbeck.report.words import amount, fixed, percent

if TYPE_CHECKING:
    from limbeck.report.record import Quality, Record

__all__ = ["reliability", "tradeoff"]


def reliability(quality: Quality | None, *, role: str, title: str, name: str) -> ink.Plot | None:
    """Accuracy against confidence in bins of equal width; the area of a mark is its share of the samples.

    Below it, how the confidences are spread. ``None`` where no bin holds a sample.
    """
    bins = [
        (one.confidence, one.accuracy, one.examples)
        for one in (quality.reliability if quality else [])
        if one.examples and one.confidence is not None and one.accuracy is not None
    ]
    if quality is None or not bins:
        return None
    confidence, accuracy, examples = zip(*bins, strict=True)
    total = sum(examples)
    figure = ink.blank(330, 340)
    panel = ink.axes(figure, left=62, bottom=108, right=14, top=12, grid="both")
    panel.plot([0, 1], [0, 1], color=ink.INK["muted"], linewidth=1, linestyle=ink.dash(1))
    panel.vlines(confidence, confidence, accuracy, color=ink.colour(role), linewidth=1.5)
    panel.scatter(
        confidence, accuracy, s=[24 + 300 * n / total for n in examples], c=ink.colour(role), marker=ink.marker(role),
        edgecolors=ink.INK["paper"], linewidths=1, zorder=3, clip_on=False,
    )  # fmt: skip
    _unit(panel)
    panel.set_ylim(0, 1.02)
    panel.set_yticks([0, 0.25, 0.5, 0.75, 1])
    panel.set_ylabel("accuracy", color=ink.INK["muted"], fontsize=12, labelpad=4)
    panel.tick_params(labelbottom=False)
    below = ink.axes(figure, left=62, bottom=44, right=14, top=252, grid="x")
    below.bar(
        [one.low for one in quality.reliability], [one.examples / total for one in quality.reliability],
        width=[0.92 * (one.high - one.low) for one in quality.reliability], align="edge", color=ink.colour(role),
    )  # fmt: skip
    _unit(below)
    below.set_ylim(0, max(examples) / total * 1.05)
    below.set_yticks([0, max(examples) / total], ["0", percent(max(examples) / total, digits=0)])
    below.set_xlabel("confidence", color=ink.INK["muted"], fontsize=12, labelpad=6)
    said = (
        f"{title}: expected calibration error {fixed(quality.ece)} over {len(quality.reliability)} bins, n = {total}."
    )
    return ink.Plot(ink.svg(figure, name=name), said)


def tradeoff(record: Record) -> ink.Plot | None:
    """Accuracy against latency on a logarithmic axis; a larger mark has more parameters. ``None`` without figures."""
    dots = []
    for name, model in record.ordered():
        quality = record.quality(model)
        if quality and quality.top1 is not None and model.latency_ms and model.latency_ms.median:
            dots.append((record.short(name), model.role, model.latency_ms.median, quality.top1, model.parameters))
    if not dots:
        return None
    figure = ink.blank(420, 280)
    panel = ink.axes(figure, left=52, bottom=44, right=16, top=14, grid="both")
    panel.set_xscale("log")
    _ranges(panel, [dot[2] for dot in dots], [dot[3] for dot in dots])
    for _, role, latency, accuracy, parameters in dots:
        panel.plot(
            [latency], [accuracy], linestyle="none", marker=ink.marker(role), markersize=_diameter(parameters),
            markerfacecolor=ink.colour(role), markeredgecolor=ink.INK["paper"], markeredgewidth=1.5, alpha=0.95,
        )  # fmt: skip
    _labels(panel, dots)
    panel.set_xlabel("latency, median, ms (log scale)", color=ink.INK["muted"], fontsize=12, labelpad=6)
    said = "; ".join(f"{title} {percent(y)} at {x:.2g} ms" for title, _, x, y, _ in dots)
    note = "Up and to the left is better. The mark grows with the logarithm of the parameters."
    return ink.Plot(ink.svg(figure, name="tradeoff"), f"Accuracy against latency: {said}.", note)


def _unit(panel: Any) -> None:
    panel.set_xlim(0, 1.02)
    panel.set_xticks([0, 0.25, 0.5, 0.75, 1])
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_major_formatter(lambda value, _: percent(value, digits=0))


def _ranges(panel: Any, latencies: Sequence[float], accuracies: Sequence[float]) -> None:
    """A range with room for the marks and their labels, and round ticks on both axes."""
    from matplotlib.ticker import MaxNLocator, NullLocator

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


def _diameter(parameters: int | None) -> float:
    return 9.0 if not parameters else 4 + 3 * math.log10(max(parameters, 10))


def _labels(panel: Any, dots: Sequence[tuple[str, str, float, float, int | None]]) -> None:
    """A name and a size beside each mark, where they touch neither a mark nor another label."""
    box = panel.get_window_extent()
    marks = [(*panel.transData.transform((x, y)), _diameter(parameters) / 2 + 2) for _, _, x, y, parameters in dots]
    taken = [(x - r, y - r, x + r, y + r) for x, y, r in marks]
    for (title, _, latency, accuracy, parameters), (x, y, r) in zip(dots, marks, strict=True):
        second = f"{amount(parameters)} parameters"
        width = 6.4 * max(len(title) * 1.05, len(second) * 0.92)
        late = x > box.x0 + box.width / 2
        tries = []
        for down in (0, 16, -16, 32, -32, 48, -48, 64, -64):
            for left in (late, not late):
                edge = x - r - 4 - width if left else x + r + 4
                tries.append((left, down, (edge, y + down - 14, edge + width, y + down + 14)))
        free = [one for one in tries if _inside(one[2], box) and not any(_touch(one[2], other) for other in taken)]
        left, down, place = (free or tries)[0]
        taken.append(place)
        for words, weight, shift in ((title, "bold", 7), (second, "normal", -7)):
            panel.annotate(
                words, (latency, accuracy), xytext=((r + 4) * (-1 if left else 1), down + shift),
                textcoords="offset points", ha="right" if left else "left", va="center", weight=weight,
                fontsize=12 if shift > 0 else 11, color=ink.INK["ink" if shift > 0 else "muted"], parse_math=False,
            )  # fmt: skip


def _inside(place: tuple[float, float, float, float], box: Any) -> bool:
    return bool(place[0] >= box.x0 - 4 and place[2] <= box.x1 + 12 and place[1] >= box.y0 and place[3] <= box.y1 + 8)


def _touch(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
