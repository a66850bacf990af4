"""What a model is worth: how honest its confidence is, and what its accuracy costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from limbeck.report.formatting import format_count, format_fixed, format_percent
from limbeck.report.plots import style as ink
from limbeck.report.plots.scatter import ScatterPoint, label_points, marker_size, set_axis_limits

if TYPE_CHECKING:
    from limbeck.report.record import Record, SplitMetrics

__all__ = ["plot_accuracy_vs_latency", "plot_reliability"]


def plot_reliability(metrics: SplitMetrics | None, *, role: str, title: str, name: str) -> ink.Plot | None:
    """Accuracy against confidence in bins of equal width; the area of a mark is its share of the samples.

    Below it, how the confidences are spread. ``None`` where no bin holds a sample.
    """
    from limbeck.report.record import get_metric

    bins = [
        (bin_.confidence, bin_.accuracy, bin_.num_samples)
        for bin_ in (metrics.reliability if metrics else [])
        if bin_.num_samples and bin_.confidence is not None and bin_.accuracy is not None
    ]
    if metrics is None or not bins:
        return None
    confidence, accuracy, examples = zip(*bins, strict=True)
    total = sum(examples)
    figure = ink.make_figure(330, 340)
    ax = ink.make_axes(figure, left=62, bottom=108, right=14, top=12, grid="both")
    ax.plot([0, 1], [0, 1], color=ink.COLORS["muted"], linewidth=1, linestyle=ink.line_style(1))
    ax.vlines(confidence, confidence, accuracy, color=ink.role_color(role), linewidth=1.5)
    ax.scatter(
        confidence, accuracy, s=[24 + 300 * n / total for n in examples], c=ink.role_color(role),
        marker=ink.role_marker(role),
        edgecolors=ink.COLORS["paper"], linewidths=1, zorder=3, clip_on=False,
    )  # fmt: skip
    _set_unit_axes(ax)
    ax.set_ylim(0, 1.02)
    ax.set_yticks([0, 0.25, 0.5, 0.75, 1])
    ax.set_ylabel("accuracy", color=ink.COLORS["muted"], fontsize=12, labelpad=4)
    ax.tick_params(labelbottom=False)
    histogram_ax = ink.make_axes(figure, left=62, bottom=44, right=14, top=252, grid="x")
    histogram_ax.bar(
        [bin_.low for bin_ in metrics.reliability], [bin_.num_samples / total for bin_ in metrics.reliability],
        width=[0.92 * (bin_.high - bin_.low) for bin_ in metrics.reliability], align="edge", color=ink.role_color(role),
    )  # fmt: skip
    _set_unit_axes(histogram_ax)
    histogram_ax.set_ylim(0, max(examples) / total * 1.05)
    histogram_ax.set_yticks([0, max(examples) / total], ["0", format_percent(max(examples) / total, digits=0)])
    histogram_ax.set_xlabel("confidence", color=ink.COLORS["muted"], fontsize=12, labelpad=6)
    ece = format_fixed(get_metric(metrics, "ece"))
    alt_text = f"{title}: expected calibration error {ece} over {len(metrics.reliability)} bins, n = {total}."
    return ink.Plot(ink.render_svg(figure, name=name), alt_text)


def plot_accuracy_vs_latency(record: Record) -> ink.Plot | None:
    """Accuracy against latency on a logarithmic axis; a larger mark has more parameters. ``None`` without metrics."""
    from limbeck.report.record import get_metric

    roles_and_points = []
    for name, model in record.ordered_models():
        accuracy = get_metric(record.get_metrics(model), "accuracy")
        if accuracy is not None and model.latency_ms and model.latency_ms.median:
            subtitle = f"{format_count(model.parameters)} parameters"
            roles_and_points.append((model.role, ScatterPoint(
                title=record.display_name(name), subtitle=subtitle, latency=model.latency_ms.median, accuracy=accuracy,
                parameters=model.parameters,
            )))  # fmt: skip
    if not roles_and_points:
        return None
    figure = ink.make_figure(420, 280)
    ax = ink.make_axes(figure, left=52, bottom=44, right=16, top=14, grid="both")
    set_axis_limits(
        ax, [point.latency for _, point in roles_and_points], [point.accuracy for _, point in roles_and_points]
    )
    for role, point in roles_and_points:
        ax.plot(
            [point.latency], [point.accuracy], linestyle="none", marker=ink.role_marker(role),
            markersize=marker_size(point.parameters), markerfacecolor=ink.role_color(role),
            markeredgecolor=ink.COLORS["paper"],
            markeredgewidth=1.5, alpha=0.95,
        )  # fmt: skip
    label_points(ax, [point for _, point in roles_and_points])
    ax.set_xlabel("latency, median, ms (log scale)", color=ink.COLORS["muted"], fontsize=12, labelpad=6)
    description = "; ".join(
        f"{point.title} {format_percent(point.accuracy)} at {point.latency:.2g} ms" for _, point in roles_and_points
    )
    note = "Up and to the left is better. The mark grows with the logarithm of the parameters."
    return ink.Plot(ink.render_svg(figure, name="tradeoff"), f"Accuracy against latency: {description}.", note)


def _set_unit_axes(ax: Any) -> None:
    ax.set_xlim(0, 1.02)
    ax.set_xticks([0, 0.25, 0.5, 0.75, 1])
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(lambda value, _: format_percent(value, digits=0))
