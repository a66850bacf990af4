"""``limbeck diagnose RUN``: likely problems of a finished run, from its record, ``metrics.csv`` and checkpoint.

It trains nothing and reads no data. It also lists what was checked, and what could not be checked and why.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from limbeck.core.errors import LimbeckError
from limbeck.core.roles import Role
from limbeck.report import diagnosis
from limbeck.report.formatting import format_gain
from limbeck.report.metrics_csv import TrainingCurve, load_curves

if TYPE_CHECKING:
    from limbeck.core.metric_spec import MetricSpec
    from limbeck.report.record import Record
    from limbeck.report.record_sections import ModelRecord

__all__ = ["Diagnosis", "diagnose_run"]


@final
@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The result of :func:`diagnose_run`, as lists of sentences.

    Attributes:
        problems: likely problems.
        checks: what was checked, with its values.
        unavailable: what could not be checked, and why.
    """

    problems: list[str] = field(default_factory=list)
    checks: list[str] = field(default_factory=list)
    unavailable: list[str] = field(default_factory=list)

    def add(self, check: str, *problems: str | None) -> None:
        """Add a check and its problems; ``None`` is no problem."""
        self.checks.append(check)
        self.problems.extend(problem for problem in problems if problem is not None)

    def __str__(self) -> str:
        lines = [f"- {problem}" for problem in self.problems] or ["no problem found"]
        for title, sentences in (("checked:", self.checks), ("not checked:", self.unavailable)):
            if sentences:
                lines += ["", title, *(f"- {sentence}" for sentence in sentences)]
        return "\n".join(lines)


def diagnose_run(folder: str | Path) -> Diagnosis:
    """Likely problems of the run in ``folder``; raises ``LimbeckError`` if it is not a finished run."""
    from limbeck.report.record_io import read_record

    folder = Path(folder)
    record = read_record(folder / "record.json")
    name = next((name for name, model in record.models.items() if model.role == Role.DISTILLED), None)
    if name is None:
        raise LimbeckError(
            f"{folder} has no distilled student: give a run of `limbeck distill`, or a trial that has one"
        )
    result = Diagnosis()
    _check_verdict(folder, record, result)
    curve = load_curves(folder / "metrics.csv").get(name) or TrainingCurve("", (), {}, {})
    _check_loss_scales(curve, result)
    _check_teachers(record, result)
    _check_temperatures(curve, result)
    _check_features(record, curve, result)
    _check_projections(folder, record, name, result)
    return result


def _check_verdict(folder: Path, record: Record, result: Diagnosis) -> None:
    """The warnings of the report, and what to change where distillation degraded the student."""
    from limbeck.report.next_steps import next_steps
    from limbeck.report.record_io import integrity_warning
    from limbeck.report.verdict import classify_interval

    changed = integrity_warning(folder)
    result.problems.extend(dict.fromkeys([*([changed] if changed else []), *record.warnings]))
    if record.verdict is not None and record.verdict.text:
        result.checks.append(f"the verdict: {record.verdict.text}")
        if classify_interval(record.verdict.interval) == "degrades":
            result.problems.extend(next_steps(record))
    else:
        result.unavailable.append("whether distillation helps: the record has no verdict")


def _check_loss_scales(curve: TrainingCurve, result: Diagnosis) -> None:
    """Losses that are too small, by gradient norm, or by value if no gradient was measured."""
    weights = curve.columns_by_loss("loss_weight")
    for kind, quantity in (("grad_norm", "gradient norm"), ("loss", "share of the total")):
        scales = diagnosis.compare_with_largest(curve.columns_by_loss(kind), weights)
        if len(scales) > 1:
            values = ", ".join(f"{name} {scale:.2g}" for name, scale, _ in scales)
            problems = (diagnosis.check_loss_scale(*scale, measure=quantity) for scale in scales)
            result.add(f"the {quantity} of each loss: {values}", *problems)
            return
    has_losses = curve.columns_by_loss("loss")
    reason = "the objective has one loss" if has_losses else "metrics.csv has no loss column"
    result.unavailable.append(f"whether a loss is too small: {reason}")


def _check_teachers(record: Record, result: Diagnosis) -> None:
    """Teachers that are worse than the student by the primary metric, or too large for it."""
    teachers = {name: model for name, model in record.models.items() if model.role == Role.TEACHER}
    metric = record.primary_spec
    baseline, distilled = (_validation_value(model, metric) for model in (record.baseline, record.distilled))
    student = "the distilled student" if record.baseline is None else "the baseline"
    student_value = distilled if record.baseline is None else baseline
    for name, teacher in teachers.items():
        value, size = _validation_value(teacher, metric), record.distilled.parameters
        if value is None or student_value is None:
            text = f"whether the teacher {name!r} is better than the student: {metric.text} is not recorded"
            result.unavailable.append(text)
        else:
            result.add(
                f"the teacher {name!r} has {metric.format(value)} {metric.text}, {student} "
                f"{metric.format(student_value)}",
                diagnosis.check_teacher_metric(name, value, student_value, metric=metric, reference=student),
            )
        question = f"whether there is a capacity gap to the teacher {name!r}"
        if record.baseline is None:
            result.unavailable.append(f"{question}: the run has no baseline")
        elif value is None or baseline is None or distilled is None:
            result.unavailable.append(f"{question}: {metric.text} is not recorded for all of them")
        elif not teacher.parameters or not size:
            result.unavailable.append(f"{question}: its number of parameters is unknown, as of an external teacher")
        elif (gap := metric.gain(value, baseline)) <= 0:
            result.checks.append(f"{question}: no, it is not better than the baseline ({format_gain(gap, metric)})")
        else:
            ratio, gain = teacher.parameters / size, metric.gain(distilled, baseline)
            result.add(
                f"the capacity gap to {name!r}: {ratio:.1f} times the parameters; it is {format_gain(gap, metric)} "
                f"better than the baseline on validation, and the distilled student {format_gain(gain, metric)}",
                diagnosis.check_capacity_gap(name, ratio, gain / gap, metric=metric),
            )
    if not teachers:
        result.unavailable.append("whether the teacher is good enough: the run has no teacher")


