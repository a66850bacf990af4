"""Heat maps: a table of numbers with shaded cells, and CKA of the layers of student and teacher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from limbeck.report.formatting import format_fixed
from limbeck.report.plots import style as ink
from limbeck.report.record_sections import LayerCKA

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CELL_SIZE, _LETTER_WIDTH, _MAX_LABEL_LENGTH = 36, 6.6, 16
_MAX_ALPHA = 0.6
"""Opacity of a cell with a CKA of 1: text on it stays legible in both color schemes."""


def make_matrix_axes(figure: Figure, rows: Sequence[str], columns: Sequence[str], **margins: float) -> Any:
    """Axes with a labeled cell of size 1 for each row and column, from the top left; margins in pixels."""
    ax = ink.make_axes(figure, **margins)  # type: ignore[arg-type]
    ax.grid(visible=False)
    ax.spines["bottom"].set_visible(False)
    ax.set_xlim(0, len(columns))
    ax.set_ylim(len(rows), 0)
    ax.set_yticks([row + 0.5 for row in range(len(rows))], rows, parse_math=False)
    ax.set_xticks([column + 0.5 for column in range(len(columns))], columns, ha="right", parse_math=False)
    return ax


def draw_cell(ax: Any, column: int, row: int, label: str, *, color: str, alpha: float) -> None:
    """One shaded cell with its text."""
    from matplotlib.patches import Rectangle

    corner = (column + 0.03, row + 0.03)
    ax.add_patch(Rectangle(corner, 0.94, 0.94, facecolor=ink.COLORS[color], alpha=alpha, linewidth=0))
    ax.text(column + 0.5, row + 0.5, label, ha="center", va="center", fontsize=12, color=ink.COLORS["ink"])


def plot_cka(cka: LayerCKA, *, title: str, name: str) -> ink.Plot:
    """CKA of each layer of a student (rows, from the input) with each layer of its teacher (columns)."""
    rows, columns = list(map(_shorten_layer, cka.student_layers)), list(map(_shorten_layer, cka.teacher_layers))
    left, bottom = 24 + _LETTER_WIDTH * max(map(len, rows)), 40 + 0.7 * _LETTER_WIDTH * max(map(len, columns))
    figure = ink.make_figure(420, 10 + _CELL_SIZE * len(rows) + bottom)
    ax = make_matrix_axes(figure, rows, columns, left=left, bottom=bottom, right=8, top=10)
    ax.tick_params(axis="x", rotation=35, rotation_mode="anchor")
    ink.set_label(ax.xaxis, "layers of the teacher", pad=4)
    clauses = []
    for row, (layer, values) in enumerate(zip(cka.student_layers, cka.matrix, strict=False)):
        for column, value in enumerate(values):
            alpha = _MAX_ALPHA * min(1.0, max(0.0, value or 0.0))
            draw_cell(ax, column, row, format_fixed(value, digits=2), color="distilled", alpha=alpha)
        scores = [(value, name) for value, name in zip(values, cka.teacher_layers, strict=False) if value is not None]
        if scores:
            best, closest = max(scores)
            clauses.append(f"{layer} is most similar to {closest} of the teacher (CKA {format_fixed(best, digits=2)})")
    return ink.render_plot(ax, name, f"{title}: {'; '.join(clauses) or 'no layer could be compared'}.")


def _shorten_layer(layer: str) -> str:
    """The end of a long layer name, which distinguishes it from others."""
    return layer if len(layer) <= _MAX_LABEL_LENGTH else f"…{layer[-_MAX_LABEL_LENGTH + 1 :]}"
