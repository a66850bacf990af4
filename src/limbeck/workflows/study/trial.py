"""One cell of a study: one arm with one seed, trained, measured, and its test part opened once.

A cell is a run folder like any other, except that it holds one student (or the teachers) and no page of its own.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from limbeck.core.errors import LimbeckError
from limbeck.evaluation import Spending, agreement, save_answers
from limbeck.models import save_weights
from limbeck.recipe import Recipe, show
from limbeck.report import write_record
from limbeck.teachers import Foreign
from limbeck.training import Run
from limbeck.training.callbacks import Watcher
from limbeck.utils.io import write_atomically
from limbeck.workflows._job.data_cache import Loaded
from limbeck.workflows._job.job import Job
from limbeck.workflows._job.measure import costs, figures
from limbeck.workflows._job.measure_fidelity import fidelities
from limbeck.workflows._job.provenance import provenance
from limbeck.workflows._job.run_dir import locked
from limbeck.workflows.distill.assistants import assist
from limbeck.workflows.distill.extra_models import keep_beside
from limbeck.workflows.distill.run import fingerprint
from limbeck.workflows.study.variants import Arm

__all__ = ["run_cell"]


def run_cell(
    recipe: Recipe,
    arm: Arm,
    folder: Path,
    *,
    study: str,
    neighbours: int = 0,
    watchers: Sequence[Watcher] | None = None,
    loaded: Loaded | None = None,
) -> dict[str, Any]:
    """Train, measure and record one cell; what was finished of it is not done again.

    Arguments:
        recipe: what to train, from :func:`~limbeck.workflows.study.variants.cell_recipe`.
        arm: which arm it is.
        folder: the cell's run folder.
        study: the name of the study, for the record.
        neighbours: other workers on this machine: with any, its meters count theirs too, so joules are not told.
        watchers: who is told how training goes.
        loaded: what other cells of this process have read.

    Raises:
        LimbeckError: another process works in the folder, or anything that stops a run.
    """
    with locked(folder):
        if (folder / "record.json").exists():
            record: dict[str, Any] = json.loads((folder / "record.json").read_text())
            return record
        begun, text = time.monotonic(), show(recipe)
        _same(folder / "recipe.yaml", text)
        job = Job.of(recipe, folder, loaded=loaded)
        job.rehearse()
        write_atomically(folder / "recipe.yaml", lambda path: path.write_text(text))
        made = provenance(job)
        networks, runs, guides, spent = (_teachers if arm.role == "teacher" else _student)(job, arm, watchers)
        networks = {name: network.cpu().eval() for name, network in networks.items()}
        if neighbours:
            spent = {name: told | {"joules": None} for name, told in spent.items()}
        record = {**made, **_record(job, arm, study, networks, runs, guides, spent)}
        for name, network in networks.items():
            if not isinstance(network, Foreign):
                file = name if arm.role == "teacher" or name != arm.name else "student"
                save_weights(network, folder / f"{file}.safetensors", metadata={"recipe": recipe.name})
        record |= keep_beside(job, folder)
        record["agreement"] = _agreement(job, arm, networks, guides)
        _opened(job, networks, record)
        record["seconds"] = round(time.monotonic() - begun, 2)
        record = write_record(folder, record)
        job.data.sealed.finish()
        return record


_Trained = tuple[dict[str, nn.Module], dict[str, Run | None], dict[str, nn.Module], dict[str, dict[str, Any]]]


def _teachers(job: Job, arm: Arm, watchers: Sequence[Watcher] | None) -> _Trained:
    """Every teacher, trained where it has no weights."""
    networks: dict[str, nn.Module] = {}
    runs: dict[str, Run | None] = {}
    spent: dict[str, dict[str, Any]] = {}
    for name, node in job.recipe.teachers.items():
        networks[name] = job.teacher(name)
        ready = node.weights is not None or isinstance(networks[name], Foreign)
        with Spending() as took:
            runs[name] = None if ready else job.teach(name, networks[name], resume=True, watchers=watchers)
        spent[name] = took.plain()
    return networks, runs, {}, spent


def _student(job: Job, arm: Arm, watchers: Sequence[Watcher] | None) -> _Trained:
    """The arm's student, and the assistants that were trained for it: they are part of what the arm costs."""
    teachers = {name: job.teacher(name).eval() for name in job.recipe.teachers}
    with Spending() as took:
        assistants = assist(job, teachers, resume=True, watchers=watchers) if job.recipe.assistants else {}
        known = teachers | {name: run.student for name, run in assistants.items()}
        guides = {name: known[name] for name in job.recipe.links()[-1].guides}
        student = job.student()
        run = job.train(arm.name, student, guides, resume=True, watchers=watchers)
    runs: dict[str, Run | None] = {**assistants, arm.name: run}
    networks = {name: run.student for name, run in assistants.items()} | {arm.name: run.student}
    return networks, runs, guides, {arm.name: took.plain()}


