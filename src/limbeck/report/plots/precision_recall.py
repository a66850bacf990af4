"""Precision against recall of detectors, the mean over classes."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from limbeck.report.formatting import format_percent
from limbeck.report.plots import style as ink
from limbeck.report.record import Record


def plot_precision_recall(record: Record) -> ink.Plot | None:
    """One line for each model; ``None`` where the record has no ``precision_at_recalls``."""
    ax, legend, texts = None, [], []
    for name, model in record.ordered_models():
        curve = _mean_curve(record.get_metrics(model))
        if curve is None:
            continue
        if ax is None:
            ax = ink.make_plot(300, left=62, grid="both")
        recalls = [index / (len(curve) - 1) for index in range(len(curve))]
        ax.plot(recalls, curve, color=ink.COLORS[model.role], linewidth=1.8)
        label = f"{record.display_name(name)}, mean precision {format_percent(fmean(curve))}"
        legend.append(ink.LegendEntry(str(model.role), ink.MARKERS[model.role], label))
        texts.append(label)
    if ax is None:
        return None
    for axis, limits in ((ax.xaxis, ax.set_xlim), (ax.yaxis, ax.set_ylim)):
        limits(0, 1.02)
        axis.set_ticks([0, 0.25, 0.5, 0.75, 1])
        axis.set_major_formatter(lambda value, _: format_percent(value, digits=0))
    ink.set_label(ax.xaxis, "recall")
    ink.set_label(ax.yaxis, "precision", pad=4)
    alt_text = f"Precision against recall at IoU 0.5, mean over classes: {'; '.join(texts)}."
    return ink.render_plot(ax, "precision_recall", alt_text, "IoU 0.5, mean over classes; up is better.", legend)


def _mean_curve(metrics: Any) -> list[float] | None:
    """The mean over the classes with a box, 101 precisions."""
    details = getattr(metrics, "details", {})
    rows = details.get("precision_at_recalls") if isinstance(details, dict) else None
    curves = [row for row in rows or () if isinstance(row, list) and len(row) > 1]
    if not curves or any(len(row) != len(curves[0]) for row in curves):
        return None
    return [fmean(float(value) for value in values) for values in zip(*curves, strict=True)]
