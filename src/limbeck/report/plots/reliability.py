"""What a model is worth: how honest its confidence is, and what its accuracy costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from limbeck.report.formatting import amount, fixed, percent
from limbeck.report.plots import style as ink
from limbeck.report.plots.scatter import Dot, diameter, labels, ranges

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
            second = f"{amount(model.parameters)} parameters"
            dots.append((model.role, Dot(
                title=record.short(name), second=second, latency=model.latency_ms.median, accuracy=quality.top1,
                parameters=model.parameters,
            )))  # fmt: skip
    if not dots:
        return None
    figure = ink.blank(420, 280)
    panel = ink.axes(figure, left=52, bottom=44, right=16, top=14, grid="both")
    ranges(panel, [dot.latency for _, dot in dots], [dot.accuracy for _, dot in dots])
    for role, dot in dots:
        panel.plot(
            [dot.latency], [dot.accuracy], linestyle="none", marker=ink.marker(role),
            markersize=diameter(dot.parameters), markerfacecolor=ink.colour(role), markeredgecolor=ink.INK["paper"],
            markeredgewidth=1.5, alpha=0.95,
        )  # fmt: skip
    labels(panel, [dot for _, dot in dots])
    panel.set_xlabel("latency, median, ms (log scale)", color=ink.INK["muted"], fontsize=12, labelpad=6)
    said = "; ".join(f"{dot.title} {percent(dot.accuracy)} at {dot.latency:.2g} ms" for _, dot in dots)
    note = "Up and to the left is better. The mark grows with the logarithm of the parameters."
    return ink.Plot(ink.svg(figure, name="tradeoff"), f"Accuracy against latency: {said}.", note)


def _unit(panel: Any) -> None:
    panel.set_xlim(0, 1.02)
    panel.set_xticks([0, 0.25, 0.5, 0.75, 1])
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_major_formatter(lambda value, _: percent(value, digits=0))
