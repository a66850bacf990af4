"""The parts of a record that say how like its teacher each student became."""

# ruff: noqa: RUF012 - pydantic gives each object a default of its own

from __future__ import annotations

from typing import final

from pydantic import Field

from limbeck.report.schema_base import Count, Name, Number, Part

__all__ = ["Fidelity", "Likeness", "Sights", "WrongInClass"]


@final
class WrongInClass(Part):
    """Who is wrong in one class, in examples: both by one answer, both by two, the student only, the teacher only."""

    name: Name = Field(alias="class")
    examples: int = 0
    same_wrong: int = 0
    other_wrong: int = 0
    student_only: int = 0
    teacher_only: int = 0


@final
class Sights(Part):
    """Unbiased linear CKA: a row for each of the student's places, a column for each of the teacher's."""

    student: list[Name] = []
    teacher: list[Name] = []
    values: list[list[Number]] = []
    samples: Count = None


@final
class Likeness(Part):
    """One student beside the teacher: shares of all examples, and of those with a label where somebody is wrong."""

    examples: Count = None
    top1: Number = None
    kl: Number = None
    both_wrong: Number = None
    same_wrong: Number = None
    student_only_wrong: Number = None
    teacher_only_wrong: Number = None
    by_class: list[WrongInClass] = []
    cka: Sights | None = None


@final
class Fidelity(Part):
    """Each student beside one teacher, on a part that nobody is tested on."""

    on: Name = "validation"
    teacher: Name
    students: dict[str, Likeness] = {}
