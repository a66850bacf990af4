"""The main job: teachers, the same student alone, the distilled student; measured, exported, reported.

Everything that was finished is kept in the run folder, so a run that was stopped goes on where it was. The sealed test
part is opened once, after all training, for all networks together.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import nn

from limbeck.core.errors import LimbeckError
from limbeck.evaluation import save_answers
from limbeck.export import to_onnx
from limbeck.models import save_weights
from limbeck.recipe import Recipe, find, load, show
from limbeck.recipe.schema import plain
from limbeck.report import summary_table, write_card, write_record, write_report
from limbeck.teachers import Foreign
from limbeck.training import Processes, Run, join
from limbeck.training.callbacks import Watcher
from limbeck.utils.io import digest, write_atomically
from limbeck.workflows._job.job import Job
from limbeck.workflows._job.measure import Deployed, compare, costs, figures, pictures
from limbeck.workflows._job.measure_fidelity import fidelities
from limbeck.workflows._job.provenance import command, provenance
from limbeck.workflows._job.run_dir import choose, locked
from limbeck.workflows._job.teacher_warnings import broken_rules
from limbeck.workflows.distill.assistants import assist
from limbeck.workflows.distill.assistants import warnings as order_warnings
from limbeck.workflows.distill.extra_models import keep_beside

__all__ = ["DEFAULT", "distill"]

DEFAULT = "digits"


def distill(
    recipe: Recipe | str | Path | None = None,
    settings: Sequence[str] = (),
    *,
    out: Path | None = None,
    resume: bool = False,
    watchers: Sequence[Watcher] | None = None,
    repeats: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Run a recipe from the data to the report, and give its record.

    Arguments:
        recipe: a recipe, its file, or the name of one that comes with limbeck; ``None``: digits.
        settings: ``key=value`` settings laid over a file.
        out: the run folder; ``None``: ``runs/NAME``, numbered where taken.
        resume: go on with the run in that folder.
        watchers: who is told how training goes; ``None``: a progress bar.
        repeats: the run that this one repeats, for the record; see :func:`limbeck.workflows.reproduce.run`.

    Where ``torchrun`` started several processes, each calls this alike. They train together; the first one alone
    writes the folder, opens the test part and prints, and all get the record.
    """
    begun, processes = time.monotonic(), join()
    with processes.one_fate(), ExitStack() as opened:
        whole, text = processes.each(lambda: _read(recipe, settings))
        folder, finished = processes.first(lambda: _place(whole, text, out, resume=resume))
        # What is wrong with the recipe or the data shows before a file is made or an hour is spent on a teacher.
        job = None if finished else processes.each(lambda: _rehearsed(whole, folder, processes))
        processes.first(lambda: opened.enter_context(locked(folder)))
        if job is None:
            return processes.first(lambda: _told_again(folder))
        processes.first(lambda: _write_text(folder / "recipe.yaml", text))
        made = processes.first(lambda: provenance(job, command(recipe, settings)) | {"repeats": repeats})
        networks, runs = _trained(job, resume=resume, watchers=watchers)
        made["cache"] = _kept(job)
        return processes.first(lambda: _told(folder, _finished(job, networks, runs, made, begun)))


def _read(recipe: Recipe | str | Path | None, settings: Sequence[str]) -> tuple[Recipe, str]:
    """The recipe, and its text with every setting."""
    if not isinstance(recipe, Recipe):
        recipe = load(find(DEFAULT if recipe is None else recipe), settings)
    return recipe, show(recipe)


def _place(recipe: Recipe, text: str, out: Path | None, *, resume: bool) -> tuple[Path, bool]:
    """The run folder, and whether the run in it is finished."""
    folder = choose(recipe.name, out, resume=resume)
    _same_recipe(folder / "recipe.yaml", text, resume=resume)
    return folder, resume and (folder / "record.json").exists()


def _rehearsed(recipe: Recipe, folder: Path, processes: Processes) -> Job:
    job = Job.of(recipe, folder, processes)
    job.rehearse()
    return job


def _told_again(folder: Path) -> dict[str, Any]:
    _say(f"{folder} is finished: nothing is left to do")
    return _told(folder, json.loads((folder / "record.json").read_text()))


