"""The parts of a record that say how like its teacher each student became."""

# ruff: noqa: RUF012 - pydantic gives each object a default of its own

from __future__ import annotations

from typing import final

from pydantic import Field

from limbeck.report.schema_base import CoercedStr, OptionalFloat, OptionalInt, RecordSection

__all__ = ["ClassErrors", "Fidelity", "LayerCKA", "StudentFidelity"]


@final
class ClassErrors(RecordSection):
    """Who is wrong in one class, in examples: both by one answer, both by two, the student only, the teacher only."""

    name: CoercedStr = Field(alias="class")
    num_samples: int = 0
    same_error: int = 0
    different_error: int = 0
    student_only_wrong: int = 0
    teacher_only_wrong: int = 0


@final
class LayerCKA(RecordSection):
    """Unbiased linear CKA: a row for each of the student's places, a column for each of the teacher's."""

    student_layers: list[CoercedStr] = []
    teacher_layers: list[CoercedStr] = []
    matrix: list[list[OptionalFloat]] = []
    num_samples: OptionalInt = None


@final
class StudentFidelity(RecordSection):
    """One student beside the teacher: shares of all examples, and of those with a label where somebody is wrong."""

    num_samples: OptionalInt = None
    top1_agreement: OptionalFloat = None
    kl: OptionalFloat = None
    both_wrong: OptionalFloat = None
    same_error: OptionalFloat = None
    student_only_wrong: OptionalFloat = None
    teacher_only_wrong: OptionalFloat = None
    per_class: list[ClassErrors] = []
    cka: LayerCKA | None = None


@final
class Fidelity(RecordSection):
    """Each student beside one teacher, on a part that nobody is tested on."""

    split: CoercedStr = "validation"
    teacher: CoercedStr
    students: dict[str, StudentFidelity] = {}
