"""Choosing teachers: every candidate of a recipe measured on the validation split, and why each is selected or not.

The test set is never opened. What has to be trained (candidates without weights, the baseline) is kept in the
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
    ModelOutputs,
    architecture_family,
    classification_metrics,
    count_flops,
    count_parameters,
    get_hardware_info,
    get_package_versions,
    measure_latencies,
    measure_peak_memory,
    paired_bootstrap,
    pairwise_similarity,
    weights_file_size,
)
from limbeck.recipe import Recipe, find_recipe, load_recipe
from limbeck.recipe.schema import to_plain
from limbeck.report import render_candidates_table, write_selection_plot
from limbeck.teachers import Candidate, SelectionRules, TeacherSelection, greedy_select, teacher_warnings
from limbeck.training.callbacks import Callback
from limbeck.training.checkpoint import TrainingInterrupted
from limbeck.utils.io import write_atomically
from limbeck.workflows._job.job import Job
from limbeck.workflows._job.measure import example_input, group_metrics
from limbeck.workflows._job.run_dir import RUNS_DIR, lock_folder
from limbeck.workflows._job.teacher_warnings import (
    collect_validation_outputs,
    exempt_from_gap_warning,
    to_teacher_similarities,
    to_teacher_stats,
)
from limbeck.workflows.select_teachers.candidates import (
    TRAINED_DIR,
    FinishedRuns,
    MeasuredBaseline,
    TrainedNetwork,
    load_baseline,
    load_or_train_baseline,
    load_or_train_candidate,
)

__all__ = ["select_teachers"]


def select_teachers(
    recipe: Recipe | str | Path,
    overrides: Sequence[str] = (),
    *,
    latency_budget: float | None = None,
    margin: float = SelectionRules().min_margin,
    output_dir: Path | None = None,
    baseline_run: Path | None = None,
    callbacks: Sequence[Callback] | None = None,
) -> dict[str, Any]:
    """Measure the recipe's teachers, select among them, print why, and return what ``teacher_selection.json`` holds.

    Arguments:
        recipe: a recipe, its file, or the name of one that comes with limbeck.
        overrides: ``key=value`` settings laid over a file.
        latency_budget: ms per image for all selected teachers together; ``None``: 30 times the student's latency.
        margin: points of validation accuracy that a teacher is to be above the baseline.
        output_dir: the folder; ``None``: ``runs/NAME-teachers``. What it has trained already is taken from there.
        baseline_run: a finished run to take the baseline from; ``None``: one of the recipe's name that trained it just
            so, or else it is trained.
        callbacks: of each training; ``None``: a progress bar.
    """
    start_time = time.monotonic()
    rules = SelectionRules(min_margin=margin, latency_budget=latency_budget)
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(find_recipe(recipe), overrides)
    if not recipe.teachers:
        raise LimbeckError(f"{recipe.name} has no teachers to choose among: list candidates under `teachers`")
    folder = _resolve_output_dir(recipe.name, output_dir)
    job = Job.from_recipe(recipe, folder)
    # What is wrong with a candidate shows before a file is made or an hour is spent on another one.
    _check_candidate_outputs(job)
    job.validate()
    baseline = None if baseline_run is None else load_baseline(job, baseline_run)
    with lock_folder(folder):
        (folder / TRAINED_DIR).mkdir(exist_ok=True)
        try:
            result = _measure_and_select(job, rules, baseline, callbacks=callbacks)
        except TrainingInterrupted as interruption:
            interruption.args = (f"stopped: the work is saved in {folder}; the same command goes on from there",)
            raise
        result["seconds"] = round(time.monotonic() - start_time, 2)
        text = json.dumps(result, indent=1, allow_nan=False)
        write_atomically(folder / "teacher_selection.json", lambda path: path.write_text(text))
        figure_path = write_selection_plot(folder)
    _print(render_candidates_table(result))
    _print(str(figure_path.resolve()))
    return result


def _measure_and_select(
    job: Job, rules: SelectionRules, baseline: MeasuredBaseline | None, *, callbacks: Sequence[Callback] | None
) -> dict[str, Any]:  # fmt: skip
    """Everything that is measured, and what was selected by it, as plain data."""
    data = job.data
    _print(f"{job.recipe.name}: {len(job.recipe.teachers)} candidate(s), {len(data.validation)} samples to select on")
    student, models, outputs = _measure_all(job, baseline, callbacks)
    similarities = pairwise_similarity(outputs)
    allowed_latency = rules.resolve_latency_budget(student["latency_ms"]["median"])
    selection = greedy_select(
        {name: _make_candidate(models[name], outputs[name]) for name in models}, outputs[next(iter(outputs))].target,
        latency_budget=allowed_latency, similarities=to_teacher_similarities(similarities), rules=rules,
    )  # fmt: skip
    for name, model in models.items():
        model |= {"is_selected": name in selection.selected, "reason": selection.reasons[name]}
    messages = teacher_warnings(
        {name: to_teacher_stats(model) for name, model in models.items()}, to_teacher_stats(student),
        similarities=to_teacher_similarities(similarities),
        rules=rules, with_assistants=exempt_from_gap_warning(job.recipe),
    )  # fmt: skip
    return {
        "schema": 2, "kind": "teacher_selection", "limbeck": __version__, "name": job.recipe.name,
        "seed": job.recipe.seed,
        "created": datetime.now(UTC).isoformat(timespec="seconds"), "seconds": 0.0, "recipe": to_plain(job.recipe),
        "versions": get_package_versions(), "machine": get_hardware_info(),
        "data": {
            "name": data.name, "classes": list(data.class_names), "shape": list(data.input_shape),
            "num_val": len(data.validation), "fingerprint": data.fingerprint(),
        },
        "rules": {**asdict(rules), "latency_budget": allowed_latency,
        "has_latency_budget": rules.latency_budget is not None},
        "baseline": student, "candidates": models, "pairs": similarities, "selection": _selection_entry(selection),
        "warnings": messages, "test_set": {"num_reads": data.test.num_reads},
    }  # fmt: skip


def _measure_all(
    job: Job, baseline: MeasuredBaseline | None, callbacks: Sequence[Callback] | None
) -> tuple[dict[str, Any], dict[str, Any], dict[str, ModelOutputs]]:
    """Metrics of the baseline, and metrics and outputs of each candidate."""
    finished_runs = FinishedRuns.find(job.recipe.name)
    candidates = {
        name: load_or_train_candidate(job, name, finished_runs, callbacks=callbacks) for name in job.recipe.teachers
    }
    student_baseline = baseline or load_or_train_baseline(job, finished_runs, callbacks=callbacks)
    _print("measuring …")
    latency_by_name = _measure_latencies(job, candidates, student_baseline)
    student, student_correct = _measure_student(job, student_baseline)
    student["latency_ms"] = latency_by_name[""]
    outputs: dict[str, ModelOutputs] = {}
    models: dict[str, Any] = {}
    for name, candidate in candidates.items():
        models[name], outputs[name] = _measure_candidate(job, name, candidate)
        models[name] |= {
            "latency_ms": latency_by_name[name],
            **_margin_over_baseline(models[name], outputs[name], student, student_correct),
        }
    return student, models, outputs


def _check_candidate_outputs(job: Job) -> None:
    """Each candidate takes two samples as the task takes it, with the classes of the data."""
    batch = next(job.data.validation_batches(batch_size=2))
    for name in job.recipe.teachers:
        try:
            with torch.no_grad():
                job.task.outputs(job.build_teacher(name).eval(), batch)
        except LimbeckError as error:
            raise LimbeckError(f"teachers.{name}: {error}") from error


def _measure_student(job: Job, baseline: TrainedNetwork | MeasuredBaseline) -> tuple[dict[str, Any], Tensor | None]:
    """The baseline, and on which validation samples it is correct, where its network is here."""
    if isinstance(baseline, TrainedNetwork):
        outputs = collect_validation_outputs(job, baseline.network)
        return {**_measure_network(job, baseline, outputs), "source": "trained"}, outputs.logits.argmax(
            dim=1
        ) == outputs.target
    recorded = {name: baseline.metrics.get(name) for name in ("steps", "seconds", "validation")}
    return {**_measure_cost(job, job.build_student()), **recorded, "source": str(baseline.folder)}, None


def _measure_candidate(job: Job, name: str, candidate: TrainedNetwork) -> tuple[dict[str, Any], ModelOutputs]:
    outputs = collect_validation_outputs(job, candidate.network, config_path=f"teachers.{name}")
    node = to_plain(job.recipe.teachers[name])
    # torchvision and timm are libraries; the network's own name says what it is.
    model_name = node["name"] if isinstance(node.get("name"), str) else node["use"]
    entry = {
        "model": node["use"],
        "family": architecture_family(model_name),
        **_measure_network(job, candidate, outputs),
    }
    return entry | {"weights": candidate.weights_file, "feature_layer": outputs.layer}, outputs


def _measure_network(job: Job, candidate: TrainedNetwork, outputs: ModelOutputs) -> dict[str, Any]:
    run = candidate.run
    return {
        **_measure_cost(job, candidate.network),
        "steps": run.steps if run else None, "seconds": round(run.seconds, 2) if run else None,
        "validation": group_metrics(
            classification_metrics(outputs.logits, outputs.target, class_names=job.data.class_names)
        ),
    }  # fmt: skip


def _measure_cost(job: Job, network: nn.Module) -> dict[str, Any]:
    sample = example_input(job.data)
    return {
        "parameters": count_parameters(network), "flops": count_flops(network, sample)[0],
        "bytes": weights_file_size(network),
        "peak_memory": measure_peak_memory(network, sample),
    }  # fmt: skip


def _measure_latencies(
    job: Job, candidates: Mapping[str, TrainedNetwork], baseline: TrainedNetwork | MeasuredBaseline
) -> dict[str, dict[str, Any]]:
    """Of all candidates by name, and of the student by the empty one: here and now, and not of another day's record."""
    sample = example_input(job.data)
    networks = {name: candidate.network.cpu().eval() for name, candidate in candidates.items()}
    networks[""] = baseline.network.cpu().eval() if isinstance(baseline, TrainedNetwork) else job.build_student().eval()
    with torch.no_grad():
        return measure_latencies({name: partial(network, sample) for name, network in networks.items()})


