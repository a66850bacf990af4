"""One trial of a study: a run folder with one student, or with the teachers, trained and evaluated with one seed."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from limbeck.core.errors import LimbeckError
from limbeck.core.roles import Role
from limbeck.evaluation import ResourceMeter, prediction_agreement
from limbeck.models import save_weights
from limbeck.recipe import Recipe, to_yaml
from limbeck.report import write_record
from limbeck.teachers import ExternalTeacher
from limbeck.training import FitResult
from limbeck.training.callbacks import Callback
from limbeck.utils.io import read_text, write_text
from limbeck.workflows._job.data_cache import DataCache
from limbeck.workflows._job.job import Job
from limbeck.workflows._job.measure import measure_models, measure_student_fidelity, open_test_set
from limbeck.workflows._job.provenance import collect_provenance, require_same_data, write_task_file
from limbeck.workflows.distill.run import save_extra_models
from limbeck.workflows.study.variants import Variant

__all__ = ["run_trial"]

_Networks = Mapping[str, nn.Module]
_Trained = tuple[dict[str, nn.Module], dict[str, FitResult | None], _Networks, dict[str, dict[str, Any]]]
"""Networks and their trainings by name, the teachers of the last stage, and resources by name."""


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
    """Train, measure and record one trial; one that was stopped continues from its checkpoint.

    The caller holds the lock of ``folder``. With other workers on this machine energy is not recorded, since the meter
    counts theirs too.

    Raises:
        LimbeckError: the folder has a trial with other settings, or an error of a run.
    """
    start_time, text, recipe_file = time.monotonic(), to_yaml(recipe), folder / "recipe.yaml"
    if recipe_file.exists() and read_text(recipe_file) != text:
        raise LimbeckError(
            f"{folder} was begun with other settings: remove the folder to train this variant anew, or give the study "
            "another --out"
        )
    job = Job.from_recipe(recipe, folder, data_cache=data_cache)
    job.validate()
    write_text(recipe_file, text)
    write_task_file(job.task, folder)
    base_record = collect_provenance(job)
    require_same_data(folder, base_record["data"]["fingerprint"])
    train = _train_teachers if variant.role == Role.TEACHER else _train_student
    networks, runs, last_teachers, resources = train(job, variant, callbacks)
    networks = {name: network.cpu().eval() for name, network in networks.items()}
    if num_other_workers:
        resources = {name: entry | {"joules": None} for name, entry in resources.items()}
    record = {
        **base_record,
        "kind": "trial",
        "variant": {"study": study_name, "name": variant.name, "seed": recipe.seed},
        "export": {},
        "cache": {name: cached.stats() for name, cached in job.caches},
        **_measure_models(job, variant, networks, runs, last_teachers, resources),
    }
    for name, network in networks.items():
        if not isinstance(network, ExternalTeacher):
            file_stem = "student" if name == variant.name and variant.role != Role.TEACHER else name
            save_weights(network, folder / f"{file_stem}.safetensors", metadata={"recipe": recipe.name})
    record |= save_extra_models(job, folder)
    _, _, record["test_set"] = open_test_set(job, networks, record)
    record["seconds"] = round(time.monotonic() - start_time, 2)
    record = write_record(folder, record)
    job.data.test.close()
    return record


def _train_teachers(job: Job, variant: Variant, callbacks: Sequence[Callback] | None) -> _Trained:
    """Every teacher, trained if it has no weights."""
    networks, runs, resources = dict[str, nn.Module](), dict[str, FitResult | None](), dict[str, dict[str, Any]]()
    for name, node in job.recipe.teachers.items():
        networks[name] = network = job.build_teacher(name)
        is_pretrained = node.weights is not None or isinstance(network, ExternalTeacher)
        with ResourceMeter() as meter:
            runs[name] = None if is_pretrained else job.train_teacher(name, network, resume=True, callbacks=callbacks)
        resources[name] = meter.to_dict()
    return networks, runs, {}, resources


def _train_student(job: Job, variant: Variant, callbacks: Sequence[Callback] | None) -> _Trained:
    """The student of the variant and its assistants, whose training is part of the cost."""
    teachers = {name: job.build_teacher(name).eval() for name in job.recipe.teachers}
    with ResourceMeter() as meter:
        runs = job.train_assistants(teachers, resume=True, callbacks=callbacks) if job.recipe.assistants else {}
        teachers |= {name: run.student for name, run in runs.items()}
        last_teachers = {name: teachers[name] for name in job.recipe.training_order()[-1].teachers}
        runs[variant.name] = job.train_stages(
            variant.name, job.build_student(), last_teachers, resume=True, callbacks=callbacks
        )
    networks = {name: run.student for name, run in runs.items()}
    return networks, {**runs}, last_teachers, {variant.name: meter.to_dict()}


def _measure_models(
    job: Job, variant: Variant, networks: _Networks, runs: Mapping[str, FitResult | None], last_teachers: _Networks,
    resources: Mapping[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """What the record holds without the test set; fidelity and agreement are those to the first teacher."""
    labels = {
        name: (
            (variant.role if variant.role == Role.TEACHER or name == variant.name else Role.ASSISTANT).value,
            variant.title if name == variant.name else name,
        )
        for name in networks
    }
    teachers = dict(list(last_teachers.items())[:1])
    models, scores, warnings = measure_models(job, networks, runs, labels, references=teachers)
    for name, model in models.items():
        model["resources"] = resources.get(name)
    if variant.role == Role.DISTILLED:
        warnings += job.temperature_warnings()
    fidelity = agreement = None
    for teacher in teachers:
        student, reference = scores[variant.name], scores[teacher]
        if student.logits is not None and reference.logits is not None and student.target is not None:
            logits = student.logits, reference.logits, student.target
            agreement = {"split": "validation", **prediction_agreement(*logits)}
        students = [n for n in networks if n not in job.recipe.teachers and n not in job.recipe.assistants]
        all_networks = {**networks, **teachers}
        fidelity = measure_student_fidelity(job, all_networks, scores, teacher=teacher, students=students)
    return {"models": models, "fidelity": fidelity, "agreement": agreement, "warnings": warnings}
