"""The main job: teachers, the same student without a teacher, the distilled student; measured, exported, reported.

Everything that was finished is kept in the run folder, so a run that was stopped goes on where it was. The held-out
test set is opened once, after all training, for all networks together.
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
from limbeck.evaluation import save_predictions
from limbeck.export import to_onnx
from limbeck.models import save_weights
from limbeck.recipe import Recipe, find_recipe, load_recipe, to_yaml
from limbeck.recipe.schema import to_plain
from limbeck.report import write_model_card, write_record, write_report
from limbeck.report.terminal import render_summary_table
from limbeck.teachers import ExternalTeacher
from limbeck.training import FitResult, Processes, init_processes
from limbeck.training.callbacks import Callback
from limbeck.utils.io import digest, write_atomically
from limbeck.workflows._job.job import Job
from limbeck.workflows._job.measure import (
    NormalizedModel,
    add_thumbnails,
    compare_models,
    evaluate_split,
    measure_inference_cost,
)
from limbeck.workflows._job.measure_fidelity import measure_student_fidelity
from limbeck.workflows._job.provenance import collect_provenance, describe_command
from limbeck.workflows._job.run_dir import choose_run_dir, lock_folder
from limbeck.workflows._job.teacher_warnings import collect_teacher_warnings
from limbeck.workflows.distill.assistants import check_chain_order as order_warnings
from limbeck.workflows.distill.assistants import train_assistants
from limbeck.workflows.distill.extra_models import save_extra_models

__all__ = ["DEFAULT_RECIPE", "distill"]

DEFAULT_RECIPE = "digits"
_STUDENT_TITLES = {
    "baseline": "Student without a teacher", "no_assistants": "Student without assistants",
    "distilled": "Distilled student",
}  # fmt: skip


def distill(
    recipe: Recipe | str | Path | None = None,
    overrides: Sequence[str] = (),
    *,
    run_dir: Path | None = None,
    resume: bool = False,
    callbacks: Sequence[Callback] | None = None,
    reproduces: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Run a recipe from the data to the report, and give its record.

    Arguments:
        recipe: a recipe, its file, or the name of one that comes with limbeck; ``None``: digits.
        overrides: ``key=value`` settings laid over a file.
        run_dir: the run folder; ``None``: ``runs/NAME``, numbered where taken.
        resume: go on with the run in that folder.
        callbacks: of each training; ``None``: a progress bar.
        reproduces: the run that this one reproduces, for the record; see :func:`limbeck.workflows.reproduce`.

    Where ``torchrun`` started several processes, each calls this alike. They train together; the first one alone
    writes the folder, opens the test part and prints, and all get the record.
    """
    start_time, processes = time.monotonic(), init_processes()
    with processes.distributed_errors(), ExitStack() as exit_stack:
        loaded_recipe, text = processes.run_on_all_ranks(lambda: _load_recipe(recipe, overrides))
        folder, is_finished = processes.run_on_rank_zero(
            lambda: _resolve_run_dir(loaded_recipe, text, run_dir, resume=resume)
        )
        # What is wrong with the recipe or the data shows before a file is made or an hour is spent on a teacher.
        job = (
            None
            if is_finished
            else processes.run_on_all_ranks(lambda: _make_validated_job(loaded_recipe, folder, processes))
        )
        processes.run_on_rank_zero(lambda: exit_stack.enter_context(lock_folder(folder)))
        if job is None:
            return processes.run_on_rank_zero(lambda: _report_finished_run(folder))
        processes.run_on_rank_zero(lambda: _write_text(folder / "recipe.yaml", text))
        base_record = processes.run_on_rank_zero(
            lambda: collect_provenance(job, describe_command(recipe, overrides)) | {"reproduces": reproduces}
        )
        networks, runs = _train_all(job, resume=resume, callbacks=callbacks)
        base_record["cache"] = _collect_cache_stats(job)
        return processes.run_on_rank_zero(
            lambda: _report_run(folder, _finish_run(job, networks, runs, base_record, start_time))
        )


def _load_recipe(recipe: Recipe | str | Path | None, overrides: Sequence[str]) -> tuple[Recipe, str]:
    """The recipe, and its text with every setting."""
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(find_recipe(DEFAULT_RECIPE if recipe is None else recipe), overrides)
    return recipe, to_yaml(recipe)


def _resolve_run_dir(recipe: Recipe, text: str, run_dir: Path | None, *, resume: bool) -> tuple[Path, bool]:
    """The run folder, and whether the run in it is finished."""
    folder = choose_run_dir(recipe.name, run_dir, resume=resume)
    _require_same_recipe(folder / "recipe.yaml", text, resume=resume)
    return folder, resume and (folder / "record.json").exists()


def _make_validated_job(recipe: Recipe, folder: Path, processes: Processes) -> Job:
    job = Job.from_recipe(recipe, folder, processes)
    job.validate()
    return job


