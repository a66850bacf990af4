"""One trial of a study: one variant with one seed, trained, measured, and its test part opened once.

A trial is a run folder like any other, except that it holds one student (or the teachers) and no page of its own.
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
from limbeck.core.roles import Role
from limbeck.evaluation import ResourceMeter, prediction_agreement, save_predictions
from limbeck.models import save_weights
from limbeck.recipe import Recipe, to_yaml
from limbeck.report import write_record
from limbeck.teachers import ExternalTeacher
from limbeck.training import FitResult
from limbeck.training.callbacks import Callback
from limbeck.utils.io import write_atomically
from limbeck.workflows._job.data_cache import DataCache
from limbeck.workflows._job.job import Job
from limbeck.workflows._job.measure import evaluate_split, measure_inference_cost
from limbeck.workflows._job.measure_fidelity import measure_student_fidelity
from limbeck.workflows._job.provenance import collect_provenance
from limbeck.workflows._job.run_dir import lock_folder
from limbeck.workflows.distill.assistants import train_assistants
from limbeck.workflows.distill.extra_models import save_extra_models
from limbeck.workflows.distill.run import hash_networks
from limbeck.workflows.study.variants import Variant

__all__ = ["run_trial"]


def run_trial(
    recipe: Recipe,
    variant: Variant,
    folder: Path,
    *,
    study_name: str,
    num_other_workers: int = 0,
    callbacks: Sequence[Callback] | None = None,
    data_cache: DataCache | None = None,
) -> dict[str, Any]:
    """Train, measure and record one trial; what was finished of it is not done again.

    Arguments:
        recipe: what to train, from :func:`~limbeck.workflows.study.variants.make_trial_recipe`.
        variant: which variant it is.
        folder: the trial's run folder.
        study_name: the name of the study, for the record.
        num_other_workers: other workers on this machine: with any, its meters count theirs too, so joules are not told.
        callbacks: who is told how training goes.
        data_cache: what other trials of this process have read.

    Raises:
        LimbeckError: another process works in the folder, or anything that stops a run.
    """
    with lock_folder(folder):
        if (folder / "record.json").exists():
            record: dict[str, Any] = json.loads((folder / "record.json").read_text())
            return record
        start_time, text = time.monotonic(), to_yaml(recipe)
        _require_same_recipe(folder / "recipe.yaml", text)
        job = Job.from_recipe(recipe, folder, data_cache=data_cache)
        job.validate()
        write_atomically(folder / "recipe.yaml", lambda path: path.write_text(text))
        base_record = collect_provenance(job)
        networks, runs, last_teachers, resources = (
            _train_teachers if variant.role == Role.TEACHER else _train_student
        )(job, variant, callbacks)
        networks = {name: network.cpu().eval() for name, network in networks.items()}
        if num_other_workers:
            resources = {name: model_resources | {"joules": None} for name, model_resources in resources.items()}
        record = {**base_record, **_make_record(job, variant, study_name, networks, runs, last_teachers, resources)}
        for name, network in networks.items():
            if not isinstance(network, ExternalTeacher):
                file_stem = name if variant.role == Role.TEACHER or name != variant.name else "student"
                save_weights(network, folder / f"{file_stem}.safetensors", metadata={"recipe": recipe.name})
        record |= save_extra_models(job, folder)
        record["agreement"] = _measure_agreement(job, variant, networks, last_teachers)
        _evaluate_test_set(job, networks, record)
        record["seconds"] = round(time.monotonic() - start_time, 2)
        record = write_record(folder, record)
        job.data.test.close()
        return record


_TrainingResult = tuple[
    dict[str, nn.Module], dict[str, FitResult | None], dict[str, nn.Module], dict[str, dict[str, Any]]
]


def _train_teachers(job: Job, variant: Variant, callbacks: Sequence[Callback] | None) -> _TrainingResult:
    """Every teacher, trained where it has no weights."""
    networks: dict[str, nn.Module] = {}
    runs: dict[str, FitResult | None] = {}
    resources: dict[str, dict[str, Any]] = {}
    for name, node in job.recipe.teachers.items():
        networks[name] = job.build_teacher(name)
        is_pretrained = node.weights is not None or isinstance(networks[name], ExternalTeacher)
        with ResourceMeter() as meter:
            runs[name] = (
                None if is_pretrained else job.train_teacher(name, networks[name], resume=True, callbacks=callbacks)
            )
        resources[name] = meter.to_dict()
    return networks, runs, {}, resources


def _train_student(job: Job, variant: Variant, callbacks: Sequence[Callback] | None) -> _TrainingResult:
    """The variant's student, and the assistants that were trained for it: they are part of what the variant costs."""
    teachers = {name: job.build_teacher(name).eval() for name in job.recipe.teachers}
    with ResourceMeter() as meter:
        assistants = train_assistants(job, teachers, resume=True, callbacks=callbacks) if job.recipe.assistants else {}
        available_teachers = teachers | {name: run.student for name, run in assistants.items()}
        last_teachers = {name: available_teachers[name] for name in job.recipe.training_order()[-1].teachers}
        student = job.build_student()
        run = job.train_stages(variant.name, student, last_teachers, resume=True, callbacks=callbacks)
    runs: dict[str, FitResult | None] = {**assistants, variant.name: run}
    networks = {name: run.student for name, run in assistants.items()} | {variant.name: run.student}
    return networks, runs, last_teachers, {variant.name: meter.to_dict()}


