"""Teacher candidates as an SVG file: accuracy against latency, and how similar they are.

The file carries the colors of the report with it, for light paper and dark screens.
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
from limbeck.report.plots.scatter import ScatterPoint, label_points, marker_size, set_axis_limits
from limbeck.utils.io import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_selection", "write_selection_plot"]

_STYLESHEET = Path(__file__).parent.parent / "html" / "report.css"
_FONT = '-apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, "Noto Sans", sans-serif'
_SCATTER_WIDTH, _CELL_SIZE, _TOP_MARGIN, _MIN_MATRIX_WIDTH = 460, 58, 44, 330


def write_selection_plot(run_dir: Path) -> Path:
    """Write ``run_dir/teacher_selection.svg`` from ``run_dir/teacher_selection.json``; gives its path.

    Raises:
        LimbeckError: there is no such file, or it holds something else.
    """
    path = Path(run_dir) / "teacher_selection.json"
    try:
        selection = json.loads(path.read_text())
        is_supported = selection["kind"] == "teacher_selection" and selection["schema"] == 2
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LimbeckError(f"{path} cannot be read: run limbeck select-teachers to write it") from error
    if not is_supported:
        raise LimbeckError(f"{path} is not what this limbeck writes (schema 2): run limbeck select-teachers again")
    text = _standalone_svg(ink.render_svg(draw_selection(selection), name="teacher_selection"), _alt_text(selection))
    return write_atomically(path.with_suffix(".svg"), lambda partial: partial.write_text(text, encoding="utf-8"))


def draw_selection(selection: Mapping[str, Any]) -> Figure:
    """The figure of ``teacher_selection.json``; for a single candidate the left half only."""
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
    points_to_draw = [
        _make_point(name, model, f"{format_points(model['margin_points'])} points") for name, model in models.items()
    ]
    student = _make_point("baseline", baseline, format_percent(baseline_accuracy))
    all_points = [*points_to_draw, student]
    set_axis_limits(
        ax, [point.latency for point in all_points], [*(point.accuracy for point in all_points), required_accuracy]
    )
    ax.axhspan(baseline_accuracy, required_accuracy, color=ink.COLORS["baseline"], alpha=0.10, linewidth=0, zorder=0)
    ax.axhline(baseline_accuracy, color=ink.COLORS["baseline"], linewidth=1.5)
    ax.axhline(required_accuracy, color=ink.COLORS["baseline"], linewidth=1.5, linestyle=ink.line_style(1))
    for point, model in zip(points_to_draw, models.values(), strict=True):
        face = ink.COLORS["distilled" if model["is_selected"] else "paper"]
        edge = ink.COLORS["distilled" if model["is_selected"] else "teacher"]
        ax.plot(
            [point.latency], [point.accuracy], linestyle="none", marker="s", markersize=marker_size(point.parameters),
            markerfacecolor=face, markeredgecolor=edge, markeredgewidth=1.8, zorder=3,
        )  # fmt: skip
    ax.plot(
        [student.latency], [baseline_accuracy], linestyle="none", marker="o",
        markersize=marker_size(student.parameters),
        markerfacecolor=ink.COLORS["baseline"], markeredgecolor=ink.COLORS["paper"], markeredgewidth=1.5, zorder=3,
    )  # fmt: skip
    box = ax.get_window_extent()
    rule_y, baseline_y = (
        ax.transData.transform((student.latency, line_y))[1] for line_y in (required_accuracy, baseline_accuracy)
    )
    label = f"{rules['min_margin']:g} points above the baseline"
    ax.annotate(
        label, (1, required_accuracy), xycoords=("axes fraction", "data"), xytext=(-4, 8), textcoords="offset points",
        ha="right",
        va="center", fontsize=11, color=ink.COLORS["muted"],
    )  # fmt: skip
    lines = [(box.x0, line_y - 1, box.x1, line_y + 1) for line_y in (rule_y, baseline_y)]
    label_points(ax, all_points, occupied=[(box.x1 - 6 * len(label), rule_y, box.x1, rule_y + 16), *lines])
    low, high = ax.get_xlim()
    if low < rules["latency_budget"] < high:
        ax.axvline(rules["latency_budget"], color=ink.COLORS["muted"], linewidth=1, linestyle=ink.line_style(2))
        ax.annotate(
            "budget", (rules["latency_budget"], 1), xycoords=("data", "axes fraction"), xytext=(4, -6), rotation=-90,
            textcoords="offset points", ha="left", va="top", fontsize=11, color=ink.COLORS["muted"],
        )  # fmt: skip
    ax.set_xlabel("latency per image, ms (log scale)", color=ink.COLORS["muted"], fontsize=12, labelpad=6)
    _draw_title(figure, 20, "Accuracy on validation; filled: selected")


def _make_point(name: str, model: Mapping[str, Any], subtitle: str) -> ScatterPoint:
    return ScatterPoint(
        title=name, subtitle=subtitle, latency=model["latency_ms"]["median"],
        accuracy=model["validation"]["metrics"]["accuracy"],
        parameters=model["parameters"],
    )  # fmt: skip


def _draw_similarity_matrix(
    figure: Figure, selection: Mapping[str, Any], *, left: float, side: float, height: float
) -> None:
    """Prediction agreement below the diagonal, CKA above it."""
    names, models = list(selection["candidates"]), selection["candidates"]
    right = figure.get_size_inches()[0] * 72 - left - side
    ax = ink.make_axes(figure, left=left, bottom=height - _TOP_MARGIN - side, right=right, top=_TOP_MARGIN)
    ax.grid(visible=False)
    ax.spines["bottom"].set_visible(False)
    ax.set_xlim(0, len(names))
    ax.set_ylim(len(names), 0)
    for pair in selection["pairs"]:
        i, j = sorted((names.index(pair["first"]), names.index(pair["second"])))
        agreement = 1 - pair["disagreement"]
        _draw_matrix_cell(ax, i, j, agreement, format_percent(agreement), "distilled")
        _draw_matrix_cell(ax, j, i, pair["cka"], format_fixed(pair["cka"], digits=2), "t3")
    ax.set_yticks([i + 0.5 for i in range(len(names))], names, parse_math=False)
    ax.set_xticks([i + 0.5 for i in range(len(names))], names, rotation=40, ha="right", parse_math=False)
    for axis in (ax.get_xticklabels(), ax.get_yticklabels()):
        for name, tick in zip(names, axis, strict=True):
            tick.set_color(ink.COLORS["ink" if models[name]["is_selected"] else "muted"])
            tick.set_fontweight("bold" if models[name]["is_selected"] else "normal")
    _draw_title(figure, _SCATTER_WIDTH + 24, "Agreement (below) and CKA (above)")


def _draw_matrix_cell(ax: Any, column: int, row: int, value: float | None, label: str, color: str) -> None:
    from matplotlib.patches import Rectangle

    # Nearly all networks agree on more than half: the tint begins there, and leaves dark words legible at its end.
    alpha = 0.0 if value is None else 0.45 * min(1.0, max(0.0, 2 * value - 1))
    ax.add_patch(
        Rectangle((column + 0.03, row + 0.03), 0.94, 0.94, facecolor=ink.COLORS[color], alpha=alpha, linewidth=0)
    )
    ax.text(column + 0.5, row + 0.5, label, ha="center", va="center", fontsize=12, color=ink.COLORS["ink"])


def _draw_title(figure: Figure, left: float, title: str) -> None:
    width, height = figure.get_size_inches() * 72
    figure.text(left / width, 1 - 20 / height, title, fontsize=13, weight="bold", color=ink.COLORS["ink"], va="center")


def _alt_text(selection: Mapping[str, Any]) -> str:
    """What the picture shows, in words, for whoever does not see it."""
    candidates = [
        f"{name} {format_percent(model['validation']['metrics']['accuracy'])} at {model['latency_ms']['median']:.2g} ms"
        for name, model in selection["candidates"].items()
    ]
    selected = ", ".join(selection["selection"]["selected"]) or "none"
    baseline = format_percent(selection["baseline"]["validation"]["metrics"]["accuracy"])
    return f"Teacher candidates: {'; '.join(candidates)}; the baseline {baseline}. Selected: {selected}."


def _standalone_svg(svg: str, alt_text: str) -> str:
    """An inline picture of the page as a file of its own, with the page's colours and its paper."""
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
