"""Networks for choosing teachers: each with the weights it has, or trained once and kept for every later call.

What is trained here is kept in ``trained/NAME-KEY/``, where the key is a hash of all that decides it (network,
training, data, seed). So a change in the recipe trains what it changes and nothing else, and a stale network is never
taken.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

from torch import nn

from limbeck.core.errors import LimbeckError
from limbeck.core.roles import Role
from limbeck.models import load_weights, save_weights
from limbeck.recipe import Recipe, fill_defaults, load_recipe
from limbeck.recipe.schema import to_plain
from limbeck.training import FitResult
from limbeck.training.callbacks import Callback
from limbeck.workflows._job.job import Job
from limbeck.workflows._job.run_dir import RUNS_DIR

__all__ = [
    "TRAINED_DIR",
    "FinishedRuns",
    "MeasuredBaseline",
    "TrainedNetwork",
    "load_baseline",
    "load_or_train_baseline",
    "load_or_train_candidate",
]

TRAINED_DIR = "trained"


@final
@dataclass(frozen=True, slots=True)
class TrainedNetwork:
    """A network that is ready to be measured, the training that made it (if it was one of ours), and its file."""

    network: nn.Module
    run: FitResult | None
    weights_file: str


@final
@dataclass(frozen=True, slots=True)
class MeasuredBaseline:
    """A baseline that was measured before: the ``models.baseline`` of a record, and the run it is from."""

    metrics: Mapping[str, Any]
    folder: Path


@final
@dataclass(frozen=True, slots=True)
class FinishedRuns:
    """What finished runs of a recipe's name have trained already, by key.

    Attributes:
        baselines: students trained without a teacher.
        teacher_weights: weights of teachers.
    """

    baselines: Mapping[str, MeasuredBaseline]
    teacher_weights: Mapping[str, Path]

    @classmethod
    def find(cls, name: str) -> FinishedRuns:
        """Looks into ``runs/NAME*``, the newest last; runs that cannot be read are none."""
        baselines, teacher_weights = dict[str, MeasuredBaseline](), dict[str, Path]()
        for folder, recipe, record in _iter_finished_runs(name):
            data = record["data"]["fingerprint"]
            if Role.BASELINE in record["models"]:
                baselines[_training_key(recipe, data, None)] = MeasuredBaseline(record["models"][Role.BASELINE], folder)
            for teacher, node in recipe.teachers.items():
                file = folder / "checkpoint" / f"{teacher}.safetensors"
                if node.weights is None and file.exists():
                    teacher_weights[_training_key(recipe, data, teacher)] = file
        return cls(baselines, teacher_weights)


def load_or_train_candidate(
    job: Job, name: str, finished_runs: FinishedRuns, *, callbacks: Sequence[Callback] | None
) -> TrainedNetwork:
    """The candidate ``name``: with its weights, those of a finished run, or trained by the recipe's
    ``teacher_training``.
    """
    if (weights := job.recipe.teachers[name].weights) is not None:
        return TrainedNetwork(job.build_teacher(name), None, str(weights))
    key = _training_key(job.recipe, job.data.fingerprint(), name)
    if (file := finished_runs.teacher_weights.get(key)) is not None:
        return TrainedNetwork(load_weights(job.build_teacher(name), file), None, str(file))
    training_dir = _training_dir(job, name, key)
    run = replace(job, run_dir=training_dir).train_teacher(
        name, job.build_teacher(name), resume=True, callbacks=callbacks
    )
    file = training_dir / f"{name}.safetensors"
    if not file.exists():
        save_weights(run.student, file)
    return TrainedNetwork(run.student, run, str(file))


def load_or_train_baseline(
    job: Job, finished_runs: FinishedRuns, *, callbacks: Sequence[Callback] | None
) -> TrainedNetwork | MeasuredBaseline:
    """The baseline: as a finished run of its name measured it, or else trained as the recipe's baseline is."""
    key = _training_key(job.recipe, job.data.fingerprint(), None)
    if key in finished_runs.baselines:
        return finished_runs.baselines[key]
    training_dir = _training_dir(job, Role.BASELINE.value, key)
    run = replace(job, run_dir=training_dir).train_stages(
        Role.BASELINE.value, job.build_student(), {}, resume=True, callbacks=callbacks
    )
    return TrainedNetwork(run.student, run, "")


def load_baseline(job: Job, folder: Path) -> MeasuredBaseline:
    """The baseline of the finished run in ``folder``, whatever its name and stages.

    Raises:
        LimbeckError: it is no finished run, or not of this student on this data.
    """
    try:
        record = json.loads((folder / "record.json").read_text())
        baseline, fingerprint = record["models"].get(Role.BASELINE), record["data"]["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise LimbeckError(
            f"--baseline-run {folder} is no finished run: it has no record.json that can be read"
        ) from error
    if baseline is None:
        raise LimbeckError(
            f"the run {folder} has no baseline (its baselines lack student_only): leave --baseline-run away to "
            "train one"
        )
    run_student, recipe_student = (
        to_plain(fill_defaults(recipe))["student"] for recipe in (load_recipe(folder / "recipe.yaml"), job.recipe)
    )
    if run_student != recipe_student:
        raise LimbeckError(
            f"the baseline of {folder} is {run_student}, and the recipe's is {recipe_student}: leave --baseline-run "
            "away to train it"
        )
    if fingerprint != job.data.fingerprint():
        raise LimbeckError(
            f"the run {folder} had other data or another split, so its baseline cannot be compared with: leave "
            "--baseline-run away to train it"
        )
    return MeasuredBaseline(baseline, folder)


def _training_dir(job: Job, name: str, key: str) -> Path:
    return job.run_dir / TRAINED_DIR / f"{name}-{key[:10]}"


def _training_key(recipe: Recipe, fingerprint: str, name: str | None) -> str:
    """A hash of all that decides the weights of the teacher ``name``, or of the baseline (``None``)."""
    recipe_dict = to_plain(fill_defaults(recipe))
    data = {key: value for key, value in recipe_dict["data"].items() if key != "root"}
    hash_inputs = {
        "data": data,
        "fingerprint": fingerprint,
        **{key: recipe_dict[key] for key in ("seed", "task", "training")},
    }
    if name is not None:
        node = {key: value for key, value in recipe_dict["teachers"][name].items() if key != "weights"}
        hash_inputs |= {"name": name, "network": node, "teacher_training": recipe_dict["teacher_training"]}
    else:
        hash_inputs |= {"network": recipe_dict["student"], "stages": recipe_dict["stages"]}
    return hashlib.sha256(json.dumps(hash_inputs, sort_keys=True, default=str).encode()).hexdigest()


def _iter_finished_runs(name: str) -> Iterator[tuple[Path, Recipe, Mapping[str, Any]]]:
    """Finished runs called ``name`` or ``name-2``, ``name-3`` …, the newest last."""
    for path in sorted(RUNS_DIR.glob(f"{name}*/record.json"), key=lambda path: path.stat().st_mtime_ns):
        try:
            recipe, record = load_recipe(path.parent / "recipe.yaml"), json.loads(path.read_text())
            fill_defaults(recipe)
        except (LimbeckError, OSError, ValueError):
            continue
        if recipe.name == name and {"data", "models"} <= record.keys() and "fingerprint" in record["data"]:
            yield path.parent, recipe, record
