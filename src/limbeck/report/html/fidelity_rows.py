"""The tables of fidelity to the teacher: prediction agreement and errors by class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from limbeck.core.roles import Role
from limbeck.report.formatting import MISSING, format_fixed, format_percent, format_points

if TYPE_CHECKING:
    from limbeck.report.record import ClassErrors, Record, StudentFidelity

__all__ = ["FidelityRow", "classes_by_errors", "fidelity_rows", "list_students"]


class FidelityRow(NamedTuple):
    """A row: its label, a cell for each student, and the difference of the first two."""

    label: str
    cells: tuple[str, ...]
    difference: str


def list_students(record: Record) -> list[tuple[str, Role, StudentFidelity]]:
    """Label, role and fidelity of each student, the distilled one first."""
    students = record.fidelity.students if record.fidelity else {}
    rows = [
        (record.display_name(name), record.models[name].role, fidelity)
        for name, fidelity in students.items() if name in record.models
    ]  # fmt: skip
    return sorted(rows, key=lambda row: row[1] != Role.DISTILLED)


def fidelity_rows(fidelities: Sequence[StudentFidelity]) -> list[FidelityRow]:
    """Fractions of the samples and KL by student, with the first student minus the second."""
    different_errors = [
        None if item.both_wrong is None or item.same_error is None else item.both_wrong - item.same_error
        for item in fidelities
    ]
    agreement, *errors = (
        FidelityRow(label, tuple(map(format_percent, values)), format_points(_difference(values, scale=100)))
        for label, values in (
            ("same prediction as the teacher", [item.top1_agreement for item in fidelities]),
            ("both wrong, same prediction", [item.same_error for item in fidelities]),
            ("both wrong, different predictions", different_errors),
            ("only the student wrong", [item.student_only_wrong for item in fidelities]),
            ("only the teacher wrong", [item.teacher_only_wrong for item in fidelities]),
        )
    )
    kl = [item.kl for item in fidelities]
    difference = _difference(kl)
    text = MISSING if difference is None else f"{'+' if difference > 0 else ''}{format_fixed(difference)}"
    return [agreement, FidelityRow("KL(teacher ‖ student), nats", tuple(map(format_fixed, kl)), text), *errors]


def classes_by_errors(
    fidelities: Sequence[StudentFidelity], *, max_classes: int = 8
) -> list[tuple[str, int, list[tuple[int, int | None]]]]:
    """The classes with most errors: name, number of samples, and for each kind of error a pair of counts.

    A pair holds the count of the first student and that of the second, ``None`` without a second one.
    """
    if not fidelities:
        return []
    second_by_class = {errors.name: errors for errors in fidelities[1].per_class} if len(fidelities) > 1 else {}
    first_by_class = [errors for errors in fidelities[0].per_class if sum(_error_counts(errors))]
    first_by_class.sort(key=lambda errors: -sum(_error_counts(errors)))
    rows = []
    for first in first_by_class[:max_classes]:
        second = second_by_class.get(first.name)
        second_counts: tuple[int | None, ...] = _error_counts(second) if second else (None,) * 4
        rows.append((first.name, first.num_samples, list(zip(_error_counts(first), second_counts, strict=True))))
    return rows


def _error_counts(errors: ClassErrors) -> tuple[int, int, int, int]:
    return errors.same_error, errors.different_error, errors.student_only_wrong, errors.teacher_only_wrong


def _difference(values: Sequence[float | None], *, scale: float = 1.0) -> float | None:
    if len(values) < 2 or values[0] is None or values[1] is None:
        return None
    return scale * (values[0] - values[1])
