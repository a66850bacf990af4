"""Fidelity of a student to its teacher, for the page: prediction agreement, shared errors, and CKA of layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from limbeck.core.roles import Role
from limbeck.report.formatting import MISSING, format_fixed, format_percent, format_points
from limbeck.report.plots import style as ink

if TYPE_CHECKING:
    from limbeck.report.record import Record
    from limbeck.report.schema_fidelity import ClassErrors, LayerCKA, StudentFidelity

__all__ = ["FidelityRow", "classes_by_errors", "fidelity_rows", "list_students", "plot_cka", "plot_cka_matrices"]

_CELL_SIZE, _LETTER_WIDTH, _MAX_LABEL_LENGTH = 36, 6.6, 16
_MAX_ALPHA = 0.6
"""How much ink a CKA of 1 gets: dark words stay legible on it, in both colour schemes."""


@final
@dataclass(frozen=True, slots=True)
class FidelityRow:
    """A line of a table: what it is, and a cell for each student; the difference of the first two, where it is told."""

    label: str
    cells: tuple[str, ...]
    difference: str = ""


def list_students(record: Record) -> list[tuple[str, str, StudentFidelity]]:
    """Name, role and fidelity of each student, the distilled one first, the others in the order of the page."""
    if record.fidelity is None:
        return []
    names_and_roles = [(name, record.models[name].role) for name in record.fidelity.students if name in record.models]
    names_and_roles.sort(key=lambda name_and_role: name_and_role[1] != Role.DISTILLED)
    return [(name, role, record.fidelity.students[name]) for name, role in names_and_roles]


def fidelity_rows(fidelities: Sequence[StudentFidelity]) -> list[FidelityRow]:
    """Fractions of the samples, by student; in per cent, and the first minus the second in points."""
    rows = []
    for label, metric in (
        ("same prediction as the teacher", "top1_agreement"), ("both wrong, same prediction", "same_error"),
        ("both wrong, different predictions", "different_error"), ("only the student wrong", "student_only_wrong"),
        ("only the teacher wrong", "teacher_only_wrong"),
    ):  # fmt: skip
        values = [
            _different_error_rate(fidelity) if metric == "different_error" else getattr(fidelity, metric)
            for fidelity in fidelities
        ]
        rows.append(
            FidelityRow(
                label,
                tuple(format_percent(value) for value in values),
                format_points(_first_minus_second(values, scale=100)),
            )
        )
    kl = [fidelity.kl for fidelity in fidelities]
    kl_difference = _first_minus_second(kl)
    difference = (
        MISSING if kl_difference is None else f"{'+' if kl_difference > 0 else ''}{format_fixed(kl_difference)}"
    )
    return [*rows[:1], FidelityRow("KL(teacher ‖ student), nats", tuple(map(format_fixed, kl)), difference), *rows[1:]]


def classes_by_errors(
    fidelities: Sequence[StudentFidelity], *, max_classes: int = 8
) -> list[tuple[str, int, list[tuple[int, int | None]]]]:
    """The classes in which student and teacher are wrong most often: name, number of samples, and a pair for each kind.

    A pair is the count of the first student and that of the second, ``None`` without a second one.
    """
    if not fidelities:
        return []
    second_by_class = (
        {class_errors.name: class_errors for class_errors in fidelities[1].per_class} if len(fidelities) > 1 else {}
    )
    first_by_class = sorted(
        (class_errors for class_errors in fidelities[0].per_class if sum(_error_counts(class_errors))),
        key=lambda class_errors: -sum(_error_counts(class_errors)),
    )
    rows = []
    for first in first_by_class[:max_classes]:
        second = second_by_class.get(first.name)
        second_counts: tuple[int | None, ...] = _error_counts(second) if second else (None,) * 4
        rows.append((first.name, first.num_samples, list(zip(_error_counts(first), second_counts, strict=True))))
    return rows


def plot_cka_matrices(record: Record) -> list[tuple[str, str, ink.Plot]]:
    """Title, role and picture of each student's CKA with the teacher."""
    return [
        (record.display_name(name), role, plot_cka(fidelity.cka, title=record.display_name(name), name=f"cka{index}"))
        for index, (name, role, fidelity) in enumerate(list_students(record))
        if fidelity.cka is not None and fidelity.cka.matrix
    ]


