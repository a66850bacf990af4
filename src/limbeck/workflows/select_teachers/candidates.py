"""Networks for choosing teachers: with the weights they have, or trained once and saved for later calls.

What is trained here is saved in ``trained/NAME-KEY/``. The key is a hash of all that decides the weights (network,
training, data, seed), so a changed recipe trains only what it changes.
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
from limbeck.training.callbacks import Callback
from limbeck.workflows._job.job import Job
from limbeck.workflows._job.run_dir import RUNS_DIR

__all__ = [
    "TRAINED_DIR",
    "TrainedNetwork",
    "load_baseline",
    "load_or_train_baseline",
    "load_or_train_candidate",
]

TRAINED_DIR = "trained"


@final
@dataclass(frozen=True, slots=True)
class TrainedNetwork:
    """A network to measure.

    Attributes:
        network: of a baseline that a finished run measured, the untrained student.
        source: the file of its weights; of a baseline the run, or ``trained``.
        steps: optimizer steps, if it was trained here.
        seconds: of that training.
        validation: validation metrics in the record of the run, in place of measured ones.
    """

    network: nn.Module
    source: str
    steps: int | None = None
    seconds: float | None = None
    validation: dict[str, Any] | None = None


def load_or_train_candidate(job: Job, name: str, *, callbacks: Sequence[Callback] | None) -> TrainedNetwork:
    """The candidate ``name``: with its weights, those of a finished run, or trained by ``teacher_training``."""
    network, weights = job.build_teacher(name), job.recipe.teachers[name].weights
    if weights is not None:
        return TrainedNetwork(network, str(weights))
    key = _training_key(job.recipe, job.data.fingerprint(), name)
    for folder, recipe, record in _iter_finished_runs(job.recipe.name):
        file = folder / "checkpoint" / f"{name}.safetensors"
        is_trained = name in recipe.teachers and recipe.teachers[name].weights is None and file.exists()
        if is_trained and _training_key(recipe, record["data"]["fingerprint"], name) == key:
            return TrainedNetwork(load_weights(network, file), str(file))
    training_dir = job.run_dir / TRAINED_DIR / f"{name}-{key[:10]}"
    run = replace(job, run_dir=training_dir).train_teacher(name, network, resume=True, callbacks=callbacks)
    file = training_dir / f"{name}.safetensors"
    if not file.exists():
        save_weights(run.student, file)
    return TrainedNetwork(run.student, str(file), run.steps, round(run.seconds, 2))


def load_or_train_baseline(job: Job, *, callbacks: Sequence[Callback] | None) -> TrainedNetwork:
    """The baseline: as a finished run measured it, or trained as the recipe's baseline."""
    name: str = Role.BASELINE.value
    key = _training_key(job.recipe, job.data.fingerprint(), None)
    for folder, recipe, record in _iter_finished_runs(job.recipe.name):
        if name in record["models"] and _training_key(recipe, record["data"]["fingerprint"], None) == key:
            return _recorded_baseline(job, record["models"][name], folder)
    training_dir = job.run_dir / TRAINED_DIR / f"{name}-{key[:10]}"
    run = replace(job, run_dir=training_dir).train_stages(
        name, job.build_student(), {}, resume=True, callbacks=callbacks
    )
    return TrainedNetwork(run.student, "trained", run.steps, round(run.seconds, 2))


def load_baseline(job: Job, folder: Path) -> TrainedNetwork:
    """The baseline of the finished run in ``folder``, with any name and stages.

    Raises:
        LimbeckError: it is no finished run, or has another student or other data.
    """
    try:
        record = json.loads((folder / "record.json").read_text())
        baseline, fingerprint = record["models"].get(Role.BASELINE), record["data"]["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise LimbeckError(f"--baseline-run {folder} is no finished run: it has no readable record.json") from error
    remedy = "leave --baseline-run away to train one"
    if baseline is None:
        raise LimbeckError(f"the run {folder} has no baseline (its baselines lack student_only): {remedy}")
    run_student, recipe_student = (
        to_plain(fill_defaults(recipe))["student"] for recipe in (load_recipe(folder / "recipe.yaml"), job.recipe)
    )
    if run_student != recipe_student:
        raise LimbeckError(f"the baseline of {folder} is {run_student}, and the recipe's is {recipe_student}: {remedy}")
    if fingerprint != job.data.fingerprint():
        raise LimbeckError(
            f"the run {folder} has other data or another split, so its baseline cannot be compared with: {remedy}"
        )
    return _recorded_baseline(job, baseline, folder)


def _recorded_baseline(job: Job, model: Mapping[str, Any], folder: Path) -> TrainedNetwork:
    return TrainedNetwork(
        job.build_student(), str(folder), model.get("steps"), model.get("seconds"), model["validation"]
    )


def _training_key(recipe: Recipe, fingerprint: str, name: str | None) -> str:
    """A hash of all that decides the weights of the teacher ``name``, or of the baseline (``None``)."""
    recipe_dict = to_plain(fill_defaults(recipe))
    hash_inputs: dict[str, Any] = {
        "data": {key: value for key, value in recipe_dict["data"].items() if key != "root"},
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
    """Finished runs of recipes with that name in ``runs/NAME*``, the newest first; unreadable ones are left out."""
    files = sorted(RUNS_DIR.glob(f"{name}*/record.json"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    for path in files:
        try:
            recipe, record = load_recipe(path.parent / "recipe.yaml"), json.loads(path.read_text())
            fill_defaults(recipe)
        except (LimbeckError, OSError, ValueError):
            continue
        if recipe.name == name and {"data", "models"} <= record.keys() and "fingerprint" in record["data"]:
            yield path.parent, recipe, record
