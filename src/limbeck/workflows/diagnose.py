"""``limbeck diagnose RUN``: reads what a run wrote down, and says in plain words what is likely wrong.

It trains nothing, asks no network and reads no data: the record, ``metrics.csv``, and of a projection its weights in
the checkpoint. It says what it looked at as well, and what it could not look at and why.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from limbeck.core.errors import LimbeckError
from limbeck.core.roles import Role
from limbeck.report import diagnosis
from limbeck.report.metrics_csv import TrainingCurve, load_curves

if TYPE_CHECKING:
    from limbeck.report.record import Record

__all__ = ["Diagnosis", "diagnose", "diagnose_run"]

_LAYER_KEYS = {"layer", "layers"}


@final
@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What was found.

    Attributes:
        problems: what is likely wrong, a sentence each.
        checks: what was looked at, a sentence each.
        unavailable: what could not be looked at, and why.
    """

    problems: list[str] = field(default_factory=list)
    checks: list[str] = field(default_factory=list)
    unavailable: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        problem_lines = [f"- {sentence}" for sentence in self.problems] or ["nothing found"]
        lines = [*problem_lines, "", "looked at:", *(f"- {sentence}" for sentence in self.checks)]
        if self.unavailable:
            lines += ["", "could not look at:", *(f"- {sentence}" for sentence in self.unavailable)]
        return "\n".join(lines)


def diagnose(folder: Path) -> Diagnosis:
    """Diagnose the run in ``folder`` and print what was found."""
    result = diagnose_run(folder)
    print(result)  # noqa: T201
    return result


def diagnose_run(folder: Path) -> Diagnosis:
    """What is likely wrong with the run in ``folder``; raises ``LimbeckError`` where it is no finished run."""
    from limbeck.report.record_io import read_record

    record = read_record(folder / "record.json")
    name = next((name for name, model in record.models.items() if model.role == Role.DISTILLED), None)
    if name is None:
        raise LimbeckError(
            f"{folder} holds no distilled student: give a run of `limbeck distill`, or a trial that has one"
        )
    result = Diagnosis()
    curve = load_curves(folder / "metrics.csv").get(name)
    _check_loss_scales(curve, result)
    _check_teachers(record, result)
    _check_temperatures(curve, result)
    _check_features(record, curve, result)
    _check_projections(folder, record, name, result)
    return result


def _check_loss_scales(curve: TrainingCurve | None, result: Diagnosis) -> None:
    """A loss too small, by gradients where they were measured and by losses where not."""
    for kind, quantity in (("grad_norm", "gradient norm"), ("loss", "share of the total")):
        columns = {} if curve is None else curve.columns_by_loss(kind)
        relative_scales = diagnosis.compare_with_largest(
            columns, {} if curve is None else curve.columns_by_loss("loss_weight")
        )
        if len(relative_scales) > 1:
            result.checks.append(
                f"the {quantity} of each loss: "
                + ", ".join(f"{name} {scale:.2g}" for name, scale, _ in relative_scales)
            )
            result.problems.extend(
                _drop_none(diagnosis.check_loss_scale(*reason, measure=quantity) for reason in relative_scales)
            )
            return
    reason = (
        "the objective has one loss"
        if curve is not None and curve.columns_by_loss("loss")
        else "metrics.csv has no column of a loss"
    )
    result.unavailable.append(f"whether a loss is too small: {reason}")


def _check_teachers(record: Record, result: Diagnosis) -> None:
    """Teachers below the student, and teachers too large for it."""
    teachers = {name: model for name, model in record.models.items() if model.role == Role.TEACHER}
    reference = record.baseline if record.baseline is not None else record.distilled
    reference_name = "the baseline" if record.baseline is not None else "the distilled student"
    reference_accuracy = None if reference.validation is None else reference.validation.metrics.get("accuracy")
    for name, teacher in teachers.items():
        teacher_accuracy = None if teacher.validation is None else teacher.validation.metrics.get("accuracy")
        if teacher_accuracy is None or reference_accuracy is None:
            result.unavailable.append(
                f"whether the teacher {name!r} is better than its student: an accuracy is not recorded"
            )
        else:
            result.checks.append(
                f"the teacher {name!r} against {reference_name}: {100 * teacher_accuracy:.1f} % and "
                f"{100 * reference_accuracy:.1f} %"
            )
            result.problems.extend(
                _drop_none(
                    [
                        diagnosis.check_teacher_accuracy(
                            name, teacher_accuracy, reference_accuracy, reference=reference_name
                        )
                    ]
                )
            )
        sizes, recovered = (teacher.parameters, record.distilled.parameters), _gap_recovered(record, teacher_accuracy)
        if sizes[0] and sizes[1] and recovered is not None:
            ratio = sizes[0] / sizes[1]
            result.checks.append(
                f"the gap to {name!r}: {ratio:.1f} times the parameters, {100 * recovered:.0f} % recovered"
            )
            result.problems.extend(_drop_none([diagnosis.check_capacity_gap(name, ratio, recovered)]))
        else:
            result.unavailable.append(
                f"a gap in capacity to the teacher {name!r}: sizes, or the baseline, are not known"
            )
    if not teachers:
        result.unavailable.append("whether the teacher is good enough: the run has none")


