"""What an arm changed in each class: its accuracy minus the control's, as a table that is shaded by it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from limbeck.report.compare.comparison import Arm
from limbeck.report.formatting import NONE, points

__all__ = ["ClassRow", "by_class"]

_MOST = 12


@final
@dataclass(frozen=True, slots=True)
class ClassRow:
    """One class: for each arm the words, the number, and how strongly it is shaded, from −100 to 100."""

    name: str
    examples: int
    cells: tuple[tuple[str, float | None, int], ...]


def by_class(arms: Sequence[Arm], *, most: int = _MOST) -> tuple[list[str], list[ClassRow], int]:
    """The students with their changes, a row for each class, and how many classes there are in all.

    Of more than ``most`` classes those that changed most are taken, in whichever arm.
    """
    shown = [arm for arm in arms if arm.classes and arm.student]
    changes = [{one.name: one for one in arm.classes} for arm in shown]
    names = list(dict.fromkeys(name for change in changes for name in change))
    far = {name: max(abs(change[name].points) for change in changes if name in change) for name in names}
    kept = set(sorted(names, key=lambda name: -far[name])[:most])
    top = max((far[name] for name in kept), default=0.0) or 1.0
    rows = []
    for name in (name for name in names if name in kept):
        found = [change.get(name) for change in changes]
        cells = tuple(
            (NONE, None, 0) if one is None else (points(one.points), one.points, round(100 * one.points / top))
            for one in found
        )
        rows.append(ClassRow(name, next(one.examples for one in found if one), cells))
    return [arm.name for arm in shown], rows, len(names)
