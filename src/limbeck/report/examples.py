"""The cases behind the means: the classes where the student is worst, the samples where it differs from the teacher."""

from __future__ import annotations

import base64
import binascii
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from limbeck.report.formatting import format_percent, format_points
from limbeck.report.results_view import format_percent_value

if TYPE_CHECKING:
    from limbeck.report.record import Disagreement, Record, SplitMetrics

__all__ = ["ClassAccuracyRow", "DisagreementSample", "disagreement_samples", "worst_classes"]


@final
@dataclass(frozen=True, slots=True)
class ClassAccuracyRow:
    """One class: accuracy of the distilled student, and of the other models with the difference."""

    name: str
    num_samples: int
    distilled: str
    baseline: str
    vs_baseline: str
    teacher: str
    vs_teacher: str


@final
@dataclass(frozen=True, slots=True)
class DisagreementSample:
    """A sample on which student and teacher disagree."""

    index: int
    png: str
    css_class: str
    target: str
    teacher: str
    teacher_confidence: str
    student: str
    student_confidence: str
    outcome: str


def worst_classes(record: Record, *, max_classes: int = 6) -> list[ClassAccuracyRow]:
    """The classes in which the distilled student is worst, worst first; larger classes first among equals."""
    student_metrics = record.get_metrics(record.distilled)
    baseline_accuracy, teacher_accuracy = (
        _accuracy_by_class(record.get_metrics(model)) for model in (record.baseline, record.teacher)
    )
    ranked = [
        (class_accuracy.accuracy, class_accuracy)
        for class_accuracy in (student_metrics.per_class if student_metrics else [])
        if class_accuracy.accuracy is not None
    ]
    ranked.sort(key=lambda pair: (pair[0], -pair[1].num_samples))
    rows = []
    for accuracy, class_accuracy in ranked[:max_classes]:
        baseline, teacher = baseline_accuracy.get(class_accuracy.name), teacher_accuracy.get(class_accuracy.name)
        rows.append(
            ClassAccuracyRow(
                class_accuracy.name, class_accuracy.num_samples, format_percent_value(accuracy),
                format_percent_value(baseline),
                format_points(None if baseline is None else 100 * (accuracy - baseline)),
                format_percent_value(teacher), format_points(None if teacher is None else 100 * (accuracy - teacher)),
            )
        )  # fmt: skip
    return rows


def disagreement_samples(record: Record) -> list[DisagreementSample]:
    """The samples on which student and teacher disagree, with who is right."""
    return [_make_sample(record, disagreement) for disagreement in record.disagreements]


def _make_sample(record: Record, disagreement: Disagreement) -> DisagreementSample:
    outcome = "neither right"
    if disagreement.target is None or disagreement.target < 0:
        outcome = "no label"
    elif disagreement.target in (disagreement.student, disagreement.teacher):
        outcome = "student right" if disagreement.target == disagreement.student else "teacher right"
    png, side = _check_png(disagreement.png)
    return DisagreementSample(
        disagreement.index, png, "pixelated" if 0 < side <= 64 else "", record.class_name(disagreement.target),
        record.class_name(disagreement.teacher), format_percent(disagreement.teacher_confidence, digits=0),
        record.class_name(disagreement.student), format_percent(disagreement.student_confidence, digits=0), outcome,
    )  # fmt: skip


def _check_png(png: str | None) -> tuple[str, int]:
    """The base64 text, if it is a PNG, and its longer side in pixels; an empty text otherwise."""
    try:
        header = base64.b64decode(png or "", validate=True)[:24]
    except (binascii.Error, ValueError):
        return "", 0
    if len(header) < 24 or not header.startswith(b"\x89PNG\r\n\x1a\n"):
        return "", 0
    return png or "", max(struct.unpack(">II", header[16:24]))


def _accuracy_by_class(metrics: SplitMetrics | None) -> dict[str, float]:
    return {
        class_accuracy.name: class_accuracy.accuracy
        for class_accuracy in (metrics.per_class if metrics else [])
        if class_accuracy.accuracy is not None
    }