def _validation_value(model: ModelRecord | None, metric: MetricSpec) -> float | None:
    return None if model is None or model.validation is None else model.validation.metrics.get(metric.name)


def _check_temperatures(curve: TrainingCurve, result: Diagnosis) -> None:
    entropies, temperatures = curve.columns_by_loss("teacher_entropy"), curve.columns_by_loss("temperature")
    for name, values in entropies.items():
        entropy, temperature = (
            diagnosis.median_of_second_half(values),
            diagnosis.median_of_second_half(temperatures.get(name, ())),
        )
        if entropy is not None:
            temperature_text = "" if temperature is None else f" at τ = {temperature:.4g}"
            result.add(
                f"the entropy of the teacher in {name}{temperature_text}: {100 * entropy:.0f} % of the maximum",
                diagnosis.check_teacher_entropy(name, entropy, temperature),
            )
    for name, values in temperatures.items():
        if name not in entropies and (temperature := diagnosis.median_of_second_half(values)) is not None:
            result.checks.append(f"the temperature of {name}: {temperature:.4g}, and its loss has no teacher entropy")
    if not entropies and not temperatures:
        result.checks.append("temperatures: no loss has one")


def _check_features(record: Record, curve: TrainingCurve, result: Diagnosis) -> None:
    """Losses on features, divided by their weights, at the beginning and at the end."""
    losses, weights = curve.columns_by_loss("loss"), curve.columns_by_loss("loss_weight")
    names = [name for name in _feature_loss_names(record.recipe) if name in losses]
    for name in names:
        pairs = zip(losses[name], weights.get(name, (1.0,) * len(losses[name])), strict=True)
        values = [
            loss / weight for loss, weight in pairs if math.isfinite(loss) and math.isfinite(weight) and weight > 0
        ]
        last = diagnosis.median_of_second_half(values)
        if len(values) < 2 or last is None:
            result.unavailable.append(f"whether the features of {name!r} align: it has fewer than two epochs")
            continue
        result.add(
            f"the features of {name!r}: unweighted loss {values[0]:.3g} after the first epoch, {last:.3g} in the "
            "second half",
            diagnosis.check_feature_alignment(name, values[0], last),
        )
    if not names:
        result.checks.append("features: no loss compares them")


def _feature_loss_names(recipe: Mapping[str, Any]) -> list[str]:
    """The names of losses with a ``layer`` or ``layers``, in the order of the recipe."""
    objectives = [stage.get("objective") for stage in _stages(recipe)]
    losses = [item for objective in objectives if isinstance(objective, Mapping) for item in objective.items()]
    names = (name for name, loss in losses if isinstance(loss, Mapping) and {"layer", "layers"} & loss.keys())
    return list(dict.fromkeys(names))


def _stages(recipe: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The stages of a recorded recipe, which may have been edited."""
    stages = recipe.get("stages")
    return [stage for stage in stages if isinstance(stage, Mapping)] if isinstance(stages, list | tuple) else []


def _check_projections(folder: Path, record: Record, phase: str, result: Diagnosis) -> None:
    """Learned projections of losses, from the checkpoint of the last stage."""
    stages = _stages(record.recipe)
    path = folder / "checkpoint" / f"{phase}.{stages[-1].get('name')}.pt" if stages else None
    if path is None or not path.exists():
        result.unavailable.append("whether a projection has collapsed: the run has no checkpoint of its last stage")
        return
    projections = _load_projections(path)
    for name, projection in projections.items():
        import torch

        values = torch.linalg.svdvals(projection.flatten(1).double()).tolist()
        try:
            rank = diagnosis.effective_rank(values)
        except LimbeckError:
            result.problems.append(
                f"the projection of {name!r} is not finite: lower the learning rate, or set training.max_grad_norm"
            )
            continue
        problem = diagnosis.check_projection_rank(name, rank, len(values))
        result.add(f"the projection of {name!r}: effective rank {rank:.1f} of {len(values)}", problem)
    if not projections:
        result.checks.append("projections: no loss has one that is learned")


def _load_projections(path: Path) -> dict[str, Any]:
    from limbeck.training.checkpoint import load_checkpoint

    return {
        key.removeprefix("trainable.").partition(".")[0]: tensor
        for key, tensor in (load_checkpoint(path).get("losses") or {}).items()
        if key.startswith("trainable.") and "projection" in key and key.endswith("weight") and tensor.ndim > 1
    }
