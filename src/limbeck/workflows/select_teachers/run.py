"""Choosing teachers: every candidate of a recipe measured on the validation part, and why each is taken or left.

The test part is never opened. What has to be trained (candidates without weights, the student alone) is kept in the
folder, so that a later call trains only what is new.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from limbeck._version import __version__
from limbeck.core.errors import LimbeckError
from limbeck.evaluation import (
    Heard,
    family,
    flops,
    latencies,
    machine,
    paired_bootstrap,
    pairs,
    parameters,
    peak_memory,
    quality,
    versions,
    weights_bytes,
)
from limbeck.recipe import Recipe, find, load
from limbeck.recipe.schema import plain
from limbeck.report import candidates_table, write_candidates
from limbeck.teachers import Candidate, Rules, Selection, select, warnings
from limbeck.training.callbacks import Watcher
from limbeck.training.checkpoint import Stopped
from limbeck.utils.io import write_atomically
from limbeck.workflows._job.job import Job
from limbeck.workflows._job.measure import example
from limbeck.workflows._job.run_dir import HOME, locked
from limbeck.workflows._job.teacher_warnings import bridged, facts, likeness, listen
from limbeck.workflows.select_teachers.candidates import (
    TRAINED,
    Known,
    Measured,
    Trained,
    control_of,
    taught,
    train_alone,
)

__all__ = ["teachers"]


def teachers(
    recipe: Recipe | str | Path,
    settings: Sequence[str] = (),
    *,
    budget: float | None = None,
    margin: float = Rules().margin,
    out: Path | None = None,
    alone: Path | None = None,
    watchers: Sequence[Watcher] | None = None,
) -> dict[str, Any]:
    """Measure the recipe's teachers, choose among them, print why, and give what ``teachers.json`` holds.

    Arguments:
        recipe: a recipe, its file, or the name of one that comes with limbeck.
        settings: ``key=value`` settings laid over a file.
        budget: ms a picture for all chosen teachers together; ``None``: 30 times the student's latency.
        margin: points of validation accuracy that a teacher is to be above the student alone.
        out: the folder; ``None``: ``runs/NAME-teachers``. What it has trained already is taken from there.
        alone: a finished run to take the student alone from; ``None``: one of the recipe's name that trained it just
            so, or else it is trained.
        watchers: who is told how training goes; ``None``: a progress bar.
    """
    begun = time.monotonic()
    rules = Rules(margin=margin, budget=budget)
    if not isinstance(recipe, Recipe):
        recipe = load(find(recipe), settings)
    if not recipe.teachers:
        raise LimbeckError(f"{recipe.name} has no teachers to choose among: list candidates under `teachers`")
    folder = _folder(recipe.name, out)
    job = Job.of(recipe, folder)
    # What is wrong with a candidate shows before a file is made or an hour is spent on another one.
    _require_answers(job)
    job.rehearse()
    measured = None if alone is None else control_of(job, alone)
    with locked(folder):
        (folder / TRAINED).mkdir(exist_ok=True)
        try:
            found = _chosen(job, rules, measured, watchers=watchers)
        except Stopped as stopped:
            stopped.args = (f"stopped: the work is saved in {folder}; the same command goes on from there",)
            raise
        found["seconds"] = round(time.monotonic() - begun, 2)
        text = json.dumps(found, indent=1, allow_nan=False)
        write_atomically(folder / "teachers.json", lambda path: path.write_text(text))
        picture = write_candidates(folder)
    _say(candidates_table(found))
    _say(str(picture.resolve()))
    return found


def _chosen(
    job: Job, rules: Rules, measured: Measured | None, *, watchers: Sequence[Watcher] | None
) -> dict[str, Any]:  # fmt: skip
    """Everything that is measured, and what was chosen by it, as plain data."""
    data = job.data
    _say(f"{job.recipe.name}: {len(job.recipe.teachers)} candidate(s), {len(data.validation)} samples to choose on")
    student, models, heard = _measured_all(job, measured, watchers)
    compared = pairs(heard)
    allowed = rules.allowed(student["latency_ms"]["median"])
    selection = select(
        {name: _offer(models[name], heard[name]) for name in models}, heard[next(iter(heard))].target,
        budget=allowed, likeness=likeness(compared), rules=rules,
    )  # fmt: skip
    for name, model in models.items():
        model |= {"chosen": name in selection.chosen, "reason": selection.reasons[name]}
    said = warnings(
        {name: facts(model) for name, model in models.items()}, facts(student), likeness=likeness(compared),
        rules=rules, bridged=bridged(job.recipe),
    )  # fmt: skip
    return {
        "schema": 1, "kind": "teachers", "limbeck": __version__, "name": job.recipe.name, "seed": job.recipe.seed,
        "created": datetime.now(UTC).isoformat(timespec="seconds"), "seconds": 0.0, "recipe": plain(job.recipe),
        "versions": versions(), "machine": machine(),
        "data": {
            "name": data.name, "classes": list(data.classes), "shape": list(data.shape),
            "validation": len(data.validation), "fingerprint": data.fingerprint(),
        },
        "rules": {**asdict(rules), "budget": allowed, "given": rules.budget is not None},
        "alone": student, "candidates": models, "pairs": compared, "selection": _selection(selection),
        "warnings": said, "sealed_test": {"reads": data.sealed.reads},
    }  # fmt: skip


def _measured_all(
    job: Job, measured: Measured | None, watchers: Sequence[Watcher] | None
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Heard]]:
    """Figures of the student alone, and figures and answers of each candidate."""
    known = Known.of(job.recipe.name)
    trained = {name: taught(job, name, known, watchers=watchers) for name in job.recipe.teachers}
    control = measured or train_alone(job, known, watchers=watchers)
    _say("measuring …")
    took = _latencies(job, trained, control)
    student, right = _student(job, control)
    student["latency_ms"] = took[""]
    heard: dict[str, Heard] = {}
    models: dict[str, Any] = {}
    for name, one in trained.items():
        models[name], heard[name] = _candidate(job, name, one)
        models[name] |= {"latency_ms": took[name], **_margin(models[name], heard[name], student, right)}
    return student, models, heard


def _require_answers(job: Job) -> None:
    """Each candidate answers two samples as the task takes it, with the classes of the data."""
    batch = next(job.data.validation_batches(batch=2))
    for name in job.recipe.teachers:
        try:
            with torch.no_grad():
                job.task.outputs(job.teacher(name).eval(), batch)
        except LimbeckError as error:
            raise LimbeckError(f"teachers.{name}: {error}") from error


def _student(job: Job, found: Trained | Measured) -> tuple[dict[str, Any], Tensor | None]:
    """The student alone, and on which validation samples it is right, where its network is here."""
    if isinstance(found, Trained):
        heard = listen(job, found.network)
        return {**_measured(job, found, heard), "from": "trained"}, heard.logits.argmax(dim=1) == heard.target
    taken = {name: found.figures.get(name) for name in ("steps", "seconds", "validation")}
    return {**_cost(job, job.student()), **taken, "from": str(found.folder)}, None


def _candidate(job: Job, name: str, trained: Trained) -> tuple[dict[str, Any], Heard]:
    heard = listen(job, trained.network, place=f"teachers.{name}")
    node = plain(job.recipe.teachers[name])
    # torchvision and timm are rooms; the network's own name says what it is.
    called = node["name"] if isinstance(node.get("name"), str) else node["use"]
    measured = {"network": node["use"], "family": family(called), **_measured(job, trained, heard)}
    return measured | {"weights": trained.weights, "features": heard.place}, heard


def _measured(job: Job, trained: Trained, heard: Heard) -> dict[str, Any]:
    run = trained.run
    return {
        **_cost(job, trained.network),
        "steps": run.steps if run else None, "seconds": round(run.seconds, 2) if run else None,
        "validation": quality(heard.logits, heard.target, classes=job.data.classes),
    }  # fmt: skip


def _cost(job: Job, network: nn.Module) -> dict[str, Any]:
    one = example(job.data)
    return {
        "parameters": parameters(network), "flops": flops(network, one)[0], "bytes": weights_bytes(network),
        "memory": peak_memory(network, one),
    }  # fmt: skip


def _latencies(job: Job, trained: Mapping[str, Trained], control: Trained | Measured) -> dict[str, dict[str, Any]]:
    """Of all candidates by name, and of the student by the empty one: here and now, and not of another day's record."""
    one = example(job.data)
    networks = {name: found.network.cpu().eval() for name, found in trained.items()}
    networks[""] = control.network.cpu().eval() if isinstance(control, Trained) else job.student().eval()
    with torch.no_grad():
        return latencies({name: partial(network, one) for name, network in networks.items()})


