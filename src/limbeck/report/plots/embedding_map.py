"""Embeddings on two components: one map for each network, with the classes as colors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from limbeck.report.formatting import format_percent
from limbeck.report.plots import style as ink
from limbeck.report.record_sections import SplitMetrics

_SYMBOLS: Final = (("o", "o"), ("s", "s"), ("^", "up"), ("v", "down"))
"""Markers of Matplotlib and of the style sheet: with two rounds of colors, color is not the only distinction."""
_MAX_POINTS: Final = 1000
_MAX_COORDINATE: Final = 1e6


def plot_embedding_map(metrics: SplitMetrics | None, *, title: str, name: str) -> ink.Plot | None:
    """The points of ``embedding_map`` in the details of ``metrics``; ``None`` where it has none.

    Where samples have a partner, such as the text of a clip, it is a small point, and a line joins both.
    """
    data = _read_map(metrics)
    if metrics is None or data is None:
        return None
    points, partners, classes = data
    names = [row.name for row in metrics.per_class]
    ax = ink.make_axes(ink.make_figure(330, 280), left=14, bottom=14)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_aspect("equal", adjustable="datalim")
    ax.spines["bottom"].set_visible(False)
    legend, hover = [], []
    for number, label in enumerate(sorted(set(classes))):
        members = [i for i, other in enumerate(classes) if other == label]
        color, (marker, css_marker) = f"t{number % ink.NUM_SERIES + 1}", _SYMBOLS[number % len(_SYMBOLS)]
        class_name = names[label] if 0 <= label < len(names) else str(label)
        legend.append(ink.LegendEntry(color, css_marker, class_name))
        for i in members if partners else ():
            (x, y), (partner_x, partner_y) = points[i], partners[i]
            ax.plot([x, partner_x], [y, partner_y], color=ink.COLORS["muted"], linewidth=0.8, zorder=1)
        if partners:
            ax.scatter(*zip(*(partners[i] for i in members), strict=True), s=8, c=ink.COLORS[color], marker=marker)
        ax.scatter(
            *zip(*(points[i] for i in members), strict=True), s=26, c=ink.COLORS[color], marker=marker,
            edgecolors=ink.COLORS["paper"], linewidths=0.5, zorder=3,
        )  # fmt: skip
        hover += [ink.HoverPoint(points[i][0], points[i][1], class_name) for i in members]
    explained = metrics.details["embedding_map"].get("explained")
    share = f"{format_percent(explained, digits=0)} of the variance" if isinstance(explained, float) else "two axes"
    alt_text = f"{title}: {len(points)} embeddings of {len(legend)} classes on two principal components, {share}."
    note = f"Two principal components, {share}." + (" Small: texts, joined to their clips." if partners else "")
    return ink.render_plot(ax, name, alt_text, note, legend, hover=hover)


def _read_map(metrics: SplitMetrics | None) -> tuple[list[Any], list[Any], list[int]] | None:
    """Points, partners (or none) and classes, of equal number; ``None`` where the record has no such map."""
    details = getattr(metrics, "details", {})
    data = details.get("embedding_map") if isinstance(details, dict) else None
    if not isinstance(data, Mapping):
        return None
    points, partners, classes = (data.get(key) or [] for key in ("points", "partners", "classes"))
    if not all(isinstance(rows, list) and len(rows) <= _MAX_POINTS for rows in (points, partners, classes)):
        return None
    are_points = all(isinstance(row, list) and len(row) == 2 and all(map(_is_number, row)) for row in points + partners)
    is_complete = len(points) == len(classes) and len(partners) in (0, len(points))
    if not points or not are_points or not is_complete or not all(isinstance(label, int) for label in classes):
        return None
    return points, partners, classes


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < _MAX_COORDINATE  # false for NaN
