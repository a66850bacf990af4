"""``limbeck select-teachers``: every candidate measured on the validation split, and why it is selected or not.

The test set is never read. Candidates and the baseline that have to be trained are saved in the folder, so a later
call trains only what is new.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, final

import torch
from torch import nn

from limbeck._version import __version__
from limbeck.core.errors import LimbeckError
from limbeck.core.roles import Role
from limbeck.evaluation import (
    SplitScores,
    architecture_family,
    count_flops,
    count_parameters,
    get_hardware_info,
    get_package_versions,
    measure_latencies_by_structure,
    measure_peak_memory,
    paired_gain,
    weights_file_size,
)
from limbeck.models import load_weights, save_weights
from limbeck.models.weights import read_metadata
from limbeck.recipe import Recipe, fill_defaults, find_recipe, load_recipe, trust_plugins
from limbeck.recipe.schema import to_plain
from limbeck.report import write_selection_plot
from limbeck.report.record_io import load_json
from limbeck.report.terminal import render_candidates_table
from limbeck.teachers import Candidate, ExternalTeacher, SelectionRules, greedy_select, teacher_warnings
from limbeck.teachers.identity import fingerprint_network, network_signature
from limbeck.training.callbacks import Callback
from limbeck.training.checkpoint import TrainingInterrupted
from limbeck.utils.console import print_text
from limbeck.utils.io import write_text
from limbeck.workflows._job.job import Job
from limbeck.workflows._job.measure import evaluate_split, example_inputs, to_split_metrics
from limbeck.workflows._job.provenance import describe_task
from limbeck.workflows._job.run_dir import RUNS_DIR, lock_folder
from limbeck.workflows._job.teacher_checks import (
    compare_teachers,
    exempt_from_gap_warning,
    to_teacher_similarities,
    to_teacher_stats,
)
from limbeck.workflows.select_teachers.criteria import make_criterion

__all__ = ["select_teachers"]

_TRAINED_DIR = "trained"
"""Folder of what was trained here, as ``NAME-KEY``; the key is a hash of all that decides the weights."""


@final
@dataclass(frozen=True, slots=True)
class _TrainedNetwork:
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


def select_teachers(
    recipe: Recipe | str | Path,
    overrides: Sequence[str] = (),
    *,
    latency_budget: float | None = None,
    margin: float | None = None,
    output_dir: str | Path | None = None,
    baseline_run: str | Path | None = None,
    callbacks: Sequence[Callback] | None = None,
) -> dict[str, Any]:
    """Measure the recipe's teachers, select among them, and return what ``teacher_selection.json`` holds.

    Args:
        recipe: a recipe, its file, or the name of one that comes with limbeck.
        overrides: ``key=value`` settings that replace those of the file.
        latency_budget: ms per sample for all selected teachers together; ``None``: 30 times the student's latency.
        margin: minimum gain of a teacher over the baseline by the primary metric, in the unit of its differences;
            ``None``: 10 times its ``min_gap``, such as 5 points.
        output_dir: the folder; ``None``: ``runs/NAME-teachers``. Models that were trained there are reused.
        baseline_run: a finished run to take the baseline from; ``None``: one in ``runs/`` with the same training, or
            else the baseline is trained.
        callbacks: of each training; ``None``: a progress bar.

    Raises:
        LimbeckError: there are no teachers, one does not match the task, or the folder or run cannot be used.
    """
    start_time = time.monotonic()
    rules = SelectionRules(min_margin=margin or 0.0, latency_budget=latency_budget)
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(find_recipe(recipe), overrides)
    if not recipe.teachers:
        raise LimbeckError(f"{recipe.name} has no teachers to choose among: list candidates under `teachers`")
    folder = _resolve_output_dir(recipe.name, output_dir)
    job = Job.from_recipe(recipe, folder)
    if margin is None:
        rules = replace(rules, min_margin=SelectionRules.for_metric(job.task.primary_metric).min_margin)
    _check_candidate_outputs(job)
    job.validate()
    baseline = None if baseline_run is None else _load_baseline(job, Path(baseline_run))
    with lock_folder(folder):
        (folder / _TRAINED_DIR).mkdir(exist_ok=True)
        try:
            result = _measure_and_select(job, rules, baseline, callbacks)
        except TrainingInterrupted as interruption:
            interruption.args = (f"stopped: the work is saved in {folder}; the same command goes on from there",)
            raise
        result["seconds"] = round(time.monotonic() - start_time, 2)
        write_text(folder / "teacher_selection.json", json.dumps(result, indent=1, allow_nan=False))
        figure_path = write_selection_plot(folder)
    print_text(f"{render_candidates_table(result)}\n{figure_path.resolve()}")
    return result


def _resolve_output_dir(name: str, output_dir: str | Path | None) -> Path:
    folder = RUNS_DIR / f"{name}-teachers" if output_dir is None else Path(output_dir)
    is_selection = (folder / _TRAINED_DIR).is_dir() or (folder / "teacher_selection.json").exists()
    if folder.exists() and not is_selection and any(path.name != ".lock" for path in folder.iterdir()):
        raise LimbeckError(f"{folder} holds something else than candidates of an earlier call: give another --out")
    return folder


def _check_candidate_outputs(job: Job) -> None:
    """Each candidate runs on two samples, before anything is trained."""
    batch = next(job.data.validation_batches(batch_size=2))
    for name in job.recipe.teachers:
        network = job.build_teacher(name).eval()
        try:
            with torch.no_grad():
                job.task.outputs(network, batch)
        except LimbeckError as error:
            raise LimbeckError(f"teachers.{name}: {error}") from error


def _measure_and_select(
    job: Job, rules: SelectionRules, baseline: _TrainedNetwork | None, callbacks: Sequence[Callback] | None
) -> dict[str, Any]:
    data, metric = job.data, job.task.primary_metric
    num_candidates = len(job.recipe.teachers)
    print_text(f"{job.recipe.name}: {num_candidates} candidate(s), {len(data.validation)} samples")
    candidates = {name: _load_or_train_candidate(job, name, callbacks=callbacks) for name in job.recipe.teachers}
    baseline = baseline or _load_or_train_baseline(job, callbacks=callbacks)
    print_text("measuring …")
    networks = {name: candidate.network for name, candidate in candidates.items()}
    student, models, scores = _measure_models(job, candidates, baseline)
    pairs, layers = compare_teachers(job, networks, scores)
    similarities, latency_budget = (
        to_teacher_similarities(pairs), rules.resolve_latency_budget(student["latency_ms"]["median"])
    )  # fmt: skip
    criterion = make_criterion(job, networks, scores)
    selection = greedy_select(
        {
            name: Candidate(margin=model["margin"], latency_ms=model["latency_ms"]["median"])
            for name, model in models.items()
        },
        criterion, metric=metric, latency_budget=latency_budget, similarities=similarities, rules=rules,
    )  # fmt: skip
    for name, model in models.items():
        model |= {
            "feature_layer": layers[name], "is_selected": name in selection.selected,
            "reason": selection.reasons[name],
        }  # fmt: skip
    return {
        "schema": 3, "kind": "teacher_selection", "limbeck": __version__, "name": job.recipe.name,
        **describe_task(job.task),
        "seed": job.recipe.seed, "created": datetime.now(UTC).isoformat(timespec="seconds"), "seconds": 0.0,
        "recipe": to_plain(job.recipe), "versions": get_package_versions(), "machine": get_hardware_info(),
        "data": {
            "name": data.name, "classes": list(data.class_names), "shape": list(data.input_shape),
            "num_val": len(data.validation), "fingerprint": data.fingerprint(),
        },
        "rules": asdict(rules) | {
            "latency_budget": latency_budget, "has_latency_budget": rules.latency_budget is not None,
        },
        "baseline": student, "candidates": models, "pairs": pairs,
        "selection": {
            "criterion": criterion.description, "criterion_name": criterion.criterion_name,
            "selected": list(selection.selected),
            "steps": [asdict(step) for step in selection.steps],
        },
        "warnings": teacher_warnings(
            {name: to_teacher_stats(model, metric.name) for name, model in models.items()},
            to_teacher_stats(student, metric.name), metric=metric, similarities=similarities, rules=rules,
            with_assistants=exempt_from_gap_warning(job.recipe),
        ),
        "test_set": {"num_reads": data.test.num_reads},
    }  # fmt: skip


def _measure_models(
    job: Job, candidates: Mapping[str, _TrainedNetwork], baseline: _TrainedNetwork
) -> tuple[dict[str, Any], dict[str, dict[str, Any]], dict[str, SplitScores]]:
    """Metrics of the baseline, and metrics and scores of each candidate."""
    metric, inputs = job.task.primary_metric, example_inputs(job.data, job.task)
    networks = {name: candidate.network for name, candidate in candidates.items()} | {"": baseline.network}
    # Measured now and in turns, since latencies of another day cannot be compared.
    latencies = measure_latencies_by_structure({name: net.cpu().eval() for name, net in networks.items()}, inputs)
    baseline_scores = _score(job, baseline.network) if baseline.validation is None else None
    student = _measure_model(job, baseline, baseline_scores, latencies[""]) | {"source": baseline.source}
    models, scores = dict[str, dict[str, Any]](), dict[str, SplitScores]()
    for name, candidate in candidates.items():
        scores[name] = _score(job, candidate.network)
        model, interval = _measure_model(job, candidate, scores[name], latencies[name]), None
        if baseline_scores is not None:
            gain = paired_gain(job.task, scores[name].statistics, baseline_scores.statistics)
            interval = None if gain.interval is None else list(gain.interval)
        values = [entry["validation"]["metrics"].get(metric.name) for entry in (model, student)]
        if None in values:
            raise LimbeckError(
                f"teachers.{name}: {metric.text} of the validation split is undefined for it or the baseline: use a "
                "larger validation split"
            )
        node = to_plain(job.recipe.teachers[name])
        # `use` can be a library, such as timm; then `name` names the architecture.
        architecture = node["name"] if isinstance(node.get("name"), str) else node["use"]
        models[name] = {
            "model": node["use"], "family": architecture_family(architecture), **model,
            "weights": candidate.source, "margin": metric.gain(*values), "margin_interval": interval,
        }  # fmt: skip
    return student, models, scores


def _score(job: Job, network: nn.Module) -> SplitScores:
    return evaluate_split(network, job.data, job.task, job.data.validation)


def _measure_model(
    job: Job, model: _TrainedNetwork, scores: SplitScores | None, latency: Mapping[str, Any]
) -> dict[str, Any]:
    """Cost and validation metrics; these are those of the record without ``scores``."""
    inputs = example_inputs(job.data, job.task)
    return {
        "parameters": count_parameters(model.network), "flops": count_flops(model.network, inputs)[0],
        "bytes": weights_file_size(model.network), "peak_memory": measure_peak_memory(model.network, inputs),
        "latency_ms": latency, "steps": model.steps, "seconds": model.seconds,
        "validation": model.validation if scores is None else to_split_metrics(scores, job.task),
    }  # fmt: skip


def _load_or_train_candidate(job: Job, name: str, *, callbacks: Sequence[Callback] | None) -> _TrainedNetwork:
    """The candidate ``name``: with its weights, those of a finished run, or trained by ``teacher_training``."""
    network, weights = job.build_teacher(name), job.recipe.teachers[name].weights
    if weights is not None or isinstance(network, ExternalTeacher):
        return _TrainedNetwork(network, job.recipe.teachers[name].use if weights is None else str(weights))
    initial = fingerprint_network(network, {})
    key = _training_key(job.recipe, job.data.fingerprint(), name, initial)
    for folder, recipe, record in _iter_finished_runs(job.recipe.name):
        file = folder / "checkpoint" / f"{name}.safetensors"
        is_trained = name in recipe.teachers and recipe.teachers[name].weights is None and file.exists()
        if is_trained and _run_training_key(folder, recipe, record, name) == key:
            return _TrainedNetwork(load_weights(network, file), str(file))
    training_dir = job.run_dir / _TRAINED_DIR / f"{name}-{key[:10]}"
    run = replace(job, run_dir=training_dir).train_teacher(name, network, resume=True, callbacks=callbacks)
    file = training_dir / f"{name}.safetensors"
    if not file.exists():
        save_weights(run.student, file)
    return _TrainedNetwork(run.student, str(file), run.steps, round(run.seconds, 2))


def _load_or_train_baseline(job: Job, *, callbacks: Sequence[Callback] | None) -> _TrainedNetwork:
    """The baseline: as a finished run measured it, or trained as the recipe's baseline."""
    name: str = Role.BASELINE.value
    key = _training_key(job.recipe, job.data.fingerprint(), None, fingerprint_network(job.build_student(), {}))
    for folder, recipe, record in _iter_finished_runs(job.recipe.name):
        if name in record["models"] and _run_training_key(folder, recipe, record, None) == key:
            return _recorded_baseline(job, record["models"][name], folder)
    training_dir = job.run_dir / _TRAINED_DIR / f"{name}-{key[:10]}"
    run = replace(job, run_dir=training_dir).train_stages(
        name, job.build_student(), {}, resume=True, callbacks=callbacks
    )
    return _TrainedNetwork(run.student, "trained", run.steps, round(run.seconds, 2))