def plot_cka(cka: LayerCKA, *, title: str, name: str) -> ink.Plot:
    """CKA of every layer of a student (rows, from the input down) with every layer of its teacher (columns)."""
    rows, columns = list(map(_shorten_layer, cka.student_layers)), list(map(_shorten_layer, cka.teacher_layers))
    left, below = 24 + _LETTER_WIDTH * max(map(len, rows)), 40 + 0.7 * _LETTER_WIDTH * max(map(len, columns))
    width, height = 420, 10 + _CELL_SIZE * len(rows) + below
    figure = ink.make_figure(width, height)
    ax = ink.make_axes(figure, left=left, bottom=below, right=8, top=10)
    ax.grid(visible=False)
    ax.spines["bottom"].set_visible(False)
    ax.set_xlim(0, len(columns))
    ax.set_ylim(len(rows), 0)
    for row, values in enumerate(cka.matrix):
        for column, value in enumerate(values):
            _draw_cka_cell(ax, column, row, value)
    ax.set_yticks([row + 0.5 for row in range(len(rows))], rows, parse_math=False)
    ax.set_xticks(
        [column + 0.5 for column in range(len(columns))], columns, rotation=35, ha="right", rotation_mode="anchor",
        parse_math=False,
    )  # fmt: skip
    ax.set_xlabel("the teacher's layers", color=ink.COLORS["muted"], fontsize=12, labelpad=4)
    return ink.Plot(ink.render_svg(figure, name=name), f"{title}: {_cka_alt_text(cka)}")


def _cka_alt_text(cka: LayerCKA) -> str:
    """The picture in words: for each of the student's layers the teacher's that it is most like."""
    sentences = []
    for student_layer, values in zip(cka.student_layers, cka.matrix, strict=False):
        scores = [(value, name) for value, name in zip(values, cka.teacher_layers, strict=False) if value is not None]
        if scores:
            best, name = max(scores)
            sentences.append(f"{student_layer} is most like the teacher's {name} (CKA {format_fixed(best, digits=2)})")
    return f"{'; '.join(sentences) or 'no layer could be compared'}."


def _draw_cka_cell(ax: Any, column: int, row: int, value: float | None) -> None:
    from matplotlib.patches import Rectangle

    alpha = 0.0 if value is None else _MAX_ALPHA * min(1.0, max(0.0, value))
    ax.add_patch(
        Rectangle((column + 0.02, row + 0.03), 0.96, 0.94, facecolor=ink.COLORS["distilled"], alpha=alpha, linewidth=0)
    )
    label = MISSING if value is None else format_fixed(value, digits=2)
    ax.text(column + 0.5, row + 0.5, label, ha="center", va="center", fontsize=12, color=ink.COLORS["ink"])


def _shorten_layer(layer: str) -> str:
    """The end of a layer's name, which is what differs from others."""
    return layer if len(layer) <= _MAX_LABEL_LENGTH else f"…{layer[-_MAX_LABEL_LENGTH + 1 :]}"


def _error_counts(class_errors: ClassErrors) -> tuple[int, int, int, int]:
    return (
        class_errors.same_error,
        class_errors.different_error,
        class_errors.student_only_wrong,
        class_errors.teacher_only_wrong,
    )


def _different_error_rate(fidelity: StudentFidelity) -> float | None:
    return (
        None
        if fidelity.both_wrong is None or fidelity.same_error is None
        else fidelity.both_wrong - fidelity.same_error
    )


def _first_minus_second(values: Sequence[float | None], *, scale: float = 1.0) -> float | None:
    if len(values) < 2 or values[0] is None or values[1] is None:
        return None
    return scale * (values[0] - values[1])
