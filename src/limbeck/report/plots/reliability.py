"""Reliability diagram: accuracy against confidence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from limbeck.report.formatting import format_fixed, format_percent
from limbeck.report.plots import style as ink

if TYPE_CHECKING:
    from limbeck.report.record import SplitMetrics

__all__ = ["plot_reliability"]


def plot_reliability(metrics: SplitMetrics | None, *, role: str, title: str, name: str) -> ink.Plot | None:
    """Accuracy against confidence in bins of equal width, above a histogram of the confidences.

    The area of a marker is its share of the samples. ``None`` where no bin holds a sample.
    """
    bins = [
        (item.confidence, item.accuracy, item.num_samples)
        for item in (metrics.reliability if metrics else [])
        if item.num_samples and item.confidence is not None and item.accuracy is not None
    ]
    if metrics is None or not bins:
        return None
    confidence, accuracy, counts = zip(*bins, strict=True)
    total = sum(counts)
    figure = ink.make_figure(330, 340)
    ax = ink.make_axes(figure, left=62, bottom=108, right=14, top=12, grid="both")
    ax.plot([0, 1], [0, 1], color=ink.COLORS["muted"], linewidth=1, linestyle=ink.line_style(1))
    ax.vlines(confidence, confidence, accuracy, color=ink.role_color(role), linewidth=1.5)
    ax.scatter(
        confidence, accuracy, s=[24 + 300 * n / total for n in counts], c=ink.role_color(role),
        marker=ink.role_marker(role), edgecolors=ink.COLORS["paper"], linewidths=1, zorder=3, clip_on=False,
    )  # fmt: skip
    _set_unit_axes(ax)
    ax.set_ylim(0, 1.02)
    ax.set_yticks([0, 0.25, 0.5, 0.75, 1])
    ax.set_ylabel("accuracy", color=ink.COLORS["muted"], fontsize=12, labelpad=4)
    ax.tick_params(labelbottom=False)
    histogram_ax = ink.make_axes(figure, left=62, bottom=44, right=14, top=252, grid="x")
    histogram_ax.bar(
        [item.low for item in metrics.reliability], [item.num_samples / total for item in metrics.reliability],
        width=[0.92 * (item.high - item.low) for item in metrics.reliability], align="edge", color=ink.role_color(role),
    )  # fmt: skip
    _set_unit_axes(histogram_ax)
    histogram_ax.set_ylim(0, max(counts) / total * 1.05)
    histogram_ax.set_yticks([0, max(counts) / total], ["0", format_percent(max(counts) / total, digits=0)])
    histogram_ax.set_xlabel("confidence", color=ink.COLORS["muted"], fontsize=12, labelpad=6)
    ece = format_fixed(metrics.metrics.get("ece"))
    alt_text = f"{title}: expected calibration error {ece} over {len(metrics.reliability)} bins, n = {total}."
    return ink.Plot(ink.render_svg(figure, name=name), alt_text)


def _set_unit_axes(ax: Any) -> None:
    ax.set_xlim(0, 1.02)
    ax.set_xticks([0, 0.25, 0.5, 0.75, 1])
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(lambda value, _: format_percent(value, digits=0))
