"""Accuracy of each variant minus the baseline's, by class, as a shaded table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from limbeck.report.compare.comparison import VariantResult
from limbeck.report.formatting import MISSING, format_points

__all__ = ["ClassDifferenceRow", "class_difference_rows"]

_MAX_CLASSES = 12


@final
@dataclass(frozen=True, slots=True)
class ClassDifferenceRow:
    """One class: for each variant the text, the number, and how strongly it is shaded, from −100 to 100."""

    name: str
    num_samples: int
    cells: tuple[tuple[str, float | None, int], ...]


def class_difference_rows(
    variants: Sequence[VariantResult], *, max_classes: int = _MAX_CLASSES
) -> tuple[list[str], list[ClassDifferenceRow], int]:
    """The students with their changes, a row for each class, and how many classes there are in all.

    Of more than ``max_classes`` classes those that changed most in any variant are taken.
    """
    students = [variant for variant in variants if variant.class_changes and variant.is_student]
    changes = [{class_change.name: class_change for class_change in variant.class_changes} for variant in students]
    names = list(dict.fromkeys(name for change in changes for name in change))
    largest_change = {name: max(abs(change[name].points) for change in changes if name in change) for name in names}
    shown_classes = set(sorted(names, key=lambda name: -largest_change[name])[:max_classes])
    maximum = max((largest_change[name] for name in shown_classes), default=0.0) or 1.0
    rows = []
    for name in (name for name in names if name in shown_classes):
        class_changes = [change.get(name) for change in changes]
        cells = tuple(
            (MISSING, None, 0)
            if class_change is None
            else (format_points(class_change.points), class_change.points, round(100 * class_change.points / maximum))
            for class_change in class_changes
        )
        rows.append(
            ClassDifferenceRow(
                name, next(class_change.num_samples for class_change in class_changes if class_change), cells
            )
        )
    return [variant.name for variant in students], rows, len(names)