def _margin_over_baseline(
    model: Mapping[str, Any], outputs: ModelOutputs, student: Mapping[str, Any], student_correct: Tensor | None
) -> dict[str, Any]:
    """Points above the baseline, with the 95 % interval over the samples where both have outputs here."""
    points = 100 * (model["validation"]["metrics"]["accuracy"] - student["validation"]["metrics"]["accuracy"])
    if student_correct is None:
        return {"margin_points": points, "margin_interval": None}
    is_labeled = outputs.target >= 0
    teacher_correct = (outputs.logits.argmax(dim=1) == outputs.target)[is_labeled]
    return {
        "margin_points": points,
        "margin_interval": list(paired_bootstrap(teacher_correct, student_correct[is_labeled])[1:]),
    }


def _make_candidate(model: Mapping[str, Any], outputs: ModelOutputs) -> Candidate:
    return Candidate(
        probabilities=outputs.logits.double().softmax(dim=1), margin=model["margin_points"],
        latency_ms=model["latency_ms"]["median"],
    )  # fmt: skip


def _selection_entry(selection: TeacherSelection) -> dict[str, Any]:
    return {
        "criterion": "validation NLL of the mean of probabilities, greedy forward",
        "selected": list(selection.selected), "steps": [asdict(step) for step in selection.steps],
    }  # fmt: skip


def _resolve_output_dir(name: str, output_dir: Path | None) -> Path:
    folder = RUNS_DIR / f"{name}-teachers" if output_dir is None else output_dir
    is_own_folder = (folder / TRAINED_DIR).is_dir() or (folder / "teacher_selection.json").exists()
    if folder.exists() and not is_own_folder and any(path.name != ".lock" for path in folder.iterdir()):
        raise LimbeckError(f"{folder} holds something else than candidates of an earlier call: give another --out")
    return folder


def _print(text: str) -> None:
    print(text, flush=True)  # noqa: T201