def _make_record(
    job: Job, variant: Variant, study_name: str, networks: dict[str, nn.Module], runs: dict[str, FitResult | None],
    last_teachers: dict[str, nn.Module], resources: dict[str, dict[str, Any]],
) -> dict[str, Any]:  # fmt: skip
    """What was measured, but for what needs the test part."""
    data, models, warnings = job.data, dict[str, Any](), list[str]()
    logits, target = dict[str, torch.Tensor](), torch.empty(0)
    for name, network in networks.items():
        entry, run = measure_inference_cost(network, data), runs[name]
        warnings += [f"{name}: {text}" for text in entry.pop("warnings")]
        metrics, logits[name], target = evaluate_split(network, data, job.task, data.validation)
        role = variant.role if variant.role == Role.TEACHER or name == variant.name else Role.ASSISTANT
        models[name] = {
            "role": role, "title": variant.title if name == variant.name else name, **entry,
            "steps": run.steps if run else None, "seconds": round(run.seconds, 2) if run else None,
            "resources": resources.get(name),
            "validation": metrics, "test": None,
        }  # fmt: skip
    if variant.role == Role.DISTILLED:
        warnings += job.temperature_warnings()
    return {
        "kind": "trial",
        "variant": {"study": study_name, "name": variant.name, "seed": job.recipe.seed},
        "models": models,
        "fidelity": _measure_fidelity(job, networks, last_teachers, logits, target),
        "export": {},
        "warnings": warnings,
        "cache": {name: cached.stats() for name, cached in job.caches},
    }


def _measure_fidelity(
    job: Job, networks: dict[str, nn.Module], last_teachers: dict[str, nn.Module], logits: dict[str, torch.Tensor],
    target: torch.Tensor,
) -> dict[str, Any] | None:  # fmt: skip
    """How like its first guide the student became, also one that it never listened to."""
    teacher = next(iter(last_teachers), None)
    if teacher is None:
        return None
    _, teacher_logits, _ = evaluate_split(last_teachers[teacher], job.data, job.task, job.data.validation)
    all_networks = networks | {teacher: last_teachers[teacher]}
    return measure_student_fidelity(job, all_networks, logits | {teacher: teacher_logits}, target, teacher=teacher)


def _measure_agreement(
    job: Job, variant: Variant, networks: dict[str, nn.Module], last_teachers: dict[str, nn.Module]
) -> dict[str, Any] | None:
    """How like its first guide the student answers on the validation part."""
    if not last_teachers:
        return None
    teacher = next(iter(last_teachers.values()))
    student_logits, target = evaluate_split(networks[variant.name], job.data, job.task, job.data.validation)[1:]
    teacher_logits = evaluate_split(teacher, job.data, job.task, job.data.validation)[1]
    return {"split": "validation", **prediction_agreement(student_logits, teacher_logits, target)}


def _evaluate_test_set(job: Job, networks: dict[str, nn.Module], record: dict[str, Any]) -> None:
    """Open the sealed part, once, and measure on it."""
    split, logits, target = job.data.test.unlock(hash_networks(networks)), dict[str, torch.Tensor](), torch.empty(0)
    for name, network in networks.items():
        record["models"][name]["test"], logits[name], target = evaluate_split(network, job.data, job.task, split)
    save_predictions(job.run_dir / "predictions.safetensors", logits, target, fingerprint=job.data.test.fingerprint())
    history = job.data.test.read_log()
    record["test_set"] = {
        "num_reads": history["num_reads"],
        "opened_at": history["opened_at"],
        "num_samples": len(split),
    }


def _require_same_recipe(path: Path, text: str) -> None:
    if path.exists() and path.read_text() != text:
        raise LimbeckError(
            f"{path.parent} was begun with other settings: remove the folder to train this variant anew, or give "
            "the study "
            "another --out"
        )