def _record(
    job: Job, arm: Arm, study: str, networks: dict[str, nn.Module], runs: dict[str, Run | None],
    guides: dict[str, nn.Module], spent: dict[str, dict[str, Any]],
) -> dict[str, Any]:  # fmt: skip
    """What was measured, but for what needs the test part."""
    data, models, warnings = job.data, dict[str, Any](), list[str]()
    said, target = dict[str, torch.Tensor](), torch.empty(0)
    for name, network in networks.items():
        found, run = costs(network, data), runs[name]
        warnings += [f"{name}: {text}" for text in found.pop("warnings")]
        quality, said[name], target = figures(network, data, job.task, data.validation)
        role = arm.role if arm.role == "teacher" or name == arm.name else "assistant"
        models[name] = {
            "role": role, "title": arm.title if name == arm.name else name, **found,
            "steps": run.steps if run else None, "seconds": round(run.seconds, 2) if run else None,
            "spent": spent.get(name),
            "validation": quality, "test": None,
        }  # fmt: skip
    if arm.role == "distilled":
        warnings += job.doubts()
    return {
        "kind": "arm", "arm": {"study": study, "arm": arm.name, "seed": job.recipe.seed}, "models": models,
        "fidelity": _fidelity(job, networks, guides, said, target), "export": {}, "warnings": warnings,
        "cache": {name: cached.figures() for name, cached in job.caches},
    }  # fmt: skip


def _fidelity(
    job: Job, networks: dict[str, nn.Module], guides: dict[str, nn.Module], said: dict[str, torch.Tensor],
    target: torch.Tensor,
) -> dict[str, Any] | None:  # fmt: skip
    """How like its first guide the student became, also one that it never listened to."""
    teacher = next(iter(guides), None)
    if teacher is None:
        return None
    _, taught, _ = figures(guides[teacher], job.data, job.task, job.data.validation)
    everyone = networks | {teacher: guides[teacher]}
    return fidelities(job, everyone, said | {teacher: taught}, target, teacher=teacher)


def _agreement(
    job: Job, arm: Arm, networks: dict[str, nn.Module], guides: dict[str, nn.Module]
) -> dict[str, Any] | None:
    """How like its first guide the student answers on the validation part."""
    if not guides:
        return None
    teacher = next(iter(guides.values()))
    said, target = figures(networks[arm.name], job.data, job.task, job.data.validation)[1:]
    taught = figures(teacher, job.data, job.task, job.data.validation)[1]
    return {"on": "validation", **agreement(said, taught, target)}


def _opened(job: Job, networks: dict[str, nn.Module], record: dict[str, Any]) -> None:
    """Open the sealed part, once, and measure on it."""
    part, said, target = job.data.sealed.open(fingerprint(networks)), dict[str, torch.Tensor](), torch.empty(0)
    for name, network in networks.items():
        record["models"][name]["test"], said[name], target = figures(network, job.data, job.task, part)
    save_answers(job.folder / "answers.safetensors", said, target, fingerprint=job.data.sealed.fingerprint())
    history = job.data.sealed.history()
    record["sealed_test"] = {"reads": history["reads"], "opened": history["opened"], "examples": len(part)}


def _same(path: Path, text: str) -> None:
    if path.exists() and path.read_text() != text:
        raise LimbeckError(
            f"{path.parent} was begun with other settings: remove the folder to train this arm anew, or give the study "
            "another --out"
        )
