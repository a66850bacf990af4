"""Heat maps: a table of numbers with shaded cells, and CKA of the layers of student and teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from limbeck.report.formatting import MISSING, format_fixed
from limbeck.report.plots import style as ink

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from limbeck.report.record import LayerCKA

__all__ = ["draw_cell", "make_matrix_axes", "plot_cka"]

_CELL_SIZE, _LETTER_WIDTH, _MAX_LABEL_LENGTH = 36, 6.6, 16
_MAX_ALPHA = 0.6
"""Opacity of a cell with a CKA of 1: text on it stays legible in both color schemes."""


def make_matrix_axes(figure: Figure, num_rows: int, num_columns: int, **margins: float) -> Axes:
    """Axes with a cell of size 1 for each row and column, from the top left; margins in pixels."""
    ax = ink.make_axes(figure, **margins)  # type: ignore[arg-type]
    ax.grid(visible=False)
    ax.spines["bottom"].set_visible(False)
    ax.set_xlim(0, num_columns)
    ax.set_ylim(num_rows, 0)
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
    ax = make_matrix_axes(figure, len(rows), len(columns), left=left, bottom=bottom, right=8, top=10)
    for row, values in enumerate(cka.matrix):
        for column, value in enumerate(values):
            alpha = 0.0 if value is None else _MAX_ALPHA * min(1.0, max(0.0, value))
            label = MISSING if value is None else format_fixed(value, digits=2)
            draw_cell(ax, column, row, label, color="distilled", alpha=alpha)
    ax.set_yticks([row + 0.5 for row in range(len(rows))], rows, parse_math=False)
    ax.set_xticks(
        [column + 0.5 for column in range(len(columns))], columns, rotation=35, ha="right", rotation_mode="anchor",
        parse_math=False,
    )  # fmt: skip
    ax.set_xlabel("layers of the teacher", color=ink.COLORS["muted"], fontsize=12, labelpad=4)
    return ink.Plot(ink.render_svg(figure, name=name), f"{title}: {_cka_alt_text(cka)}")


def _cka_alt_text(cka: LayerCKA) -> str:
    """For each layer of the student the most similar layer of the teacher."""
    clauses = []
    for student_layer, values in zip(cka.student_layers, cka.matrix, strict=False):
        scores = [(value, name) for value, name in zip(values, cka.teacher_layers, strict=False) if value is not None]
        if scores:
            best, name = max(scores)
            clauses.append(
                f"{student_layer} is most similar to {name} of the teacher (CKA {format_fixed(best, digits=2)})"
            )
    return f"{'; '.join(clauses) or 'no layer could be compared'}."


def _shorten_layer(layer: str) -> str:
    """The end of a long layer name, which distinguishes it from others."""
    return layer if len(layer) <= _MAX_LABEL_LENGTH else f"…{layer[-_MAX_LABEL_LENGTH + 1 :]}"
