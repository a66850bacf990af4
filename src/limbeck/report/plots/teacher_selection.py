"""Candidates for teaching as a picture of its own: accuracy against latency, and how alike they are.

The picture carries the colours of the report with it, for light paper and dark screens.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck.core.errors import LimbeckError
from limbeck.report.formatting import fixed, percent, points
from limbeck.report.plots import style as ink
from limbeck.report.plots.scatter import Dot, diameter, labels, ranges
from limbeck.utils.io import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw", "write_candidates"]

_STYLE = Path(__file__).parent.parent / "html" / "report.css"
_FONT = '-apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, "Noto Sans", sans-serif'
_PLANE, _CELL, _TOP, _TITLE = 460, 58, 44, 330


def write_candidates(folder: Path) -> Path:
    """Write ``folder/teachers.svg`` from ``folder/teachers.json``; gives its path.

    Raises:
        LimbeckError: there is no such file, or it holds something else.
    """
    path = Path(folder) / "teachers.json"
    try:
        found = json.loads(path.read_text())
        known = found["kind"] == "teachers" and found["schema"] == 1
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LimbeckError(f"{path} cannot be read: run limbeck teachers to write it") from error
    if not known:
        raise LimbeckError(f"{path} is not what this limbeck writes (schema 1): run limbeck teachers again")
    text = _alone(ink.svg(draw(found), name="teachers"), _says(found))
    return write_atomically(path.with_suffix(".svg"), lambda partial: partial.write_text(text, encoding="utf-8"))


def draw(found: Mapping[str, Any]) -> Figure:
    """The picture of what ``teachers.json`` holds; of a single candidate the left half, since it is like nobody."""
    names = list(found["candidates"])
    left = 24 + max(7 * len(name) for name in names)
    side = _CELL * len(names)
    several = len(names) > 1
    width = _PLANE + (max(left + side + 24, _TITLE) if several else 0)
    height = max(320, _TOP + side + 92) if several else 320
    figure = ink.blank(width, height)
    _plane(figure, found, right=width - _PLANE + 16, bottom=max(52, height - 400))
    if several:
        _matrix(figure, found, left=_PLANE + left, side=side, height=height)
    return figure


def _plane(figure: Figure, found: Mapping[str, Any], *, right: float, bottom: float) -> None:
    alone, rules, models = found["alone"], found["rules"], found["candidates"]
    panel = ink.axes(figure, left=58, bottom=bottom, right=right, top=_TOP, grid="both")
    floor = alone["validation"]["top1"]
    rule = floor + rules["margin"] / 100
    dots = [_dot(name, model, f"{points(model['margin_points'])} points") for name, model in models.items()]
    student = _dot("student alone", alone, percent(floor))
    everyone = [*dots, student]
    ranges(panel, [dot.latency for dot in everyone], [*(dot.accuracy for dot in everyone), rule])
    panel.axhspan(floor, rule, color=ink.INK["alone"], alpha=0.10, linewidth=0, zorder=0)
    panel.axhline(floor, color=ink.INK["alone"], linewidth=1.5)
    panel.axhline(rule, color=ink.INK["alone"], linewidth=1.5, linestyle=ink.dash(1))
    for dot, model in zip(dots, models.values(), strict=True):
        face = ink.INK["distilled" if model["chosen"] else "paper"]
        edge = ink.INK["distilled" if model["chosen"] else "teacher"]
        panel.plot(
            [dot.latency], [dot.accuracy], linestyle="none", marker="s", markersize=diameter(dot.parameters),
            markerfacecolor=face, markeredgecolor=edge, markeredgewidth=1.8, zorder=3,
        )  # fmt: skip
    panel.plot(
        [student.latency], [floor], linestyle="none", marker="o", markersize=diameter(student.parameters),
        markerfacecolor=ink.INK["alone"], markeredgecolor=ink.INK["paper"], markeredgewidth=1.5, zorder=3,
    )  # fmt: skip
    box = panel.get_window_extent()
    y, base = (panel.transData.transform((student.latency, at))[1] for at in (rule, floor))
    words = f"{rules['margin']:g} points above the student alone"
    panel.annotate(
        words, (1, rule), xycoords=("axes fraction", "data"), xytext=(-4, 8), textcoords="offset points", ha="right",
        va="center", fontsize=11, color=ink.INK["muted"],
    )  # fmt: skip
    lines = [(box.x0, at - 1, box.x1, at + 1) for at in (y, base)]
    labels(panel, everyone, taken=[(box.x1 - 6 * len(words), y, box.x1, y + 16), *lines])
    low, high = panel.get_xlim()
    if low < rules["budget"] < high:
        panel.axvline(rules["budget"], color=ink.INK["muted"], linewidth=1, linestyle=ink.dash(2))
        panel.annotate(
            "budget", (rules["budget"], 1), xycoords=("data", "axes fraction"), xytext=(4, -6), rotation=-90,
            textcoords="offset points", ha="left", va="top", fontsize=11, color=ink.INK["muted"],
        )  # fmt: skip
    panel.set_xlabel("latency of a picture, ms (log scale)", color=ink.INK["muted"], fontsize=12, labelpad=6)
    _title(figure, 20, "Accuracy on validation; filled: chosen")


def _dot(name: str, model: Mapping[str, Any], second: str) -> Dot:
    return Dot(
        title=name, second=second, latency=model["latency_ms"]["median"], accuracy=model["validation"]["top1"],
        parameters=model["parameters"],
    )  # fmt: skip


def _matrix(figure: Figure, found: Mapping[str, Any], *, left: float, side: float, height: float) -> None:
    """Below the diagonal who gives the same answers, above it whose features are alike."""
    names, models = list(found["candidates"]), found["candidates"]
    right = figure.get_size_inches()[0] * 72 - left - side
    panel = ink.axes(figure, left=left, bottom=height - _TOP - side, right=right, top=_TOP)
    panel.grid(visible=False)
    panel.spines["bottom"].set_visible(False)
    panel.set_xlim(0, len(names))
    panel.set_ylim(len(names), 0)
    for pair in found["pairs"]:
        i, j = sorted((names.index(pair["first"]), names.index(pair["second"])))
        same = 1 - pair["disagreement"]
        _cell(panel, i, j, same, percent(same), "distilled")
        _cell(panel, j, i, pair["cka"], fixed(pair["cka"], digits=2), "t3")
    panel.set_yticks([i + 0.5 for i in range(len(names))], names, parse_math=False)
    panel.set_xticks([i + 0.5 for i in range(len(names))], names, rotation=40, ha="right", parse_math=False)
    for axis in (panel.get_xticklabels(), panel.get_yticklabels()):
        for name, tick in zip(names, axis, strict=True):
            tick.set_color(ink.INK["ink" if models[name]["chosen"] else "muted"])
            tick.set_fontweight("bold" if models[name]["chosen"] else "normal")
    _title(figure, _PLANE + 24, "Same answer (below) and CKA (above)")


def _cell(panel: Any, column: int, row: int, value: float | None, words: str, colour: str) -> None:
    from matplotlib.patches import Rectangle

    # Nearly all networks agree on more than half: the tint begins there, and leaves dark words legible at its end.
    alpha = 0.0 if value is None else 0.45 * min(1.0, max(0.0, 2 * value - 1))
    panel.add_patch(
        Rectangle((column + 0.03, row + 0.03), 0.94, 0.94, facecolor=ink.INK[colour], alpha=alpha, linewidth=0)
    )
    panel.text(column + 0.5, row + 0.5, words, ha="center", va="center", fontsize=12, color=ink.INK["ink"])


def _title(figure: Figure, left: float, words: str) -> None:
    width, height = figure.get_size_inches() * 72
    figure.text(left / width, 1 - 20 / height, words, fontsize=13, weight="bold", color=ink.INK["ink"], va="center")


def _says(found: Mapping[str, Any]) -> str:
    """What the picture shows, in words, for whoever does not see it."""
    seen = [
        f"{name} {percent(model['validation']['top1'])} at {model['latency_ms']['median']:.2g} ms"
        for name, model in found["candidates"].items()
    ]
    chosen = ", ".join(found["selection"]["chosen"]) or "none"
    alone = percent(found["alone"]["validation"]["top1"])
    return f"Candidates for teaching: {'; '.join(seen)}; the student alone {alone}. Chosen: {chosen}."


def _alone(picture: str, says: str) -> str:
    """An inline picture of the page as a file of its own, with the page's colours and its paper."""
    colours = _STYLE.read_text(encoding="utf-8").partition("\n* {")[0]
    found = re.match(r'<svg viewBox="([^"]*)">', picture)
    assert found is not None
    width, height = found[1].split()[2:]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{found[1]}" width="{width}" height="{height}" role="img">'
        f"<title>{html.escape(says)}</title>\n"
        f"<style>\n{colours}\nsvg {{ font-family: {_FONT}; }}\n</style>\n"
        f'<rect width="100%" height="100%" style="fill: var(--paper)"/>{picture[found.end() :]}\n'
    )
