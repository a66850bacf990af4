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
from limbeck.report import diagnosis
from limbeck.report.metrics_csv import Curve, curves

if TYPE_CHECKING:
    from limbeck.report.record import Record

__all__ = ["Diagnosis", "diagnose", "diagnosed"]


@final
@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What was found.

    Attributes:
        found: what is likely wrong, a sentence each.
        looked: what was looked at, a sentence each.
        unknown: what could not be looked at, and why.
    """

    found: list[str] = field(default_factory=list)
    looked: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        first = [f"- {one}" for one in self.found] or ["nothing found"]
        lines = [*first, "", "looked at:", *(f"- {one}" for one in self.looked)]
        if self.unknown:
            lines += ["", "could not look at:", *(f"- {one}" for one in self.unknown)]
        return "\n".join(lines)


def diagnose(folder: Path) -> Diagnosis:
    """Diagnose the run in ``folder`` and print what was found."""
    found = diagnosed(folder)
    print(found)  # noqa: T201
    return found


def diagnosed(folder: Path) -> Diagnosis:
    """What is likely wrong with the run in ``folder``; raises ``LimbeckError`` where it is no finished run."""
    from limbeck.report.read import read

    record = read(folder / "record.json")
    name = next((name for name, model in record.models.items() if model.role == "distilled"), None)
    if name is None:
        raise LimbeckError(
            f"{folder} holds no distilled student: give a run of `limbeck distill`, or an arm that has one"
        )
    told = Diagnosis()
    curve = curves(folder / "metrics.csv").get(name)
    _pulls(curve, told)
    _teachers(record, told)
    _temperatures(curve, told)
    _features(record, curve, told)
    _projections(folder, record, name, told)
    return told


def _pulls(curve: Curve | None, told: Diagnosis) -> None:
    """A term too small, by gradients where they were measured and by losses where not."""
    for kind, by in (("gradient", "gradient"), ("loss", "share of the loss")):
        columns = {} if curve is None else curve.of(kind)
        pulls = diagnosis.beside_largest(columns, {} if curve is None else curve.of("weight"))
        if len(pulls) > 1:
            told.looked.append(f"the {by} of each term: " + ", ".join(f"{name} {pull:.2g}" for name, pull, _ in pulls))
            told.found.extend(_said(diagnosis.too_small(*one, by=by) for one in pulls))
            return
    one = "the objective has one term" if curve is not None and curve.of("loss") else "metrics.csv tells of no term"
    told.unknown.append(f"whether a term is too small: {one}")


def _teachers(record: Record, told: Diagnosis) -> None:
    """Teachers below the student, and teachers too large for it."""
    teachers = {name: model for name, model in record.models.items() if model.role == "teacher"}
    alone = record.alone if record.alone is not None else record.distilled
    than = "the student alone" if record.alone is not None else "the distilled student"
    mine = None if alone.validation is None else alone.validation.top1
    for name, teacher in teachers.items():
        top1 = None if teacher.validation is None else teacher.validation.top1
        if top1 is None or mine is None:
            told.unknown.append(f"whether the teacher {name!r} is better than its student: an accuracy is not recorded")
        else:
            told.looked.append(f"the teacher {name!r} against {than}: {100 * top1:.1f} % and {100 * mine:.1f} %")
            told.found.extend(_said([diagnosis.worse(name, top1, mine, than=than)]))
        sizes, share = (teacher.parameters, record.distilled.parameters), _recovered(record, top1)
        if sizes[0] and sizes[1] and share is not None:
            ratio = sizes[0] / sizes[1]
            told.looked.append(f"the gap to {name!r}: {ratio:.1f} times the parameters, {100 * share:.0f} % recovered")
            told.found.extend(_said([diagnosis.capacity_gap(name, ratio, share)]))
        else:
            told.unknown.append(
                f"a gap in capacity to the teacher {name!r}: sizes, or the student alone, are not known"
            )
    if not teachers:
        told.unknown.append("whether the teacher is good enough: the run has none")


def _recovered(record: Record, teacher: float | None) -> float | None:
    """The share of the gap in accuracy on validation that the distilled student recovered, where there is a gap."""
    alone, mine = record.alone, record.distilled
    tops = [None if one is None or one.validation is None else one.validation.top1 for one in (alone, mine)]
    if teacher is None or tops[0] is None or tops[1] is None or not teacher > tops[0]:
        return None
    return (tops[1] - tops[0]) / (teacher - tops[0])


def _temperatures(curve: Curve | None, told: Diagnosis) -> None:
    flatness, taus = ({}, {}) if curve is None else (curve.of("flatness"), curve.of("tau"))
    for name, values in flatness.items():
        value, tau = diagnosis.settled(values), diagnosis.settled(taus.get(name, ()))
        if value is not None:
            at = "" if tau is None else f" at τ = {tau:.4g}"
            told.looked.append(f"how flat the teacher is in {name}{at}: {value:.0%} of a guess".replace("%", " %"))
            told.found.extend(_said([diagnosis.flat(name, value, tau)]))
    if not flatness:
        told.unknown.append("whether a temperature flattens everything: metrics.csv has no flatness of any term")


def _features(record: Record, curve: Curve | None, told: Diagnosis) -> None:
    """Terms on taps, by what they were at the beginning and at the end, without their weights."""
    losses, weights = ({}, {}) if curve is None else (curve.of("loss"), curve.of("weight"))
    names = [name for name in _on_features(record.recipe) if name in losses]
    for name in names:
        pairs = zip(losses[name], weights.get(name, (1.0,) * len(losses[name])), strict=True)
        bare = [loss / weight for loss, weight in pairs if math.isfinite(loss) and math.isfinite(weight) and weight > 0]
        if len(bare) < 2:
            told.unknown.append(f"whether the features of {name!r} align: there are fewer than two epochs of it")
            continue
        last = diagnosis.settled(bare)
        assert last is not None
        told.looked.append(f"the features of {name!r}: {bare[0]:.3g} after an epoch, {last:.3g} in the later half")
        told.found.extend(_said([diagnosis.not_aligning(name, bare[0], last)]))
    if not names:
        told.unknown.append("whether features align: no term compares any")


def _on_features(recipe: Mapping[str, Any]) -> list[str]:
    """The names of terms that have a tap, in the order of the recipe."""
    stages = recipe.get("stages") or ()
    terms = [item for stage in stages for item in (stage.get("objective") or {}).items()]
    return list(dict.fromkeys(name for name, term in terms if isinstance(term, Mapping) and term.get("at")))


def _projections(folder: Path, record: Record, phase: str, told: Diagnosis) -> None:
    """Learned matrices of terms, out of the last stage's checkpoint."""
    stages = record.recipe.get("stages") or ()
    path = folder / "checkpoint" / f"{phase}.{stages[-1]['name']}.pt" if stages else None
    matrices = {} if path is None or not path.exists() else _matrices(path)
    for name, matrix in matrices.items():
        import torch

        singular = torch.linalg.svdvals(matrix.flatten(1).double())
        try:
            rank = diagnosis.effective_rank(singular.tolist())
        except LimbeckError:
            told.found.append(
                f"the projection of {name!r} is not finite: lower the learning rate, or set training.clip"
            )
            continue
        told.looked.append(f"the projection of {name!r}: {rank:.1f} of {len(singular)} directions")
        told.found.extend(_said([diagnosis.saturated(name, rank, len(singular))]))
    if not matrices:
        told.unknown.append("whether a projection is saturated: the checkpoint of the last stage holds none")


def _matrices(path: Path) -> dict[str, Any]:
    from limbeck.training.checkpoint import load

    terms = load(path)["terms"]
    return {
        key.removeprefix("learned.").partition(".")[0]: tensor
        for key, tensor in terms.items()
        if key.startswith("learned.") and "projection" in key and key.endswith("weight") and tensor.ndim > 1
    }


def _said(sentences: Any) -> Iterator[str]:
    return (sentence for sentence in sentences if sentence is not None)
