"""The key metrics and tables of a run as text: models, cost, worst classes, and disagreements."""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from limbeck.report.formatting import (
    MISSING,
    format_bytes,
    format_count,
    format_fixed,
    format_interval,
    format_milliseconds,
    format_percent,
    format_percent_value,
    format_points,
    format_ratio,
)
from limbeck.report.record import get_metric
from limbeck.report.verdict import classify_interval

if TYPE_CHECKING:
    from limbeck.report.record import Disagreement, ModelRecord, Record, SplitMetrics

__all__ = [
    "ComparisonRow",
    "KeyMetric",
    "comparison_rows",
    "disagreement_samples",
    "interval_positions",
    "key_metrics",
    "worst_classes",
]

_Getter = Callable[["ModelRecord"], float | None]
_Formatter = Callable[[float | None], str]
_Comparison = Callable[[float | None, float | None], str]


class KeyMetric(NamedTuple):
    """A key metric: its label, its value, its unit, and a note."""

    label: str
    value: str
    unit: str
    note: str


class ComparisonRow(NamedTuple):
    """A row of the comparison: a cell for each model, then distilled vs. baseline and vs. the teacher."""

    label: str
    unit: str
    better: str
    cells: tuple[str, ...]
    vs_baseline: str
    vs_teacher: str


def key_metrics(record: Record) -> list[KeyMetric]:
    """Gain, gap recovered, and ratios of size and latency to the teacher."""
    verdict, teacher, student = record.verdict, record.teacher, record.distilled
    gain, gap = (verdict.gain_points, verdict.gap_recovered) if verdict else (None, None)
    interval = verdict.interval_points if verdict else None
    outcome = classify_interval(interval)
    note = f"95 % interval {format_interval(*interval)}" if interval and outcome != "unknown" else "not measured"
    metrics = [
        KeyMetric("Accuracy gain over baseline", format_points(gain), "points" if gain is not None else "", note)
    ]
    if gap is None:
        is_unknown = record.baseline is None or gain is None
        note = "not measured" if is_unknown else "the teacher is not clearly better than the baseline"
    elif outcome == "degrades":
        note = "distillation led away from the teacher"
    else:
        note = "of the way from the baseline to the teacher"
        if outcome == "inconclusive":
            note += "; the interval of the gain includes zero, so this may be zero as well"
    metrics.append(KeyMetric("Gap to the teacher recovered", format_percent(gap, digits=0), "", note))
    if teacher is not None:
        metrics.append(
            _ratio_metric(
                student.parameters, teacher.parameters, ("Smaller", "Larger"), "Size vs. the teacher",
                f"{format_count(student.parameters)} against {format_count(teacher.parameters)} parameters",
            )
        )  # fmt: skip
        latencies = [model.latency_ms.median if model.latency_ms else None for model in (student, teacher)]
        times = " against ".join(map(format_milliseconds, latencies))
        note = f"{times} ms, median" if all(latencies) else "latency was not measured"
        metrics.append(_ratio_metric(latencies[0], latencies[1], ("Faster", "Slower"), "Latency vs. the teacher", note))
    return metrics


def interval_positions(record: Record) -> dict[str, float] | None:
    """Positions of the interval of the gain, the gain and zero on an axis from 0 to 100."""
    verdict = record.verdict
    low, high = (verdict.interval_points if verdict else None) or (None, None)
    if not verdict or verdict.gain_points is None or low is None or high is None:
        return None
    extent = max(abs(low), abs(high), 1e-9) * 1.15
    axis_min, axis_max = min(low, -0.25 * extent), max(high, 0.25 * extent)
    values = {"low": low, "high": high, "gain": verdict.gain_points, "zero": 0.0}
    pad = 0.06 * (axis_max - axis_min)
    return {key: round(100 * (x - axis_min + pad) / (axis_max - axis_min + 2 * pad), 1) for key, x in values.items()}


def comparison_rows(record: Record) -> tuple[list[ComparisonRow], list[ComparisonRow]]:
    """The rows of metrics and the rows of cost; a row without any value is left out."""
    metric_rows = []
    for name, info in record.metric_info.items():

        def get_value(model: ModelRecord, name: str = name) -> float | None:
            return get_metric(record.get_metrics(model), name)

        is_percent = info.unit == "%"
        metric_rows += _comparison_rows(
            record, info.label, info.unit, "higher" if info.higher_is_better else "lower", get_value,
            format_percent_value if is_percent else format_fixed,
            _format_percent_difference if is_percent else _format_difference,
        )  # fmt: skip
    cost_columns: list[tuple[str, str, _Getter, _Formatter]] = [
        ("Parameters", "", lambda model: model.parameters, format_count),
        ("FLOPs", "", lambda model: model.flops, format_count),
        ("Latency, median", "ms", lambda model: model.latency_ms and model.latency_ms.median, format_milliseconds),
        ("Latency, p95", "ms", lambda model: model.latency_ms and model.latency_ms.p95, format_milliseconds),
        ("Size of the weights", "", lambda model: model.bytes, format_bytes),
    ]
    cost_rows = []
    for label, unit, getter, formatter in cost_columns:
        cost_rows += _comparison_rows(record, label, unit, "lower", getter, formatter, _format_cost_ratio)
    return metric_rows, cost_rows