def _load_baseline(job: Job, folder: Path) -> _TrainedNetwork:
    """The baseline of the finished run in ``folder``, with any name and stages.

    Raises:
        LimbeckError: it is no finished run, or has another student or other data.
    """
    try:
        record = load_json(folder / "record.json")
        baseline, fingerprint = record["models"].get(Role.BASELINE), record["data"]["fingerprint"]
    except (LimbeckError, KeyError, TypeError, AttributeError) as error:
        raise LimbeckError(f"--baseline-run {folder} is no finished run: it has no readable record.json") from error
    remedy = "leave --baseline-run away to train one"
    if baseline is None:
        raise LimbeckError(f"the run {folder} has no baseline (its baselines lack student_only): {remedy}")
    run_student, recipe_student = (
        to_plain(fill_defaults(recipe))["student"] for recipe in (load_recipe(folder / "recipe.yaml"), job.recipe)
    )
    if run_student != recipe_student:
        raise LimbeckError(f"the baseline of {folder} is {run_student}, and the recipe's is {recipe_student}: {remedy}")
    signature = read_metadata(folder / "checkpoint" / f"{Role.BASELINE.value}.safetensors").get("signature")
    if signature != network_signature(job.build_student()):
        raise LimbeckError(
            f"the code of the student has changed since the run {folder}, or the run is of an older version: {remedy}"
        )
    if fingerprint != job.data.fingerprint():
        raise LimbeckError(
            f"the run {folder} has other data or another split, so its baseline cannot be compared with: {remedy}"
        )
    return _recorded_baseline(job, baseline, folder)


