"""The metrics of a record as text, for the headline and the comparison."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from limbeck.report.formatting import (
    MISSING,
    format_bytes,
    format_count,
    format_fixed,
    format_percent,
    format_points,
    format_ratio,
)
from limbeck.report.verdict import classify_interval

if TYPE_CHECKING:
    from limbeck.report.record import MetricInfo, ModelRecord, Record

__all__ = ["ComparisonRow", "KeyMetric", "comparison_rows", "format_percent_value", "interval_positions", "key_metrics"]


@final
@dataclass(frozen=True, slots=True)
class KeyMetric:
    """A key metric: its label, its value, and a note on it."""

    label: str
    value: str
    unit: str = ""
    note: str = ""


@final
@dataclass(frozen=True, slots=True)
class ComparisonRow:
    """A row of the comparison: a cell for each model, then distilled vs. baseline and vs. the teacher."""

    label: str
    unit: str
    better: str
    cells: tuple[str, ...]
    vs_baseline: str
    vs_teacher: str


def key_metrics(record: Record) -> list[KeyMetric]:
    """Gain, fraction of the gap, how much smaller, how much faster."""
    verdict, teacher, student = record.verdict, record.teacher, record.distilled
    gain = verdict.gain_points if verdict else None
    interval = verdict.interval_points if verdict else None
    outcome = classify_interval(interval)
    note = (
        f"95 % interval {format_points(interval[0])} to {format_points(interval[1])}"
        if interval and outcome != "unknown"
        else "not measured"
    )
    metrics = [
        KeyMetric("Accuracy gain over baseline", format_points(gain), "points" if gain is not None else "", note)
    ]
    gap = verdict.gap_recovered if verdict else None
    if gap is None:
        reason = (
            "not measured"
            if record.baseline is None or gain is None
            else "the teacher is not clearly better than the baseline"
        )
    else:
        reason = "of the way from the baseline to the teacher"
        reason += (
            "; the interval of the gain includes zero, so this may be zero as well" if outcome == "inconclusive" else ""
        )
        reason = "distillation led away from the teacher" if outcome == "degrades" else reason
    metrics.append(KeyMetric("Gap to the teacher recovered", format_percent(gap, digits=0), "", reason))
    if teacher is None:
        return metrics
    less, more = sorted((student.parameters or 0, teacher.parameters or 0))
    is_smaller = (student.parameters or 0) <= (teacher.parameters or 0)
    metrics.append(
        KeyMetric(
            f"{'Smaller' if is_smaller else 'Larger'} than the teacher" if less else "Size against the teacher",
            format_ratio(more, less), "",
            f"{format_count(student.parameters)} against {format_count(teacher.parameters)} parameters",
        )
    )  # fmt: skip
    student_latency, teacher_latency = (
        model.latency_ms.median if model.latency_ms else None for model in (student, teacher)
    )
    is_faster, is_measured = (student_latency or 0) <= (teacher_latency or 0), student_latency and teacher_latency
    times = f"{_format_milliseconds(student_latency)} against {_format_milliseconds(teacher_latency)} ms, median"
    slower, faster = (teacher_latency, student_latency) if is_faster else (student_latency, teacher_latency)
    metrics.append(
        KeyMetric(
            f"{'Faster' if is_faster else 'Slower'} than the teacher" if is_measured else "Speed against the teacher",
            format_ratio(slower, faster), "", times if is_measured else "latency was not measured",
        )
    )  # fmt: skip
    return metrics


def interval_positions(record: Record) -> dict[str, float] | None:
    """Where the interval of the gain, its middle and zero lie on a line from 0 to 100; for the small drawing."""
    verdict = record.verdict
    if not verdict or not verdict.interval_points or verdict.gain_points is None:
        return None
    low, high = verdict.interval_points
    if low is None or high is None:
        return None
    extent = max(abs(low), abs(high), 1e-9) * 1.15
    axis_min, axis_max = min(low, -0.25 * extent), max(high, 0.25 * extent)
    values = {"low": low, "high": high, "gain": verdict.gain_points, "zero": 0.0}
    pad = 0.06 * (axis_max - axis_min)
    return {key: round(100 * (x - axis_min + pad) / (axis_max - axis_min + 2 * pad), 1) for key, x in values.items()}


def comparison_rows(record: Record) -> tuple[list[ComparisonRow], list[ComparisonRow]]:
    """The rows of metrics and of cost. One that no model has is left out."""
    from limbeck.report.record import get_metric

    def metric_row(name: str, info: MetricInfo) -> ComparisonRow | None:
        formatter = format_percent_value if info.unit == "%" else format_fixed
        return _comparison_row(
            record, info.label, info.unit, "higher" if info.higher_is_better else "lower",
            lambda model: get_metric(record.get_metrics(model), name), formatter, _difference_formatter(formatter),
        )  # fmt: skip

    def cost_row(
        get: Callable[[ModelRecord], float | None], label: str, unit: str, formatter: Callable[[float | None], str]
    ) -> ComparisonRow | None:
        return _comparison_row(
            record, label, unit, "lower", lambda model: model and get(model), formatter, _format_cost_ratio
        )

    metric_rows = [metric_row(name, info) for name, info in record.metric_info.items()]
    cost_rows = [
        cost_row(lambda model: model.parameters, "Parameters", "", format_count),
        cost_row(lambda model: model.flops, "FLOPs", "", format_count),
        cost_row(
            lambda model: model.latency_ms and model.latency_ms.median, "Latency, median", "ms", _format_milliseconds
        ),
        cost_row(lambda model: model.latency_ms and model.latency_ms.p95, "Latency, p95", "ms", _format_milliseconds),
        cost_row(lambda model: model.bytes, "Size of the weights", "", format_bytes),
    ]
    return [row for row in metric_rows if row], [row for row in cost_rows if row]


def format_percent_value(value: float | None) -> str:
    """A fraction as per cent, where the sign stands in the heading."""
    return format_percent(value).removesuffix(" %")


def _comparison_row(
    record: Record, label: str, unit: str, better: str, get: Callable[[ModelRecord | None], float | None],
    formatter: Callable[[float | None], str], compare: Callable[[float | None, float | None], str],
) -> ComparisonRow | None:  # fmt: skip
    values = [get(model) for _, model in record.ordered_models()]
    if all(value is None for value in values):
        return None
    student_value = get(record.distilled)
    return ComparisonRow(
        label, unit, better, tuple(formatter(value) for value in values),
        compare(student_value, get(record.baseline)), compare(student_value, get(record.teacher)),
    )  # fmt: skip


def _difference_formatter(formatter: Callable[[float | None], str]) -> Callable[[float | None, float | None], str]:
    def format_difference(student_value: float | None, reference: float | None) -> str:
        if student_value is None or reference is None:
            return MISSING
        return (
            format_points(100 * (student_value - reference))
            if formatter is format_percent_value
            else format_points(student_value - reference, digits=3)
        )

    return format_difference


def _format_cost_ratio(student_value: float | None, reference: float | None) -> str:
    if not student_value or not reference:
        return MISSING
    if student_value == reference:
        return "="
    if abs(student_value / reference - 1) < 0.05:
        return "≈"
    return (
        f"÷{format_ratio(reference, student_value)[:-1]}"
        if student_value < reference
        else f"×{format_ratio(student_value, reference)[:-1]}"
    )


def _format_milliseconds(value: float | None) -> str:
    return (
        MISSING
        if value is None
        else f"{value:.3f}"
        if value < 0.1
        else f"{value:.2f}"
        if value < 10
        else f"{value:,.0f}"
    )
