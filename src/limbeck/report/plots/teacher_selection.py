"""Teacher candidates as an SVG file: the metric against latency, and the similarity of each pair.

The file includes the colors of the report for light and dark color schemes.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck.core.errors import LimbeckError
from limbeck.core.metric_spec import MetricSpec
from limbeck.report.formatting import format_fixed, format_gain, format_percent
from limbeck.report.html.templates import read_asset
from limbeck.report.plots import style as ink
from limbeck.report.plots.heatmap import draw_cell, make_matrix_axes
from limbeck.report.plots.latency_scatter import ScatterPoint, draw_point, label_points, set_axis_limits
from limbeck.report.task_metrics import TaskMetrics
from limbeck.utils.io import parse_json, require_regular_file, write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FONT = '-apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, "Noto Sans", sans-serif'
_SCATTER_WIDTH, _CELL_SIZE, _TOP_MARGIN, _MIN_MATRIX_WIDTH = 460, 58, 44, 330


def write_selection_plot(run_dir: Path) -> Path:
    """Write ``run_dir/teacher_selection.svg`` from ``run_dir/teacher_selection.json``; returns its path.

    Raises:
        LimbeckError: the file is missing or has another schema.
    """
    path = Path(run_dir) / "teacher_selection.json"
    try:
        selection = parse_json(require_regular_file(path).read_text(encoding="utf-8"))
        is_supported = selection["kind"] == "teacher_selection" and selection["schema"] == 3
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LimbeckError(f"{path} cannot be read: run limbeck select-teachers to write it") from error
    if not is_supported:
        raise LimbeckError(
            f"{path} is not what this limbeck writes: schema must be 3, so run limbeck select-teachers again"
        )
    # An inline plot becomes a file of its own, with the colors and the background of the page.
    head, body = ink.render_svg(_draw_selection(selection), name="teacher_selection").split(">", 1)
    width, height = head.split('"')[1].split()[2:]
    color_rules = read_asset("report.css").partition("\n* {")[0]
    text = (
        f'{head} xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" role="img">'
        f"<title>{html.escape(_alt_text(selection))}</title>\n"
        f"<style>\n{color_rules}\nsvg {{ font-family: {_FONT}; }}\n</style>\n"
        f'<rect width="100%" height="100%" style="fill: var(--paper)"/>{body}\n'
    )
    return write_text(path.with_suffix(".svg"), text)


def _draw_selection(selection: Mapping[str, Any]) -> Figure:
    """The figure of ``teacher_selection.json``; a single candidate has no similarity matrix."""
    names = list(selection["candidates"])
    left, side = 24 + max(7 * len(name) for name in names), _CELL_SIZE * len(names)
    if len(names) == 1:
        figure = ink.make_figure(_SCATTER_WIDTH, 320)
        _draw_scatter(figure, selection, right=16, bottom=52)
        return figure
    matrix_width, height = max(left + side + 24, _MIN_MATRIX_WIDTH), max(320, _TOP_MARGIN + side + 92)
    figure = ink.make_figure(_SCATTER_WIDTH + matrix_width, height)
    _draw_scatter(figure, selection, right=matrix_width + 16, bottom=max(52, height - 400))
    _draw_similarity_matrix(
        figure, selection, left=_SCATTER_WIDTH + left, right=matrix_width - left - side, top=_TOP_MARGIN,
        bottom=height - _TOP_MARGIN - side,
    )  # fmt: skip
    return figure


def _draw_scatter(figure: Figure, selection: Mapping[str, Any], *, right: float, bottom: float) -> None:
    baseline, rules, models = selection["baseline"], selection["rules"], selection["candidates"]
    ax = ink.make_axes(figure, left=58, bottom=bottom, right=right, top=_TOP_MARGIN, grid="both")
    metric = TaskMetrics.model_validate(selection).primary_spec
    baseline_value = metric.display_scale * _value(baseline, metric)
    required_value = baseline_value + metric.sign * rules["min_margin"]
    points = [
        _make_point(
            name, model, metric, format_gain(model["margin"], metric), "s",
            *(("distilled", "distilled") if model["is_selected"] else ("paper", "teacher")),
        )
        for name, model in models.items()
    ]  # fmt: skip
    student = _make_point("baseline", baseline, metric, metric.format(_value(baseline, metric)), "o", "baseline")
    points.append(student)
    set_axis_limits(ax, [point.latency for point in points], [*(p.value for p in points), required_value], metric)
    color = ink.COLORS["baseline"]
    ax.axhspan(baseline_value, required_value, color=color, alpha=0.10, linewidth=0, zorder=0)
    ax.axhline(baseline_value, color=color, linewidth=1.5)
    ax.axhline(required_value, color=color, linewidth=1.5, linestyle=ink.LINE_STYLES[1])
    for point in points:
        draw_point(ax, point)
    label = f"{rules['min_margin']:g} {metric.difference_unit} better than the baseline"
    text_style = {"textcoords": "offset points", "fontsize": 11, "color": ink.COLORS["muted"]}
    ax.annotate(
        label, (1, required_value), xycoords=("axes fraction", "data"), xytext=(-4, 8), ha="right", va="center",
        **text_style,
    )  # fmt: skip
    box = ax.get_window_extent()
    rule_y, baseline_y = (
        ax.transData.transform((student.latency, line_y))[1] for line_y in (required_value, baseline_value)
    )
    lines = [(box.x0, line_y - 1, box.x1, line_y + 1) for line_y in (rule_y, baseline_y)]
    label_points(ax, points, occupied=[(box.x1 - 6 * len(label), rule_y, box.x1, rule_y + 16), *lines])
    low, high = ax.get_xlim()
    if low < (budget := rules["latency_budget"]) < high:
        ax.axvline(budget, color=ink.COLORS["muted"], linewidth=1, linestyle=ink.LINE_STYLES[2])
        ax.annotate(
            "budget", (budget, 1), xycoords=("data", "axes fraction"), xytext=(4, -6), ha="left", va="top",
            rotation=-90, **text_style,
        )  # fmt: skip
    ink.set_label(ax.xaxis, "latency per sample, ms (log scale)")
    _draw_title(figure, 20, f"{metric.heading} on validation; filled: selected")


def _draw_similarity_matrix(figure: Figure, selection: Mapping[str, Any], **margins: float) -> None:
    """Prediction agreement below the diagonal (without classes the correlation of values), CKA above it."""
    names, models = list(selection["candidates"]), selection["candidates"]
    ax = make_matrix_axes(figure, names, names, **margins)
    ax.tick_params(axis="x", rotation=40)
    for pair in selection["pairs"]:
        i, j = sorted((names.index(pair["first"]), names.index(pair["second"])))
        has_classes, cka = pair["disagreement"] is not None, pair["cka"]
        similarity = 1 - pair["disagreement"] if has_classes else pair["error_correlation"]
        text = format_percent(similarity) if has_classes else format_fixed(similarity, digits=2)
        draw_cell(ax, i, j, text, color="distilled", alpha=_shade(similarity))
        draw_cell(ax, j, i, format_fixed(cka, digits=2), color="t3", alpha=_shade(cka))
    for tick in (*ax.get_xticklabels(), *ax.get_yticklabels()):
        is_selected = models[tick.get_text()]["is_selected"]
        tick.set(color=ink.COLORS["ink" if is_selected else "muted"], fontweight="bold" if is_selected else "normal")
    has_classes = all(pair["disagreement"] is not None for pair in selection["pairs"])
    kind = "Agreement" if has_classes else "Correlation by sample"
    _draw_title(figure, _SCATTER_WIDTH + 24, f"{kind} (below) and CKA (above)")


def _draw_title(figure: Figure, left: float, title: str) -> None:
    width, height = figure.get_size_inches() * 72
    figure.text(left / width, 1 - 20 / height, title, fontsize=13, weight="bold", color=ink.COLORS["ink"], va="center")


def _make_point(
    name: str, model: Mapping[str, Any], metric: MetricSpec, subtitle: str, marker: str, color: str,
    edge: str = "paper",
) -> ScatterPoint:  # fmt: skip
    colors = (ink.COLORS[color], ink.COLORS[edge])
    latency, value = model["latency_ms"]["median"], metric.display_scale * _value(model, metric)
    return ScatterPoint(name, subtitle, latency, value, model["parameters"], marker, *colors)


def _value(model: Mapping[str, Any], metric: MetricSpec) -> float:
    return float(model["validation"]["metrics"][metric.name])


def _shade(value: float | None) -> float:
    """The opacity of a cell: nearly all networks agree on more than half of the samples, so shading begins there."""
    return 0.0 if value is None else 0.45 * min(1.0, max(0.0, 2 * value - 1))


def _alt_text(selection: Mapping[str, Any]) -> str:
    """The content of the figure as text."""
    metric = TaskMetrics.model_validate(selection).primary_spec
    candidates = [
        f"{name} {metric.format(_value(model, metric))} at {model['latency_ms']['median']:.2g} ms"
        for name, model in selection["candidates"].items()
    ]
    selected = ", ".join(selection["selection"]["selected"]) or "none"
    baseline = metric.format(_value(selection["baseline"], metric))
    return f"Teacher candidates: {'; '.join(candidates)}; the baseline {baseline}. Selected: {selected}."