def _report_finished_run(folder: Path) -> dict[str, Any]:
    _print(f"{folder} is finished: nothing is left to do")
    return _report_run(folder, json.loads((folder / "record.json").read_text()))


def _report_run(folder: Path, record: dict[str, Any]) -> dict[str, Any]:
    page = write_report(folder)
    _print(render_summary_table(record))
    for text in record["warnings"]:
        _print(f"warning: {text}")
    _print(record["verdict"]["text"])
    if "vs_no_assistants" in record["verdict"]:
        _print(record["verdict"]["vs_no_assistants"]["text"])
    _print(str(page.resolve()))
    return record


def _train_all(
    job: Job, *, resume: bool, callbacks: Sequence[Callback] | None
) -> tuple[dict[str, nn.Module], dict[str, FitResult | None]]:
    """Every network of the comparison, and its training; all processes take part."""
    networks: dict[str, nn.Module] = {}
    runs: dict[str, FitResult | None] = {}
    job.processes.run_on_rank_zero(lambda: _print(f"{job.recipe.name}: {_format_split_sizes(job)}"))
    for name, node in job.recipe.teachers.items():
        networks[name] = job.build_teacher(name)
        is_pretrained = node.weights is not None or isinstance(networks[name], ExternalTeacher)
        runs[name] = (
            None if is_pretrained else job.train_teacher(name, networks[name], resume=resume, callbacks=callbacks)
        )
    teachers = dict(networks)
    for name, run in train_assistants(job, teachers, resume=resume, callbacks=callbacks).items():
        networks[name], runs[name] = run.student, run
    last_teachers = {name: networks[name] for name in job.recipe.training_order()[-1].teachers}
    teachers_by_phase = {"baseline": {}, "no_assistants": teachers, "distilled": last_teachers}
    for name in (*job.baseline_phases, "distilled"):
        runs[name] = run = job.train_stages(
            name, job.build_student(), teachers_by_phase[name], resume=resume, callbacks=callbacks
        )
        networks[name] = run.student
    return {name: network.cpu().eval() for name, network in networks.items()}, runs


def _finish_run(
    job: Job,
    networks: Mapping[str, nn.Module],
    runs: Mapping[str, FitResult | None],
    base_record: Mapping[str, Any],
    start_time: float,
) -> dict[str, Any]:
    """Measure, export, open the test set, and write the record and the card."""
    _print("measuring …")
    record = {**base_record, **_measure_models(job, networks, runs)}
    save_weights(networks["distilled"], job.run_dir / "student.safetensors", metadata={"recipe": job.recipe.name})
    # The baselines too: a later look at all networks together compares what these were, and trains none again.
    saved_names = (*job.recipe.teachers, *job.recipe.assistants, *job.baseline_phases)
    for name in (name for name in saved_names if not isinstance(networks[name], ExternalTeacher)):
        save_weights(networks[name], job.run_dir / "checkpoint" / f"{name}.safetensors")
    record |= save_extra_models(job, job.run_dir / "checkpoint", networks)
    if "onnx" in job.recipe.export.to:
        _print("exporting …")
        record["export"]["onnx"] = export_onnx(job, networks["distilled"], job.run_dir / "student.onnx")
    record |= _evaluate_test_set(job, networks, record)
    record["files"] = {
        name: {"sha256": digest(path), "bytes": path.stat().st_size}
        for name in ("student.safetensors", "student.onnx", "predictions.safetensors")
        if (path := job.run_dir / name).exists()
    }
    record["seconds"] = round(time.monotonic() - start_time, 2)
    record = write_record(job.run_dir, record)
    job.data.test.close()
    write_model_card(job.run_dir)
    return record


def export_onnx(job: Job, student: nn.Module, path: Path) -> dict[str, Any]:
    """Write ``student`` as it is handed over (pixels in 0..1) and check it on the validation part."""
    pixels = job.data.validation.read(torch.arange(min(len(job.data.validation), 2000)))
    return to_onnx(
        NormalizedModel(student, job.data.normalization, num_dims=pixels.ndim - 1),
        pixels[:1],
        path,
        check_inputs=pixels,
    )


def hash_networks(networks: Mapping[str, nn.Module]) -> str:
    """A hash of all their weights: the reason for reading the test set."""
    digest = hashlib.sha256()
    for network in networks.values():
        for tensor in network.state_dict().values():
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _measure_models(
    job: Job, networks: Mapping[str, nn.Module], runs: Mapping[str, FitResult | None]
) -> dict[str, Any]:
    """The record without anything that needs the test set."""
    data = job.data
    models: dict[str, Any] = {}
    warnings: list[str] = []
    logits = {}
    target = torch.empty(0)
    for name, network in networks.items():
        entry = measure_inference_cost(network, data)
        warnings += [f"{name}: {text}" for text in entry.pop("warnings")]
        run = runs[name]
        metrics, logits[name], target = evaluate_split(network, data, job.task, data.validation)
        models[name] = {
            "role": _model_role(job, name), "title": _model_title(job, name), **entry,
            "steps": run.steps if run else None, "seconds": round(run.seconds, 2) if run else None,
            "validation": metrics, "test": None,
            **({"backend": job.backends[name].report.to_dict()} if name in job.backends else {}),
        }  # fmt: skip
    warnings += (
        collect_teacher_warnings(job, networks, models) + order_warnings(job, models) + job.temperature_warnings()
    )
    fidelity = measure_student_fidelity(job, networks, logits, target, teacher=_best_teacher(job, models))
    return {"models": models, "fidelity": fidelity, "export": {}, "warnings": warnings}