def _told(folder: Path, record: dict[str, Any]) -> dict[str, Any]:
    page = write_report(folder)
    _say(summary_table(record))
    for text in record["warnings"]:
        _say(f"warning: {text}")
    _say(record["verdict"]["sentence"])
    if "over_direct" in record["verdict"]:
        _say(record["verdict"]["over_direct"]["sentence"])
    _say(str(page.resolve()))
    return record


def _trained(
    job: Job, *, resume: bool, watchers: Sequence[Watcher] | None
) -> tuple[dict[str, nn.Module], dict[str, Run | None]]:
    """Every network of the comparison, and its training; all processes take part."""
    networks: dict[str, nn.Module] = {}
    runs: dict[str, Run | None] = {}
    job.processes.first(lambda: _say(f"{job.recipe.name}: {_sizes(job)}"))
    for name, node in job.recipe.teachers.items():
        networks[name] = job.teacher(name)
        ready = node.weights is not None or isinstance(networks[name], Foreign)
        runs[name] = None if ready else job.teach(name, networks[name], resume=resume, watchers=watchers)
    teachers = dict(networks)
    for name, run in assist(job, teachers, resume=resume, watchers=watchers).items():
        networks[name], runs[name] = run.student, run
    guides = {name: networks[name] for name in job.recipe.links()[-1].guides}
    taught = {"alone": {}, "direct": teachers, "distilled": guides}
    for name in (*job.recipe.controls, "distilled"):
        runs[name] = run = job.train(name, job.student(), taught[name], resume=resume, watchers=watchers)
        networks[name] = run.student
    return {name: network.cpu().eval() for name, network in networks.items()}, runs


def _finished(
    job: Job, networks: Mapping[str, nn.Module], runs: Mapping[str, Run | None], made: Mapping[str, Any], begun: float
) -> dict[str, Any]:
    """Measure, export, open the test part, and write the record and the card."""
    _say("measuring …")
    record = {**made, **_measured(job, networks, runs)}
    save_weights(networks["distilled"], job.folder / "student.safetensors", metadata={"recipe": job.recipe.name})
    # The controls too: a later look at all networks together compares what these were, and trains none again.
    beside = (*job.recipe.teachers, *job.recipe.assistants, *job.recipe.controls)
    for name in (name for name in beside if not isinstance(networks[name], Foreign)):
        save_weights(networks[name], job.folder / "checkpoint" / f"{name}.safetensors")
    record |= keep_beside(job, job.folder / "checkpoint", networks)
    if "onnx" in job.recipe.export.to:
        _say("exporting …")
        record["export"]["onnx"] = export_onnx(job, networks["distilled"], job.folder / "student.onnx")
    record |= _tested(job, networks, record)
    record["files"] = {
        name: {"sha256": digest(path), "bytes": path.stat().st_size}
        for name in ("student.safetensors", "student.onnx", "answers.safetensors")
        if (path := job.folder / name).exists()
    }
    record["seconds"] = round(time.monotonic() - begun, 2)
    record = write_record(job.folder, record)
    job.data.sealed.finish()
    write_card(job.folder)
    return record


def export_onnx(job: Job, student: nn.Module, path: Path) -> dict[str, Any]:
    """Write ``student`` as it is handed over (pixels in 0..1) and check it on the validation part."""
    pixels = job.data.validation.read(torch.arange(min(len(job.data.validation), 2000)))
    return to_onnx(Deployed(student, job.data.normalization, rank=pixels.ndim - 1), pixels[:1], path, examples=pixels)


def fingerprint(networks: Mapping[str, nn.Module]) -> str:
    """A hash of all their weights: who asks to read the sealed part."""
    weights = hashlib.sha256()
    for network in networks.values():
        for tensor in network.state_dict().values():
            weights.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return weights.hexdigest()


def _measured(job: Job, networks: Mapping[str, nn.Module], runs: Mapping[str, Run | None]) -> dict[str, Any]:
    """The record without anything that needs the test part."""
    data = job.data
    models: dict[str, Any] = {}
    warnings: list[str] = []
    said = {}
    target = torch.empty(0)
    for name, network in networks.items():
        found = costs(network, data)
        warnings += [f"{name}: {text}" for text in found.pop("warnings")]
        run = runs[name]
        quality, said[name], target = figures(network, data, job.task, data.validation)
        models[name] = {
            "role": _role(job, name), "title": _title(job, name), **found,
            "steps": run.steps if run else None, "seconds": round(run.seconds, 2) if run else None,
            "validation": quality, "test": None,
            **({"engine": job.engines[name].report.plain()} if name in job.engines else {}),
        }  # fmt: skip
    warnings += broken_rules(job, networks, models) + order_warnings(job, models) + job.doubts()
    likeness = fidelities(job, networks, said, target, teacher=_best(job, models))
    return {"models": models, "fidelity": likeness, "export": {}, "warnings": warnings}