def worst_classes(record: Record, *, max_classes: int = 6) -> list[dict[str, Any]]:
    """The classes with the lowest accuracy of the distilled student, larger classes first among equals."""
    student, baseline, teacher = (
        _class_accuracies(record.get_metrics(model)) for model in (record.distilled, record.baseline, record.teacher)
    )
    ranked = sorted(student.items(), key=lambda item: (item[1][0], -item[1][1]))
    rows = []
    for name, (accuracy, num_samples) in ranked[:max_classes]:
        row: dict[str, Any] = {
            "name": name, "num_samples": num_samples, "distilled": format_percent_value(accuracy)
        }  # fmt: skip
        for role, accuracies in (("baseline", baseline), ("teacher", teacher)):
            reference = accuracies[name][0] if name in accuracies else None
            row |= {
                role: format_percent_value(reference),
                f"vs_{role}": _format_percent_difference(accuracy, reference),
            }
        rows.append(row)
    return rows


def disagreement_samples(record: Record) -> list[dict[str, Any]]:
    """The samples on which student and teacher disagree, and which of them is right."""
    return [_disagreement_sample(record, disagreement) for disagreement in record.disagreements]


def _disagreement_sample(record: Record, disagreement: Disagreement) -> dict[str, Any]:
    target, outcome = disagreement.target, "neither right"
    if target is None or target < 0:
        outcome = "no label"
    elif target in (disagreement.student, disagreement.teacher):
        outcome = "student right" if target == disagreement.student else "teacher right"
    png, side = _check_png(disagreement.png)
    return {
        "index": disagreement.index, "png": png, "css_class": "pixelated" if 0 < side <= 64 else "",
        "target": record.class_name(target), "teacher": record.class_name(disagreement.teacher),
        "teacher_confidence": format_percent(disagreement.teacher_confidence, digits=0),
        "student": record.class_name(disagreement.student),
        "student_confidence": format_percent(disagreement.student_confidence, digits=0), "outcome": outcome,
    }  # fmt: skip


def _check_png(png: str | None) -> tuple[str, int]:
    """The base64 text if it is a PNG, and its longer side in pixels; otherwise an empty text."""
    try:
        header = base64.b64decode(png or "", validate=True)[:24]
    except (binascii.Error, ValueError):
        return "", 0
    if len(header) < 24 or not header.startswith(b"\x89PNG\r\n\x1a\n"):
        return "", 0
    return png or "", max(struct.unpack(">II", header[16:24]))


def _class_accuracies(metrics: SplitMetrics | None) -> dict[str, tuple[float, int]]:
    """Accuracy and number of samples by class."""
    rows = metrics.per_class if metrics else []
    return {row.name: (row.accuracy, row.num_samples) for row in rows if row.accuracy is not None}


def _ratio_metric(
    student: float | None, teacher: float | None, labels: tuple[str, str], neutral_label: str, note: str
) -> KeyMetric:
    """How many times lower or higher the student's value is than the teacher's."""
    low, high = sorted((student or 0, teacher or 0))
    label = f"{labels[0 if (student or 0) <= (teacher or 0) else 1]} than the teacher" if low else neutral_label
    return KeyMetric(label, format_ratio(high, low), "", note)


def _comparison_rows(
    record: Record, label: str, unit: str, better: str, get_value: _Getter, formatter: _Formatter, compare: _Comparison
) -> list[ComparisonRow]:
    """One row, or none where no model has a value."""
    values = [get_value(model) for _, model in record.ordered_models()]
    if all(value is None for value in values):
        return []
    student_value = get_value(record.distilled)
    differences = [
        compare(student_value, get_value(model) if model else None) for model in (record.baseline, record.teacher)
    ]
    return [ComparisonRow(label, unit, better, tuple(map(formatter, values)), *differences)]


def _format_difference(student_value: float | None, reference: float | None) -> str:
    if student_value is None or reference is None:
        return MISSING
    return format_points(student_value - reference, digits=3)


def _format_percent_difference(student_value: float | None, reference: float | None) -> str:
    if student_value is None or reference is None:
        return MISSING
    return format_points(100 * (student_value - reference))


def _format_cost_ratio(student_value: float | None, reference: float | None) -> str:
    if not student_value or not reference:
        return MISSING
    if student_value == reference:
        return "="
    if abs(student_value / reference - 1) < 0.05:
        return "≈"
    sign, ratio = ("÷", reference / student_value) if student_value < reference else ("×", student_value / reference)
    return f"{sign}{format_ratio(ratio, 1)[:-1]}"