def _evaluate_test_set(job: Job, networks: Mapping[str, nn.Module], record: dict[str, Any]) -> dict[str, Any]:
    """Open the test set, once, and measure every network on it."""
    split = job.data.test.unlock(hash_networks(networks))
    logits = {}
    target = torch.empty(0)
    for name, network in networks.items():
        record["models"][name]["test"], logits[name], target = evaluate_split(network, job.data, job.task, split)
    save_predictions(job.run_dir / "predictions.safetensors", logits, target, fingerprint=job.data.test.fingerprint())
    history = job.data.test.read_log()
    comparison = compare_models(logits, target, record["models"], _best_teacher(job, record["models"]))
    comparison["disagreements"] = add_thumbnails(comparison["disagreements"], split)
    return {
        **comparison,
        "test_set": {"num_reads": history["num_reads"], "opened_at": history["opened_at"], "num_samples": len(split)},
    }


def _best_teacher(job: Job, models: Mapping[str, Any]) -> str | None:
    """The teacher to compare with: of several the most accurate on the validation part."""
    return max(job.recipe.teachers, key=lambda name: models[name]["validation"]["metrics"]["accuracy"], default=None)


def _collect_cache_stats(job: Job) -> dict[str, Any]:
    """Cache misses and hits of each teacher, over all stages and processes; empty without a cache."""
    stats: dict[str, Any] = {}
    stats_by_rank = job.processes.all_gather_object([(name, cached.stats()) for name, cached in job.caches])
    # The first process writes the index, so it has the last word on whether a cache is complete.
    for name, cache_stats in (entry for rank_stats in reversed(stats_by_rank) for entry in rank_stats):
        previous = stats.get(name, {})
        stats[name] = {
            **cache_stats,
            **{count: previous.get(count, 0) + cache_stats[count] for count in ("misses", "hits", "repaired")},
        }
    return stats


def _require_same_recipe(path: Path, text: str, *, resume: bool) -> None:
    if resume and path.exists() and path.read_text() != text:
        old_lines, new_lines = path.read_text().splitlines(), text.splitlines()
        first_difference = next(
            (line for line in new_lines if line not in old_lines),
            next((old_line for old_line in old_lines if old_line not in new_lines), "?"),
        )
        raise LimbeckError(
            f"{path.parent} was begun with another recipe (now {first_difference.strip()!r}): resume with the "
            "settings it was "
            "begun with, or choose another --out"
        )


def _model_role(job: Job, name: str) -> str:
    return "teacher" if name in job.recipe.teachers else "assistant" if name in job.recipe.assistants else name


def _model_title(job: Job, name: str) -> str:
    if name in job.recipe.teachers:
        train_fraction = job.recipe.teachers[name].train_fraction
        early_stop_text = (
            "" if train_fraction in (None, 1) else f", stopped early at {100 * train_fraction:g} % of its training"
        )
        return (
            f"Teacher {name}: "
            f"{_format_node(to_plain(job.recipe.teachers[name]))}{early_stop_text}{_format_backend(job, name)}"
        )
    if name in job.recipe.assistants:
        return f"Assistant {name}: {_format_node(to_plain(job.recipe.assistants[name]))}"
    return f"{_STUDENT_TITLES[name]}: {_format_node(to_plain(job.recipe.student))}"


def _format_backend(job: Job, name: str) -> str:
    """By what a teacher's outputs were computed, where it was not by its network as it is."""
    report = job.backends[name].report if name in job.backends else None
    if report is None or report.speedup is None or report.backend == "eager":
        return ""
    return f", run by {report.backend} at {report.speedup:.1f} times eager's speed"


def _format_node(node: Mapping[str, Any]) -> str:
    excluded_keys = ("use", "weights", "backend", "train_fraction")
    settings = ", ".join(f"{key}={value}" for key, value in node.items() if key not in excluded_keys)
    return f"{node['use']}({settings})"


def _format_split_sizes(job: Job) -> str:
    data = job.data
    labeled_text = "" if data.num_labeled == len(data.train) else f" ({data.num_labeled} with a label)"
    return (
        f"{len(data.train)} to train on{labeled_text}, {len(data.validation)} to choose on, "
        f"{len(data.test)} held "
        "out for the test"
    )


def _write_text(path: Path, text: str) -> None:
    write_atomically(path, lambda partial: partial.write_text(text))


def _print(text: str) -> None:
    print(text, file=sys.stdout, flush=True)  # noqa: T201