def _margin(model: Mapping[str, Any], heard: Heard, student: Mapping[str, Any], right: Tensor | None) -> dict[str, Any]:
    """Points above the student alone, with the 95 % interval over the samples where both answered them here."""
    points = 100 * (model["validation"]["top1"] - student["validation"]["top1"])
    if right is None:
        return {"margin_points": points, "margin_interval": None}
    known = heard.target >= 0
    mine = (heard.logits.argmax(dim=1) == heard.target)[known]
    return {"margin_points": points, "margin_interval": list(paired_bootstrap(mine, right[known])[1:])}


def _offer(model: Mapping[str, Any], heard: Heard) -> Candidate:
    return Candidate(
        probabilities=heard.logits.double().softmax(dim=1), margin=model["margin_points"],
        latency=model["latency_ms"]["median"],
    )  # fmt: skip


def _selection(selection: Selection) -> dict[str, Any]:
    return {
        "by": "validation NLL of the mean of probabilities, greedy forward",
        "chosen": list(selection.chosen), "steps": [asdict(step) for step in selection.steps],
    }  # fmt: skip


def _folder(name: str, out: Path | None) -> Path:
    folder = HOME / f"{name}-teachers" if out is None else out
    ours = (folder / TRAINED).is_dir() or (folder / "teachers.json").exists()
    if folder.exists() and not ours and any(path.name != ".lock" for path in folder.iterdir()):
        raise LimbeckError(f"{folder} holds something else than candidates of an earlier call: give another --out")
    return folder


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201