def _tested(job: Job, networks: Mapping[str, nn.Module], record: dict[str, Any]) -> dict[str, Any]:
    """Open the sealed part, once, and measure every network on it."""
    part = job.data.sealed.open(fingerprint(networks))
    said = {}
    target = torch.empty(0)
    for name, network in networks.items():
        record["models"][name]["test"], said[name], target = figures(network, job.data, job.task, part)
    save_answers(job.folder / "answers.safetensors", said, target, fingerprint=job.data.sealed.fingerprint())
    history = job.data.sealed.history()
    found = compare(said, target, record["models"], _best(job, record["models"]))
    found["disagreements"] = pictures(found["disagreements"], part)
    return {
        **found,
        "sealed_test": {"reads": history["reads"], "opened": history["opened"], "examples": len(part)},
    }


def _best(job: Job, models: Mapping[str, Any]) -> str | None:
    """The teacher to compare with: of several the most accurate on the validation part."""
    return max(job.recipe.teachers, key=lambda name: models[name]["validation"]["top1"], default=None)


def _kept(job: Job) -> dict[str, Any]:
    """What was asked of each teacher and what was read, over all stages and processes; empty without a cache."""
    found: dict[str, Any] = {}
    everyone = job.processes.gathered([(name, cached.figures()) for name, cached in job.caches])
    # The first process writes the index, so it has the last word on whether a cache is complete.
    for name, new in (one for each in reversed(everyone) for one in each):
        before = found.get(name, {})
        found[name] = {**new, **{count: before.get(count, 0) + new[count] for count in ("asked", "read", "mended")}}
    return found


def _same_recipe(path: Path, text: str, *, resume: bool) -> None:
    if resume and path.exists() and path.read_text() != text:
        before, now = path.read_text().splitlines(), text.splitlines()
        changed = next((line for line in now if line not in before), next((x for x in before if x not in now), "?"))
        raise LimbeckError(
            f"{path.parent} was begun with another recipe (now {changed.strip()!r}): resume with the settings it was "
            "begun with, or choose another --out"
        )


def _role(job: Job, name: str) -> str:
    return "teacher" if name in job.recipe.teachers else "assistant" if name in job.recipe.assistants else name


def _title(job: Job, name: str) -> str:
    if name in job.recipe.teachers:
        stop = job.recipe.teachers[name].stop
        early = "" if stop in (None, 1) else f", stopped early at {100 * stop:g} % of its training"
        return f"Teacher {name}: {_called(plain(job.recipe.teachers[name]))}{early}{_answered(job, name)}"
    if name in job.recipe.assistants:
        return f"Assistant {name}: {_called(plain(job.recipe.assistants[name]))}"
    words = {"alone": "Student alone", "direct": "Student without assistants", "distilled": "Distilled student"}
    return f"{words[name]}: {_called(plain(job.recipe.student))}"


def _answered(job: Job, name: str) -> str:
    """By what a teacher's answers were computed, where it was not by its network as it is."""
    found = job.engines[name].report if name in job.engines else None
    if found is None or found.speedup is None or found.engine == "eager":
        return ""
    return f", answering by {found.engine} at {found.speedup:.1f} times eager's speed"


def _called(node: Mapping[str, Any]) -> str:
    own = ("use", "weights", "engine", "stop")
    settings = ", ".join(f"{key}={value}" for key, value in node.items() if key not in own)
    return f"{node['use']}({settings})"


def _sizes(job: Job) -> str:
    data = job.data
    labelled = "" if data.labelled == len(data.train) else f" ({data.labelled} with a label)"
    return f"{len(data.train)} to train on{labelled}, {len(data.validation)} to choose on, {len(data.sealed)} sealed"


def _write_text(path: Path, text: str) -> None:
    write_atomically(path, lambda partial: partial.write_text(text))


def _say(text: str) -> None:
    print(text, file=sys.stdout, flush=True)  # noqa: T201
