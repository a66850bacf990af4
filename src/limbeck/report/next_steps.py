"""What to change after a run in which distillation degraded the student, or made no significant difference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from limbeck.report.record import Record
from limbeck.report.verdict import classify_interval

_SUPERVISED = ("CrossEntropyLoss", "CTCLoss", "DetectionLoss")


def next_steps(record: Record) -> list[str]:
    """Changes to try, the most likely first; empty where distillation improves the metric or there is no verdict."""
    outcome = classify_interval(record.verdict.interval if record.verdict else None)
    if outcome == "inconclusive":
        study = (
            "`limbeck study` repeats the comparison over seeds, which shows smaller differences."
            if record.recipe
            else ""
        )
        advice = "Try more unlabeled samples, a better teacher or a longer training, in this order."
        return [*_check_teacher(record), " ".join(filter(None, [advice, study]))]
    if outcome != "degrades":
        return []
    steps = [*_check_teacher(record), *_check_objective(record)]
    return [
        *steps,
        "Compare such changes as `study: {variants: …}` of the recipe with `limbeck study`, which trains each with "
        "several seeds; `limbeck diagnose RUN` checks losses, temperatures and features of this run.",
    ]


def _check_teacher(record: Record) -> list[str]:
    metric, baseline = record.primary_spec, record.baseline
    teachers = {name: model for name, model in record.models.items() if model is record.teacher}
    for name, teacher in teachers.items():
        values = [
            model.validation.metrics.get(metric.name) if model and model.validation else None
            for model in (teacher, baseline)
        ]
        if values[0] is not None and values[1] is not None and metric.gain(values[0], values[1]) <= 0:
            metric_name = "" if metric.unit == metric.text else f" {metric.text}"
            return [
                f"The teacher {name!r} is not better than the baseline on validation ({metric.format(values[0])} "
                f"against {metric.format(values[1])}{metric_name}): train it longer (`teacher_training`), or choose "
                "another with `limbeck select-teachers`."
            ]
    return []


def _check_objective(record: Record) -> list[str]:
    stages = [stage for stage in record.recipe.get("stages") or () if isinstance(stage, Mapping)]
    if not stages:
        return []
    key, objective = f"stages.{len(stages) - 1}.objective", stages[-1].get("objective") or {}
    losses = {name: loss for name, loss in objective.items() if isinstance(loss, Mapping)}
    supervised = {record.task.supervised_loss, *_SUPERVISED}
    distilled = {name: loss for name, loss in losses.items() if loss.get("use") not in supervised}
    steps = []
    if len(distilled) == len(losses):
        name = record.task.supervised_loss or "CrossEntropyLoss"
        steps.append(f"The student does not learn from labels: add `target: {{use: {name}}}` to `{key}`.")
    elif distilled:
        weights = ", ".join(f"`{key}.{name}.weight` (now {_weight(loss)})" for name, loss in distilled.items())
        steps.append(f"Lower the weight of what is learned from the teacher: {weights}.")
    temperatures = {name: loss.get("temperature") for name, loss in distilled.items()}
    # One below 1 divides cosines, as in CRD.
    numbers = {name: value for name, value in temperatures.items() if isinstance(value, int | float) and value >= 1}
    for name, value in numbers.items():
        others = " or ".join(f"{other:g}" for other in (1, 2, 4, 8) if other != value)
        steps.append(f"Try another temperature, `{key}.{name}.temperature` (now {value:g}): {others}.")
    return steps


def _weight(loss: Mapping[str, Any]) -> str:
    weight = loss.get("weight", 1)
    return f"{weight:g}" if isinstance(weight, int | float) else "a schedule"