def _gap_recovered(record: Record, teacher_accuracy: float | None) -> float | None:
    """The share of the gap in accuracy on validation that the distilled student recovered, where there is a gap."""
    baseline, distilled = record.baseline, record.distilled
    accuracies = [
        None if model is None or model.validation is None else model.validation.metrics.get("accuracy")
        for model in (baseline, distilled)
    ]
    if (
        teacher_accuracy is None
        or accuracies[0] is None
        or accuracies[1] is None
        or not teacher_accuracy > accuracies[0]
    ):
        return None
    return (accuracies[1] - accuracies[0]) / (teacher_accuracy - accuracies[0])


def _check_temperatures(curve: TrainingCurve | None, result: Diagnosis) -> None:
    entropies, temperatures = (
        ({}, {}) if curve is None else (curve.columns_by_loss("teacher_entropy"), curve.columns_by_loss("temperature"))
    )
    for name, values in entropies.items():
        value, temperature = diagnosis.late_median(values), diagnosis.late_median(temperatures.get(name, ()))
        if value is not None:
            temperature_text = "" if temperature is None else f" at τ = {temperature:.4g}"
            result.checks.append(
                f"the entropy of the teacher in {name}{temperature_text}: {value:.0%} of the maximum".replace("%", " %")
            )
            result.problems.extend(_drop_none([diagnosis.check_teacher_entropy(name, value, temperature)]))
    if not entropies:
        result.unavailable.append(
            "whether a temperature flattens everything: metrics.csv has no teacher entropy of any loss"
        )


def _check_features(record: Record, curve: TrainingCurve | None, result: Diagnosis) -> None:
    """Losses on features, by what they were at the beginning and at the end, without their weights."""
    losses, weights = (
        ({}, {}) if curve is None else (curve.columns_by_loss("loss"), curve.columns_by_loss("loss_weight"))
    )
    names = [name for name in _feature_loss_names(record.recipe) if name in losses]
    for name in names:
        pairs = zip(losses[name], weights.get(name, (1.0,) * len(losses[name])), strict=True)
        unweighted = [
            loss / weight for loss, weight in pairs if math.isfinite(loss) and math.isfinite(weight) and weight > 0
        ]
        if len(unweighted) < 2:
            result.unavailable.append(f"whether the features of {name!r} align: there are fewer than two epochs of it")
            continue
        settled_loss = diagnosis.late_median(unweighted)
        assert settled_loss is not None
        result.checks.append(
            f"the features of {name!r}: {unweighted[0]:.3g} after an epoch, {settled_loss:.3g} in the later half"
        )
        result.problems.extend(_drop_none([diagnosis.check_feature_alignment(name, unweighted[0], settled_loss)]))
    if not names:
        result.unavailable.append("whether features align: no loss compares any")


def _feature_loss_names(recipe: Mapping[str, Any]) -> list[str]:
    """The names of losses that have a layer, in the order of the recipe."""
    stages = recipe.get("stages") or ()
    losses = [item for stage in stages for item in (stage.get("objective") or {}).items()]
    return list(dict.fromkeys(name for name, loss in losses if isinstance(loss, Mapping) and _LAYER_KEYS & loss.keys()))


def _check_projections(folder: Path, record: Record, phase: str, result: Diagnosis) -> None:
    """Learned matrices of losses, out of the last stage's checkpoint."""
    stages = record.recipe.get("stages") or ()
    path = folder / "checkpoint" / f"{phase}.{stages[-1]['name']}.pt" if stages else None
    matrices = {} if path is None or not path.exists() else _load_projections(path)
    for name, matrix in matrices.items():
        import torch

        singular = torch.linalg.svdvals(matrix.flatten(1).double())
        try:
            rank = diagnosis.effective_rank(singular.tolist())
        except LimbeckError:
            result.problems.append(
                f"the projection of {name!r} is not finite: lower the learning rate, or set training.max_grad_norm"
            )
            continue
        result.checks.append(f"the projection of {name!r}: {rank:.1f} of {len(singular)} directions")
        result.problems.extend(_drop_none([diagnosis.check_projection_rank(name, rank, len(singular))]))
    if not matrices:
        result.unavailable.append("whether a projection is saturated: the checkpoint of the last stage holds none")


def _load_projections(path: Path) -> dict[str, Any]:
    from limbeck.training.checkpoint import load_checkpoint

    loss_state = load_checkpoint(path)["losses"]
    return {
        key.removeprefix("trainable.").partition(".")[0]: tensor
        for key, tensor in loss_state.items()
        if key.startswith("trainable.") and "projection" in key and key.endswith("weight") and tensor.ndim > 1
    }


def _drop_none(sentences: Any) -> Iterator[str]:
    return (sentence for sentence in sentences if sentence is not None)
