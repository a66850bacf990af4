"""The cases behind the means: the classes where the student is worst, the samples where it differs from the teacher."""

from __future__ import annotations

import base64
import binascii
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from limbeck.report.formatting import percent, points
from limbeck.report.results_view import hundred

if TYPE_CHECKING:
    from limbeck.report.record import Disagreement, Quality, Record

__all__ = ["ClassRow", "Sample", "classes", "samples"]


@final
@dataclass(frozen=True, slots=True)
class ClassRow:
    """One class: accuracy of the distilled student, and of the others with the difference."""

    name: str
    examples: int
    distilled: str
    alone: str
    against_alone: str
    teacher: str
    against_teacher: str


@final
@dataclass(frozen=True, slots=True)
class Sample:
    """A picture on which student and teacher differ."""

    index: int
    png: str
    pixelated: str
    truth: str
    teacher: str
    teacher_sure: str
    student: str
    student_sure: str
    right: str


def classes(record: Record, *, most: int = 6) -> list[ClassRow]:
    """The classes in which the distilled student is worst, worst first; larger classes first among equals."""
    mine = record.quality(record.distilled)
    beside_alone, beside_teacher = (_by_class(record.quality(model)) for model in (record.alone, record.teacher))
    known = [(one.accuracy, one) for one in (mine.per_class if mine else []) if one.accuracy is not None]
    known.sort(key=lambda pair: (pair[0], -pair[1].examples))
    rows = []
    for accuracy, one in known[:most]:
        alone, teacher = beside_alone.get(one.name), beside_teacher.get(one.name)
        rows.append(
            ClassRow(
                one.name, one.examples, hundred(accuracy),
                hundred(alone), points(None if alone is None else 100 * (accuracy - alone)),
                hundred(teacher), points(None if teacher is None else 100 * (accuracy - teacher)),
            )
        )  # fmt: skip
    return rows


def samples(record: Record) -> list[Sample]:
    """The pictures on which student and teacher differ, with who was right."""
    return [_sample(record, one) for one in record.disagreements]


def _sample(record: Record, one: Disagreement) -> Sample:
    right = "neither right"
    if one.target is None or one.target < 0:
        right = "no label"
    elif one.target in (one.student, one.teacher):
        right = "student right" if one.target == one.student else "teacher right"
    png, side = _picture(one.png)
    return Sample(
        one.index, png, "pixelated" if 0 < side <= 64 else "", record.label(one.target),
        record.label(one.teacher), percent(one.teacher_confidence, digits=0),
        record.label(one.student), percent(one.student_confidence, digits=0), right,
    )  # fmt: skip


def _picture(png: str | None) -> tuple[str, int]:
    """The base64 text, if it is a PNG, and its longer side in pixels; an empty text otherwise."""
    try:
        head = base64.b64decode(png or "", validate=True)[:24]
    except (binascii.Error, ValueError):
        return "", 0
    if len(head) < 24 or not head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "", 0
    return png or "", max(struct.unpack(">II", head[16:24]))


def _by_class(quality: Quality | None) -> dict[str, float]:
    return {one.name: one.accuracy for one in (quality.per_class if quality else []) if one.accuracy is not None}
