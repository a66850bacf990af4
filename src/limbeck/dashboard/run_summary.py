"""What the index shows of a run or study: primary metric, gain, verdict and time left."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from limbeck.core.roles import Role
from limbeck.report.formatting import format_gain
from limbeck.report.metrics_csv import TrainingCurve
from limbeck.report.record import Record
from limbeck.report.task_metrics import load_task_metrics
from limbeck.report.verdict import Outcome, classify_interval
from limbeck.workflows.study.trials import estimate_seconds_left

_PHASE_NAMES = {"student_only": Role.BASELINE.value}


class RunSummary(NamedTuple):
    """The columns of one run or study; ``value`` and ``gain`` sort them, and texts are empty where unknown.

    Attributes:
        metric_text: the primary metric of the distilled student, of a study of the selected variant.
        value: the same as a number.
        gain_text: the gain over the baseline.
        gain: the same as a number.
        outcome: of the verdict.
        seconds_left: until a running one is finished, estimated from what is done.
    """

    metric_text: str = ""
    value: float | None = None
    gain_text: str = ""
    gain: float | None = None
    outcome: Outcome = "unknown"
    seconds_left: float | None = None


def summarize_record(record: Record) -> RunSummary:
    """The columns of a finished run; nothing for a trial of a study without a distilled student."""
    if not any(model.role == Role.DISTILLED for model in record.models.values()):
        return RunSummary()
    metric = record.primary_spec
    value, verdict = record.get_metric(record.distilled, metric.name), record.verdict
    gain = verdict.gain if verdict else None
    return RunSummary(
        f"{metric.text} {metric.format(value)}" if value is not None else "", value,
        format_gain(gain, metric) if gain is not None else "", gain,
        classify_interval(verdict.interval if verdict else None),
    )  # fmt: skip


def summarize_study(folder: Path, study: Mapping[str, Any]) -> RunSummary:
    """The columns of a study by its ``study.json``: of the variant that is best on validation."""
    states = [trial["state"] for trial in study["trials"]]
    left = estimate_seconds_left(study["trials"], num_workers=max(1, states.count("running")))
    results = study.get("results") or {}
    name = (results.get("selected") or {}).get("variant")
    variant = (results.get("variants") or {}).get(name)
    if not isinstance(variant, Mapping):
        return RunSummary(seconds_left=left)
    done = next((trial["folder"] for trial in study["trials"] if trial["state"] == "done"), ".")
    metric = load_task_metrics(folder / done, {}).primary_spec
    value, gain = ((variant.get(key) or {}).get("mean") for key in (metric.name, "gain"))
    return RunSummary(
        f"{metric.text} {metric.format(value)} ({name})" if value is not None else "", value,
        format_gain(gain, metric) if gain is not None else "", gain,
        (variant.get("verdict") or {}).get("outcome", "unknown"), left,
    )  # fmt: skip


def estimate_run_seconds_left(curves: Mapping[str, TrainingCurve], recipe: Mapping[str, Any]) -> float | None:
    """Seconds until every training of a run is done, from their speed so far; ``None`` where a length is unknown.

    Args:
        curves: of the trainings that have begun, by phase.
        recipe: with every setting, as in ``recipe.yaml``.
    """
    speeds, seconds = dict[str, float](), 0.0  # seconds per step
    for name, curve in curves.items():
        if curve.steps and (training_seconds := _total_seconds(curve)) > 0:
            speeds[name] = training_seconds / curve.steps[-1]
    if not speeds:
        return None
    epoch_steps = fmean(curve.steps[-1] / len(curve.steps) for curve in curves.values() if curve.steps)
    for name, stages in _list_trainings(recipe).items():
        begun = curves.get(name)
        done, length = (begun.steps[-1], begun.steps[-1] / len(begun.steps)) if begun else (0.0, epoch_steps)
        steps = [stage.get("steps") or (stage.get("epochs") or 0) * length for stage in stages]
        if not steps or not all(isinstance(number, int | float) and number > 0 for number in steps):
            return None
        seconds += max(0.0, sum(steps) - done) * speeds.get(name, fmean(speeds.values()))
    return seconds


def _list_trainings(recipe: Mapping[str, Any]) -> dict[str, Sequence[Mapping[str, Any]]]:
    """The stages of each training of a run by its phase."""
    stages, teaching = _mappings(recipe.get("stages")), _mappings([recipe.get("teacher_training")])
    teachers = recipe.get("teachers") if isinstance(recipe.get("teachers"), Mapping) else {}
    trained = [
        name for name, node in (teachers or {}).items() if isinstance(node, Mapping) and node.get("weights") is None
    ]
    trainings = dict.fromkeys(trained if teaching else [], teaching)
    baselines = recipe.get("baselines") or []
    students = [*(recipe.get("assistants") or []), *(_PHASE_NAMES.get(name, name) for name in baselines)]
    return trainings | dict.fromkeys([*students, Role.DISTILLED.value], stages)


def _mappings(items: Any) -> list[Mapping[str, Any]]:
    return [item for item in items if isinstance(item, Mapping)] if isinstance(items, list) else []


def _total_seconds(curve: TrainingCurve) -> float:
    """Training time over all stages: the last ``seconds`` of each, since they begin at zero in each."""
    starts, last = sorted(curve.stages.values()), dict[int, float]()
    for step, seconds in zip(curve.steps, curve.columns.get("seconds", ()), strict=False):
        if math.isfinite(seconds):
            last[bisect_left(starts, step)] = seconds
    return sum(last.values())
