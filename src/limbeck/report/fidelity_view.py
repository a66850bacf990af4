"""What a student took over from its teacher, for the page: answers, shared errors, and which layers see alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from limbeck.report.formatting import NONE, fixed, percent, points
from limbeck.report.plots import style as ink

if TYPE_CHECKING:
    from limbeck.report.record import Record
    from limbeck.report.schema_fidelity import Likeness, Sights, WrongInClass

__all__ = ["Line", "classes", "heat", "lines", "maps", "students"]

_CELL, _LETTER, _LONGEST = 36, 6.6, 16
_TINT = 0.6
"""How much ink a CKA of 1 gets: dark words stay legible on it, in both colour schemes."""


@final
@dataclass(frozen=True, slots=True)
class Line:
    """A line of a table: what it is, and a cell for each student; the difference of the first two, where it is told."""

    label: str
    cells: tuple[str, ...]
    difference: str = ""


def students(record: Record) -> list[tuple[str, str, Likeness]]:
    """Name, role and likeness of each student, the distilled one first, the others in the order of the page."""
    if record.fidelity is None:
        return []
    known = [(name, record.models[name].role) for name in record.fidelity.students if name in record.models]
    known.sort(key=lambda one: one[1] != "distilled")
    return [(name, role, record.fidelity.students[name]) for name, role in known]


def lines(found: Sequence[Likeness]) -> list[Line]:
    """Shares of the examples, by student; in per cent, and the first minus the second in points."""
    told = []
    for label, figure in (
        ("same answer as the teacher", "top1"), ("both wrong, by the same answer", "same_wrong"),
        ("both wrong, by two answers", "other"), ("only the student wrong", "student_only_wrong"),
        ("only the teacher wrong", "teacher_only_wrong"),
    ):  # fmt: skip
        values = [_other(one) if figure == "other" else getattr(one, figure) for one in found]
        told.append(Line(label, tuple(percent(value) for value in values), points(_less(values, times=100))))
    kl = [one.kl for one in found]
    apart = _less(kl)
    difference = NONE if apart is None else f"{'+' if apart > 0 else ''}{fixed(apart)}"
    return [*told[:1], Line("KL(teacher ‖ student), nats", tuple(map(fixed, kl)), difference), *told[1:]]


def classes(found: Sequence[Likeness], *, most: int = 8) -> list[tuple[str, int, list[tuple[int, int | None]]]]:
    """The classes in which student and teacher are wrong most often: name, examples, and a pair for each kind.

    A pair is the count of the first student and that of the second, ``None`` without a second one.
    """
    if not found:
        return []
    beside = {one.name: one for one in found[1].by_class} if len(found) > 1 else {}
    mine = sorted((one for one in found[0].by_class if sum(_counts(one))), key=lambda one: -sum(_counts(one)))
    return [
        (one.name, one.examples, [
            (count, _counts(beside[one.name])[i] if one.name in beside else None)
            for i, count in enumerate(_counts(one))
        ])
        for one in mine[:most]
    ]  # fmt: skip


def maps(record: Record) -> list[tuple[str, str, ink.Plot]]:
    """Title, role and picture of each student's CKA with the teacher."""
    return [
        (record.short(name), role, heat(one.cka, title=record.short(name), name=f"cka{place}"))
        for place, (name, role, one) in enumerate(students(record))
        if one.cka is not None and one.cka.values
    ]


def heat(found: Sights, *, title: str, name: str) -> ink.Plot:
    """CKA of every layer of a student (rows, from the input down) with every layer of its teacher (columns)."""
    rows, columns = list(map(_short, found.student)), list(map(_short, found.teacher))
    left, below = 24 + _LETTER * max(map(len, rows)), 40 + 0.7 * _LETTER * max(map(len, columns))
    width, height = 420, 10 + _CELL * len(rows) + below
    figure = ink.blank(width, height)
    panel = ink.axes(figure, left=left, bottom=below, right=8, top=10)
    panel.grid(visible=False)
    panel.spines["bottom"].set_visible(False)
    panel.set_xlim(0, len(columns))
    panel.set_ylim(len(rows), 0)
    for row, values in enumerate(found.values):
        for column, value in enumerate(values):
            _cell(panel, column, row, value)
    panel.set_yticks([row + 0.5 for row in range(len(rows))], rows, parse_math=False)
    panel.set_xticks(
        [column + 0.5 for column in range(len(columns))], columns, rotation=35, ha="right", rotation_mode="anchor",
        parse_math=False,
    )  # fmt: skip
    panel.set_xlabel("the teacher's layers", color=ink.INK["muted"], fontsize=12, labelpad=4)
    return ink.Plot(ink.svg(figure, name=name), f"{title}: {_said(found)}")


def _said(found: Sights) -> str:
    """The picture in words: for each of the student's layers the teacher's that it is most like."""
    told = []
    for place, values in zip(found.student, found.values, strict=False):
        known = [(value, name) for value, name in zip(values, found.teacher, strict=False) if value is not None]
        if known:
            most, name = max(known)
            told.append(f"{place} is most like the teacher's {name} (CKA {fixed(most, digits=2)})")
    return f"{'; '.join(told) or 'no layer could be compared'}."


def _cell(panel: Any, column: int, row: int, value: float | None) -> None:
    from matplotlib.patches import Rectangle

    tint = 0.0 if value is None else _TINT * min(1.0, max(0.0, value))
    panel.add_patch(
        Rectangle((column + 0.02, row + 0.03), 0.96, 0.94, facecolor=ink.INK["distilled"], alpha=tint, linewidth=0)
    )
    words = NONE if value is None else fixed(value, digits=2)
    panel.text(column + 0.5, row + 0.5, words, ha="center", va="center", fontsize=12, color=ink.INK["ink"])


def _short(place: str) -> str:
    """A place whose end is what tells it from others."""
    return place if len(place) <= _LONGEST else f"…{place[-_LONGEST + 1 :]}"


def _counts(one: WrongInClass) -> tuple[int, int, int, int]:
    return one.same_wrong, one.other_wrong, one.student_only, one.teacher_only


def _other(one: Likeness) -> float | None:
    return None if one.both_wrong is None or one.same_wrong is None else one.both_wrong - one.same_wrong


def _less(values: Sequence[float | None], *, times: float = 1.0) -> float | None:
    if len(values) < 2 or values[0] is None or values[1] is None:
        return None
    return times * (values[0] - values[1])
