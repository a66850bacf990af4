"""Networks for choosing teachers: each with the weights it has, or trained once and kept for every later call.

What is trained here stands in ``trained/NAME-KEY/``, where the key is a hash of all that decides it (network, training,
data, seed). So a change in the recipe trains what it changes and nothing else, and a stale network is never taken.
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
from limbeck.models import load_weights, save_weights
from limbeck.recipe import Recipe, load, resolved
from limbeck.recipe.schema import plain
from limbeck.training import Run
from limbeck.training.callbacks import Watcher
from limbeck.workflows._job.job import Job
from limbeck.workflows._job.run_dir import HOME

__all__ = ["TRAINED", "Known", "Measured", "Trained", "control_of", "taught", "train_alone"]

TRAINED = "trained"


@final
@dataclass(frozen=True, slots=True)
class Trained:
    """A network that is ready to be measured, the training that made it (if it was one of ours), and its file."""

    network: nn.Module
    run: Run | None
    weights: str


@final
@dataclass(frozen=True, slots=True)
class Measured:
    """A student alone that was measured before: the ``models.alone`` of a record, and the run it is from."""

    figures: Mapping[str, Any]
    folder: Path


@final
@dataclass(frozen=True, slots=True)
class Known:
    """What finished runs of a recipe's name have trained already, by key.

    Attributes:
        alone: students alone.
        teachers: weights of teachers.
    """

    alone: Mapping[str, Measured]
    teachers: Mapping[str, Path]

    @classmethod
    def of(cls, name: str) -> Known:
        """Looks into ``runs/NAME*``, the newest last; runs that cannot be read are none."""
        alone, teachers = dict[str, Measured](), dict[str, Path]()
        for folder, recipe, record in _finished(name):
            data = record["data"]["fingerprint"]
            if "alone" in record["models"]:
                alone[_key(recipe, data, None)] = Measured(record["models"]["alone"], folder)
            for teacher, node in recipe.teachers.items():
                file = folder / "checkpoint" / f"{teacher}.safetensors"
                if node.weights is None and file.exists():
                    teachers[_key(recipe, data, teacher)] = file
        return cls(alone, teachers)


def taught(job: Job, name: str, known: Known, *, watchers: Sequence[Watcher] | None) -> Trained:
    """The candidate ``name``: with its weights, those of a finished run, or trained by the recipe's ``teaching``."""
    if (weights := job.recipe.teachers[name].weights) is not None:
        return Trained(job.teacher(name), None, str(weights))
    key = _key(job.recipe, job.data.fingerprint(), name)
    if (file := known.teachers.get(key)) is not None:
        return Trained(load_weights(job.teacher(name), file), None, str(file))
    home = _home(job, name, key)
    run = replace(job, folder=home).teach(name, job.teacher(name), resume=True, watchers=watchers)
    file = home / f"{name}.safetensors"
    if not file.exists():
        save_weights(run.student, file)
    return Trained(run.student, run, str(file))


def train_alone(job: Job, known: Known, *, watchers: Sequence[Watcher] | None) -> Trained | Measured:
    """The student alone: as a finished run of its name measured it, or else trained as the recipe's control is."""
    key = _key(job.recipe, job.data.fingerprint(), None)
    if key in known.alone:
        return known.alone[key]
    home = _home(job, "alone", key)
    run = replace(job, folder=home).train("alone", job.student(), {}, resume=True, watchers=watchers)
    return Trained(run.student, run, "")


def control_of(job: Job, folder: Path) -> Measured:
    """The student alone of the finished run in ``folder``, whatever its name and stages.

    Raises:
        LimbeckError: it is no finished run, or not of this student on this data.
    """
    try:
        record = json.loads((folder / "record.json").read_text())
        alone, fingerprint = record["models"].get("alone"), record["data"]["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise LimbeckError(f"--alone {folder} is no finished run: it has no record.json that can be read") from error
    if alone is None:
        raise LimbeckError(f"the run {folder} has no student alone (control: none): leave --alone away to train one")
    theirs, ours = (plain(resolved(recipe))["student"] for recipe in (load(folder / "recipe.yaml"), job.recipe))
    if theirs != ours:
        raise LimbeckError(
            f"the student alone of {folder} is {theirs}, and the recipe's is {ours}: leave --alone away to train it"
        )
    if fingerprint != job.data.fingerprint():
        raise LimbeckError(
            f"the run {folder} had other data or another split, so its student alone cannot be compared with: leave "
            "--alone away to train it"
        )
    return Measured(alone, folder)


def _home(job: Job, name: str, key: str) -> Path:
    return job.folder / TRAINED / f"{name}-{key[:10]}"


def _key(recipe: Recipe, fingerprint: str, name: str | None) -> str:
    """A hash of all that decides the weights of the teacher ``name``, or of the student alone (``None``)."""
    whole = plain(resolved(recipe))
    data = {key: value for key, value in whole["data"].items() if key != "root"}
    deciding = {"data": data, "fingerprint": fingerprint, **{key: whole[key] for key in ("seed", "task", "training")}}
    if name is not None:
        node = {key: value for key, value in whole["teachers"][name].items() if key != "weights"}
        deciding |= {"name": name, "network": node, "teaching": whole["teaching"]}
    else:
        deciding |= {"network": whole["student"], "stages": whole["stages"]}
    return hashlib.sha256(json.dumps(deciding, sort_keys=True, default=str).encode()).hexdigest()


def _finished(name: str) -> Iterator[tuple[Path, Recipe, Mapping[str, Any]]]:
    """Finished runs called ``name`` or ``name-2``, ``name-3`` …, the newest last."""
    for path in sorted(HOME.glob(f"{name}*/record.json"), key=lambda path: path.stat().st_mtime_ns):
        try:
            recipe, record = load(path.parent / "recipe.yaml"), json.loads(path.read_text())
            resolved(recipe)
        except (LimbeckError, OSError, ValueError):
            continue
        if recipe.name == name and {"data", "models"} <= record.keys() and "fingerprint" in record["data"]:
            yield path.parent, recipe, record