def _recorded_baseline(job: Job, model: Mapping[str, Any], folder: Path) -> _TrainedNetwork:
    return _TrainedNetwork(
        job.build_student(), str(folder), model.get("steps"), model.get("seconds"), model["validation"]
    )


def _run_training_key(folder: Path, recipe: Recipe, record: Mapping[str, Any], name: str | None) -> str:
    """:func:`_training_key` of a network in the finished run in ``folder``."""
    initial = read_metadata(folder / "checkpoint" / f"{name or Role.BASELINE.value}.safetensors").get("initial", "")
    return _training_key(recipe, record["data"]["fingerprint"], name, initial)


def _training_key(recipe: Recipe, fingerprint: str, name: str | None, initial: str) -> str:
    """A hash of all that decides the weights of the teacher ``name``, or of the baseline (``None``).

    ``initial`` is the fingerprint of the network before training: initial weights, settings and code.
    """
    recipe_dict = to_plain(fill_defaults(recipe))
    hash_inputs: dict[str, Any] = {
        "data": {key: value for key, value in recipe_dict["data"].items() if key != "root"},
        "fingerprint": fingerprint,
        "initial": initial,
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
            with trust_plugins(new=False):  # --trust is for the recipe of the command, not for those of other folders
                recipe, record = load_recipe(path.parent / "recipe.yaml"), load_json(path)
            fill_defaults(recipe)
        except LimbeckError:
            continue
        is_record = isinstance(record, dict) and isinstance(record.get("data"), dict) and "models" in record
        if is_record and recipe.name == name and "fingerprint" in record["data"]:
            yield path.parent, recipe, record
