"""Reliability diagram: the fraction of correct predictions against confidence."""

from __future__ import annotations

from typing import Any

from limbeck.core.roles import Role
from limbeck.report.formatting import format_fixed, format_percent
from limbeck.report.plots import style as ink
from limbeck.report.record_sections import SplitMetrics


def plot_reliability(metrics: SplitMetrics | None, *, role: Role, title: str, name: str) -> ink.Plot | None:
    """Fraction correct against confidence in bins of equal width, above a histogram of the confidences.

    The area of a marker is its share of the samples. ``None`` where no bin holds a sample.
    """
    bins = metrics.reliability if metrics else []
    points = [
        (item.confidence, item.fraction_correct, item.num_samples) for item in bins
        if item.num_samples and item.confidence is not None and item.fraction_correct is not None
    ]  # fmt: skip
    if metrics is None or not points:
        return None
    confidence, fraction_correct, counts = zip(*points, strict=True)
    total, color = sum(counts), ink.COLORS[role]
    figure = ink.make_figure(330, 340)
    ax = ink.make_axes(figure, left=62, bottom=108, grid="both")
    ax.plot([0, 1], [0, 1], color=ink.COLORS["muted"], linewidth=1, linestyle=ink.LINE_STYLES[1])
    ax.vlines(confidence, confidence, fraction_correct, color=color, linewidth=1.5)
    ax.scatter(
        confidence, fraction_correct, s=[24 + 300 * n / total for n in counts], c=color, marker=ink.MARKERS[role],
        edgecolors=ink.COLORS["paper"], linewidths=1, zorder=3, clip_on=False,
    )  # fmt: skip
    _set_unit_axes(ax)
    ax.set_ylim(0, 1.02)
    ax.set_yticks([0, 0.25, 0.5, 0.75, 1])
    ink.set_label(ax.yaxis, "fraction correct", pad=4)
    ax.tick_params(labelbottom=False)
    histogram_ax = ink.make_axes(figure, left=62, top=252, grid="x")
    histogram_ax.bar(
        [item.low for item in bins], [item.num_samples / total for item in bins],
        width=[0.92 * (item.high - item.low) for item in bins], align="edge", color=color,
    )  # fmt: skip
    _set_unit_axes(histogram_ax)
    highest = max(counts) / total
    histogram_ax.set_ylim(0, highest * 1.05)
    histogram_ax.set_yticks([0, highest], ["0", format_percent(highest, digits=0)])
    ink.set_label(histogram_ax.xaxis, "confidence")
    ece = format_fixed(metrics.metrics.get("ece"))
    hover = [
        ink.HoverPoint(x, y, f"confidence {format_percent(x)}\ncorrect {format_percent(y)}\n{n:,} of {total:,} samples")
        for x, y, n in points
    ]
    alt_text = f"{title}: expected calibration error {ece} over {len(bins)} bins, n = {total}."
    return ink.render_plot(ax, name, alt_text, hover=hover)


def _set_unit_axes(ax: Any) -> None:
    ax.set_xlim(0, 1.02)
    ax.set_xticks([0, 0.25, 0.5, 0.75, 1])
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(lambda value, _: format_percent(value, digits=0))
