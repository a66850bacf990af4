"""Teacher candidates as an SVG file: accuracy against latency, and the similarity of each pair.

The file includes the colors of the report for light and dark color schemes.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck.core.errors import LimbeckError
from limbeck.report.formatting import format_fixed, format_percent, format_points
from limbeck.report.plots import style as ink
from limbeck.report.plots.heatmap import draw_cell, make_matrix_axes
from limbeck.report.plots.latency_scatter import ScatterPoint, draw_point, label_points, set_axis_limits
from limbeck.utils.io import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_selection", "write_selection_plot"]

_STYLESHEET = Path(__file__).parent.parent / "html" / "report.css"
_FONT = '-apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, "Noto Sans", sans-serif'
_SCATTER_WIDTH, _CELL_SIZE, _TOP_MARGIN, _MIN_MATRIX_WIDTH = 460, 58, 44, 330


def write_selection_plot(run_dir: Path) -> Path:
    """Write ``run_dir/teacher_selection.svg`` from ``run_dir/teacher_selection.json``; returns its path.

    Raises:
        LimbeckError: the file is missing or has another schema.
    """
    path = Path(run_dir) / "teacher_selection.json"
    try:
        selection = json.loads(path.read_text())
        is_supported = selection["kind"] == "teacher_selection" and selection["schema"] == 2
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LimbeckError(f"{path} cannot be read: run limbeck select-teachers to write it") from error
    if not is_supported:
        raise LimbeckError(
            f"{path} is not what this limbeck writes: schema must be 2, so run limbeck select-teachers again"
        )
    text = _standalone_svg(ink.render_svg(draw_selection(selection), name="teacher_selection"), _alt_text(selection))
    return write_atomically(path.with_suffix(".svg"), lambda partial: partial.write_text(text, encoding="utf-8"))


def draw_selection(selection: Mapping[str, Any]) -> Figure:
    """The figure of ``teacher_selection.json``; a single candidate has no similarity matrix."""
    names = list(selection["candidates"])
    left = 24 + max(7 * len(name) for name in names)
    side = _CELL_SIZE * len(names)
    has_matrix = len(names) > 1
    width = _SCATTER_WIDTH + (max(left + side + 24, _MIN_MATRIX_WIDTH) if has_matrix else 0)
    height = max(320, _TOP_MARGIN + side + 92) if has_matrix else 320
    figure = ink.make_figure(width, height)
    _draw_scatter(figure, selection, right=width - _SCATTER_WIDTH + 16, bottom=max(52, height - 400))
    if has_matrix:
        _draw_similarity_matrix(figure, selection, left=_SCATTER_WIDTH + left, side=side, height=height)
    return figure


def _draw_scatter(figure: Figure, selection: Mapping[str, Any], *, right: float, bottom: float) -> None:
    baseline, rules, models = selection["baseline"], selection["rules"], selection["candidates"]
    ax = ink.make_axes(figure, left=58, bottom=bottom, right=right, top=_TOP_MARGIN, grid="both")
    baseline_accuracy = baseline["validation"]["metrics"]["accuracy"]
    required_accuracy = baseline_accuracy + rules["min_margin"] / 100
    candidates = [
        _make_point(name, model, f"{format_points(model['margin_points'])} points") for name, model in models.items()
    ]
    student = _make_point("baseline", baseline, format_percent(baseline_accuracy))
    points = [*candidates, student]
    set_axis_limits(ax, [point.latency for point in points], [*(p.accuracy for p in points), required_accuracy])
    color = ink.COLORS["baseline"]
    ax.axhspan(baseline_accuracy, required_accuracy, color=color, alpha=0.10, linewidth=0, zorder=0)
    ax.axhline(baseline_accuracy, color=color, linewidth=1.5)
    ax.axhline(required_accuracy, color=color, linewidth=1.5, linestyle=ink.line_style(1))
    for point, model in zip(candidates, models.values(), strict=True):
        face, edge = ("distilled", "distilled") if model["is_selected"] else ("paper", "teacher")
        draw_point(ax, point, "s", ink.COLORS[face], edge=ink.COLORS[edge])
    draw_point(ax, student, "o", color)
    label = f"{rules['min_margin']:g} points above the baseline"
    _annotate(ax, label, (1, required_accuracy), ("axes fraction", "data"), (-4, 8), ha="right", va="center")
    box = ax.get_window_extent()
    rule_y, baseline_y = (
        ax.transData.transform((student.latency, line_y))[1] for line_y in (required_accuracy, baseline_accuracy)
    )
    lines = [(box.x0, line_y - 1, box.x1, line_y + 1) for line_y in (rule_y, baseline_y)]
    label_points(ax, points, occupied=[(box.x1 - 6 * len(label), rule_y, box.x1, rule_y + 16), *lines])
    low, high = ax.get_xlim()
    if low < (budget := rules["latency_budget"]) < high:
        ax.axvline(budget, color=ink.COLORS["muted"], linewidth=1, linestyle=ink.line_style(2))
        _annotate(ax, "budget", (budget, 1), ("data", "axes fraction"), (4, -6), ha="left", va="top", rotation=-90)
    ax.set_xlabel("latency per image, ms (log scale)", color=ink.COLORS["muted"], fontsize=12, labelpad=6)
    _draw_title(figure, 20, "Accuracy on validation; filled: selected")


def _annotate(
    ax: Any, text: str, position: tuple[float, float], coordinates: tuple[str, str], offset: tuple[float, float],
    **options: Any,
) -> None:  # fmt: skip
    ax.annotate(
        text, position, xycoords=coordinates, xytext=offset, textcoords="offset points", fontsize=11,
        color=ink.COLORS["muted"], **options,
    )  # fmt: skip


def _make_point(name: str, model: Mapping[str, Any], subtitle: str) -> ScatterPoint:
    return ScatterPoint(
        title=name, subtitle=subtitle, latency=model["latency_ms"]["median"],
        accuracy=model["validation"]["metrics"]["accuracy"], parameters=model["parameters"],
    )  # fmt: skip


def _draw_similarity_matrix(
    figure: Figure, selection: Mapping[str, Any], *, left: float, side: float, height: float
) -> None:
    """Prediction agreement below the diagonal, CKA above it."""
    names, models = list(selection["candidates"]), selection["candidates"]
    right = figure.get_size_inches()[0] * 72 - left - side
    margins = {"left": left, "bottom": height - _TOP_MARGIN - side, "right": right, "top": _TOP_MARGIN}
    ax = make_matrix_axes(figure, len(names), len(names), **margins)
    for pair in selection["pairs"]:
        i, j = sorted((names.index(pair["first"]), names.index(pair["second"])))
        agreement = 1 - pair["disagreement"]
        draw_cell(ax, i, j, format_percent(agreement), color="distilled", alpha=_shade(agreement))
        draw_cell(ax, j, i, format_fixed(pair["cka"], digits=2), color="t3", alpha=_shade(pair["cka"]))
    positions = [i + 0.5 for i in range(len(names))]
    ax.set_yticks(positions, names, parse_math=False)
    ax.set_xticks(positions, names, rotation=40, ha="right", parse_math=False)
    for axis in (ax.get_xticklabels(), ax.get_yticklabels()):
        for name, tick in zip(names, axis, strict=True):
            tick.set_color(ink.COLORS["ink" if models[name]["is_selected"] else "muted"])
            tick.set_fontweight("bold" if models[name]["is_selected"] else "normal")
    _draw_title(figure, _SCATTER_WIDTH + 24, "Agreement (below) and CKA (above)")


def _shade(value: float | None) -> float:
    """The opacity of a cell: nearly all networks agree on more than half of the samples, so shading begins there."""
    return 0.0 if value is None else 0.45 * min(1.0, max(0.0, 2 * value - 1))


def _draw_title(figure: Figure, left: float, title: str) -> None:
    width, height = figure.get_size_inches() * 72
    figure.text(left / width, 1 - 20 / height, title, fontsize=13, weight="bold", color=ink.COLORS["ink"], va="center")


def _alt_text(selection: Mapping[str, Any]) -> str:
    """The content of the figure as text."""
    candidates = [
        f"{name} {format_percent(model['validation']['metrics']['accuracy'])} at {model['latency_ms']['median']:.2g} ms"
        for name, model in selection["candidates"].items()
    ]
    selected = ", ".join(selection["selection"]["selected"]) or "none"
    baseline = format_percent(selection["baseline"]["validation"]["metrics"]["accuracy"])
    return f"Teacher candidates: {'; '.join(candidates)}; the baseline {baseline}. Selected: {selected}."


def _standalone_svg(svg: str, alt_text: str) -> str:
    """An inline plot as a file of its own, with the colors and the background of the page."""
    color_rules = _STYLESHEET.read_text(encoding="utf-8").partition("\n* {")[0]
    match = re.match(r'<svg viewBox="([^"]*)">', svg)
    assert match is not None
    width, height = match[1].split()[2:]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{match[1]}" width="{width}" height="{height}" role="img">'
        f"<title>{html.escape(alt_text)}</title>\n"
        f"<style>\n{color_rules}\nsvg {{ font-family: {_FONT}; }}\n</style>\n"
        f'<rect width="100%" height="100%" style="fill: var(--paper)"/>{svg[match.end() :]}\n'
    )
