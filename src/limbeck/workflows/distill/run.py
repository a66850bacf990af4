"""``limbeck distill``: train teachers, baselines and the distilled student; measure, export and report them.

Finished work stays in the run folder, so a run that was stopped continues. The held-out test set is opened once, after
all training, for all networks together.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any, Unpack

from torch import nn

from limbeck.core.errors import LimbeckError
from limbeck.core.roles import Role
from limbeck.models import save_weights
from limbeck.models.ensemble_model import EnsembleModel
from limbeck.recipe import Recipe, find_recipe, load_recipe, to_yaml
from limbeck.recipe.schema import to_plain
from limbeck.report import write_model_card, write_record, write_report
from limbeck.report.next_steps import next_steps
from limbeck.report.record_io import load_json, parse_record
from limbeck.report.terminal import render_summary_table
from limbeck.teachers import ExternalTeacher
from limbeck.training import FitResult, Processes, init_processes
from limbeck.training.callbacks import Callback
from limbeck.training.progress_bar import ProgressBar
from limbeck.utils.console import print_text
from limbeck.utils.io import digest, read_text, write_text
from limbeck.workflows._job.job import Job, TrainOptions
from limbeck.workflows._job.measure import (
    best_teacher,
    choose_examples,
    compare_models,
    evaluate_split,
    measure_inference_costs,
    measure_models,
    measure_student_fidelity,
    open_test_set,
    show_training_batch,
)
from limbeck.workflows._job.provenance import collect_provenance, require_same_data, write_task_file
from limbeck.workflows._job.run_dir import choose_run_dir, lock_folder, newest_run_dir
from limbeck.workflows._job.stages import training_steps
from limbeck.workflows._job.teacher_checks import collect_teacher_warnings, exempt_from_gap_warning
from limbeck.workflows.export_run import export_onnx

__all__ = ["distill", "save_extra_models"]

_STUDENT_TITLES = {
    Role.BASELINE: "Student without a teacher",
    Role.NO_ASSISTANTS: "Student without assistants",
    Role.DISTILLED: "Distilled student",
}


def distill(
    recipe: Recipe | str | Path | None = None,
    overrides: Sequence[str] = (),
    *,
    run_dir: str | Path | None = None,
    resume: bool = False,
    callbacks: Sequence[Callback] | None = None,
    reproduces: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Run a recipe from the data to the report, and return its record.

    With several processes (``torchrun``), each calls this with the same arguments. They train together; rank 0 writes
    the folder, opens the test split and prints, and all get the record.

    Args:
        recipe: a recipe, its file, or the name of one that comes with limbeck; ``None``: digits, or with ``resume``
            the recipe of the run.
        overrides: ``key=value`` settings that replace those of a file.
        run_dir: the run folder; ``None``: ``runs/NAME``, numbered where taken.
        resume: continue the run in that folder; without a folder and a recipe, the newest unfinished run in ``runs/``.
        callbacks: of each training; ``None``: a progress bar.
        reproduces: the run that this one reproduces, for the record; see :func:`limbeck.workflows.reproduce`.
    """
    run_dir = None if run_dir is None else Path(run_dir)
    start_time, processes = time.monotonic(), init_processes()
    on_rank_zero = processes.run_on_rank_zero
    with processes.distributed_errors(), ExitStack() as exit_stack:
        if resume and recipe is None:
            recipe, run_dir = on_rank_zero(_find_run_recipe, run_dir)
        loaded_recipe, text = processes.run_on_all_ranks(_load_recipe, recipe, overrides)
        folder, is_finished = on_rank_zero(_resolve_run_dir, loaded_recipe, text, run_dir, resume=resume)
        # A mistake in the recipe or the data is an error before a file is written or a teacher is trained.
        if not is_finished:
            on_rank_zero(print_text, "loading the data, and running each stage on two samples …")
        job = None if is_finished else processes.run_on_all_ranks(_make_valid_job, loaded_recipe, folder, processes)
        on_rank_zero(exit_stack.enter_context, lock_folder(folder))
        if job is None:
            return on_rank_zero(_report_finished_run, folder)
        on_rank_zero(write_text, folder / "recipe.yaml", text)
        on_rank_zero(write_task_file, job.task, folder)
        file_name = None if isinstance(recipe, Recipe) or recipe is None else Path(recipe).name
        command_info = {"recipe": file_name, "overrides": list(overrides)}
        record = on_rank_zero(collect_provenance, job, command_info) | {"reproduces": reproduces}
        on_rank_zero(require_same_data, folder, record["data"]["fingerprint"])
        networks, runs = _train_all(job, resume=resume, callbacks=callbacks)
        record["cache"] = _collect_cache_stats(job)
        return on_rank_zero(_finish_run, job, networks, runs, record, start_time)


def _find_run_recipe(run_dir: Path | None) -> tuple[Path, Path]:
    """The recipe file and the folder of the run to resume, where no recipe is given."""
    folder = newest_run_dir() if run_dir is None else choose_run_dir("", run_dir, resume=True)
    return folder / "recipe.yaml", folder


def _load_recipe(recipe: Recipe | str | Path | None, overrides: Sequence[str]) -> tuple[Recipe, str]:
    """The recipe, and its text with every setting."""
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(find_recipe("digits" if recipe is None else recipe), overrides)
    return recipe, to_yaml(recipe)


def _resolve_run_dir(recipe: Recipe, text: str, run_dir: Path | None, *, resume: bool) -> tuple[Path, bool]:
    """The run folder, and whether the run in it is finished."""
    folder = choose_run_dir(recipe.name, run_dir, resume=resume)
    path = folder / "recipe.yaml"
    if resume and (old_text := read_text(path)) != text:
        old_lines, new_lines = old_text.splitlines(), text.splitlines()
        changes = [line for line in new_lines if line not in old_lines] or [
            line for line in old_lines if line not in new_lines
        ]
        raise LimbeckError(
            f"{folder} was begun with another recipe (now {next(iter(changes), '?').strip()!r}): resume with the "
            "settings it was begun with, or choose another --out"
        )
    return folder, resume and (folder / "record.json").exists()


def _make_valid_job(recipe: Recipe, folder: Path, processes: Processes) -> Job:
    job = Job.from_recipe(recipe, folder, processes)
    job.validate()
    return job


def _report_finished_run(folder: Path) -> dict[str, Any]:
    print_text(f"{folder} is finished: nothing is left to do")
    if not (folder / "README.md").exists():  # the run was killed after its record was written
        write_model_card(folder)
    return _report_run(folder, load_json(folder / "record.json"))


def _report_run(folder: Path, record: dict[str, Any]) -> dict[str, Any]:
    page = write_report(folder)
    print_text(render_summary_table(record))
    parsed = parse_record(record)
    for text in parsed.warnings:
        print_text(f"warning: {text}")
    if parsed.verdict is not None:
        print_text(parsed.verdict.text)
    if steps := next_steps(parsed):
        print_text("\n".join(["What to change next:", *(f" - {step}" for step in steps)]))
    if parsed.verdict is not None and parsed.verdict.vs_no_assistants is not None:
        print_text(parsed.verdict.vs_no_assistants.text)
    print_text(str(page.resolve()))
    return record


def _train_all(job: Job, **options: Unpack[TrainOptions]) -> tuple[dict[str, nn.Module], dict[str, FitResult | None]]:
    """Every network of the comparison, and its training; all processes take part."""
    networks: dict[str, nn.Module] = {}
    runs: dict[str, FitResult | None] = {}
    data = job.data
    if options["callbacks"] is None:
        options["callbacks"] = [ProgressBar(run_steps=training_steps(job))]
    labeled_text = "" if data.num_labeled == len(data.train) else f" ({data.num_labeled:,} labeled)"
    job.processes.run_on_rank_zero(
        print_text,
        f"{job.run_dir}: {len(data.train):,} training samples{labeled_text}, {len(data.validation):,} validation, "
        f"{len(data.test):,} test",
    )
    for name, node in job.recipe.teachers.items():
        networks[name], runs[name] = job.build_teacher(name), None
        if node.weights is None and not isinstance(networks[name], ExternalTeacher):
            runs[name] = job.train_teacher(name, networks[name], **options)
    teachers = dict(networks)
    for name, run in job.train_assistants(teachers, **options).items():
        networks[name], runs[name] = run.student, run
    last_teachers = {name: networks[name] for name in job.recipe.training_order()[-1].teachers}
    phase_teachers = {Role.BASELINE: {}, Role.NO_ASSISTANTS: teachers, Role.DISTILLED: last_teachers}
    for name in (*job.baseline_phases, Role.DISTILLED.value):
        runs[name] = run = job.train_stages(name, job.build_student(), phase_teachers[Role(name)], **options)
        networks[name] = run.student
    return {name: network.cpu().eval() for name, network in networks.items()}, runs


def _finish_run(
    job: Job,
    networks: Mapping[str, nn.Module],
    runs: Mapping[str, FitResult | None],
    base_record: Mapping[str, Any],
    start_time: float,
) -> dict[str, Any]:
    """Measure, export, open the test set, and write the record, the model card and the report."""
    print_text("measuring …")
    record = {**base_record, **_measure_models(job, networks, runs)}
    for name, network in networks.items():
        # `limbeck evaluate` reads the weights of teachers and baselines.
        if not isinstance(network, ExternalTeacher):
            file_name = "student.safetensors" if name == Role.DISTILLED else f"checkpoint/{name}.safetensors"
            metadata = {"recipe": job.recipe.name} if name == Role.DISTILLED else job.network_identity(name)
            save_weights(network, job.run_dir / file_name, metadata=metadata)
    record |= save_extra_models(job, job.run_dir / "checkpoint", networks)
    if "onnx" in job.recipe.export.to:
        print_text("exporting …")
        record["export"]["onnx"] = export_onnx(job, networks[Role.DISTILLED], job.run_dir / "student.onnx")
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
    return _report_run(job.run_dir, record)


def save_extra_models(
    job: Job, weights_dir: Path, networks: Mapping[str, nn.Module] = MappingProxyType({})
) -> dict[str, Any]:
    """Write the extra models, measured on the validation split, and return their metrics for the record.

    Writes ``peers.json`` and ``NAME.safetensors`` in ``weights_dir`` for each peer; ``early_exits.json``, and with
    ``export`` ``student.early_exit-NAME.onnx`` for each early exit (its weights are in the checkpoint of the
    training); and ``ensemble.json`` for all generations together, where ``networks`` holds them.
    """
    models: dict[str, Any] = {"peers": {}, "early_exits": {}, "ensemble": {}}
    for name, entry in _measure_extra_models(job, job.peers, "parameters", "flops", "bytes", "latency_ms").items():
        models["peers"][name], network = entry, job.peers[name]
        save_weights(network, weights_dir / f"{name}.safetensors", metadata={"recipe": job.recipe.name})
    for name, entry in _measure_extra_models(job, job.early_exits, "flops", "latency_ms").items():
        models["early_exits"][name], network = entry, job.early_exits[name]
        if "onnx" in job.recipe.export.to:
            entry["onnx"] = export_onnx(job, network, job.run_dir / f"student.early_exit-{name}.onnx")
    if job.recipe.generations is not None and networks:
        generations = [networks[name] for name in (*job.recipe.teachers, *job.recipe.assistants, Role.DISTILLED)]
        ensemble = {"ensemble": EnsembleModel(generations)}
        models |= _measure_extra_models(job, ensemble, "parameters", "flops", "latency_ms")
    models = {kind: entry for kind, entry in models.items() if entry}
    for kind, entry in models.items():
        write_text(job.run_dir / f"{kind}.json", json.dumps(entry, indent=1))
    return models


def _measure_extra_models(job: Job, networks: Mapping[str, nn.Module], *keys: str) -> dict[str, dict[str, Any]]:
    networks, models = {name: network.cpu().eval() for name, network in networks.items()}, dict[str, dict[str, Any]]()
    for name, cost in measure_inference_costs(job, networks).items():
        scores = evaluate_split(networks[name], job.data, job.task, job.data.validation)
        validation = {"metrics": dict(scores.metrics), "num_samples": scores.num_samples}
        models[name] = {**{key: cost[key] for key in keys}, "validation": validation}
    return models


def _measure_models(
    job: Job, networks: Mapping[str, nn.Module], runs: Mapping[str, FitResult | None]
) -> dict[str, Any]:
    """The part of the record that does not need the test set."""
    labels = {name: (_model_role(job, name), _model_title(job, name)) for name in networks}
    models, scores, warnings = measure_models(job, networks, runs, labels)
    for name, backend in job.backends.items():
        if name in models:
            models[name]["backend"] = backend.report.to_dict()
    exempt = exempt_from_gap_warning(job.recipe)
    warnings += collect_teacher_warnings(job, networks, models, scores, with_assistants=exempt)
    warnings += _order_warnings(job, models)
    warnings += job.temperature_warnings() + list(job.data_warnings)
    warnings += [text for run in runs.values() if run is not None for text in run.warnings]
    students = [name for name in networks if name not in job.recipe.teachers and name not in job.recipe.assistants]
    teacher = best_teacher(job, models)
    fidelity = measure_student_fidelity(job, networks, scores, teacher=teacher, students=students)
    training_batch, batch_warnings = show_training_batch(job, job.plan.stages[-1].training)
    return {
        "models": models, "fidelity": fidelity, "export": {}, "training_batch": training_batch,
        "warnings": [*warnings, *batch_warnings],
    }  # fmt: skip


def _order_warnings(job: Job, models: Mapping[str, Any]) -> list[str]:
    """Warnings of assistants that are smaller than a student of theirs."""
    names = [*job.recipe.assistants, Role.DISTILLED.value] if job.recipe.assistants else []
    sizes = [(name, models[name]["parameters"]) for name in names]
    return [
        f"{student!r} has more parameters than the assistant {teacher!r} that is its teacher ({student_size:,} against "
        f"{teacher_size:,}): a chain goes from large to small"
        for (teacher, teacher_size), (student, student_size) in pairwise(sizes)
        if student_size > teacher_size
    ]


def _evaluate_test_set(job: Job, networks: Mapping[str, nn.Module], record: dict[str, Any]) -> dict[str, Any]:
    """Open the test set, once, and compare the networks on it."""
    split, scores, test_set = open_test_set(job, networks, record)
    teacher = best_teacher(job, record["models"])
    comparison = compare_models(job.task, scores, record["models"], teacher)
    examples = choose_examples(job, networks, scores, split, teacher)
    return {**comparison, "examples": examples, "test_set": test_set}


def _collect_cache_stats(job: Job) -> dict[str, Any]:
    """Cache misses and hits of each teacher, over all stages and processes; empty without a cache."""
    stats: dict[str, Any] = {}
    stats_by_rank = job.processes.all_gather_object([(name, cached.stats()) for name, cached in job.caches])
    # Rank 0 writes the index, so whether a cache is complete is taken from rank 0, which comes last here.
    for name, cache_stats in (entry for rank_stats in reversed(stats_by_rank) for entry in rank_stats):
        previous = stats.get(name, {})
        counts = {key: previous.get(key, 0) + cache_stats[key] for key in ("misses", "hits", "repaired")}
        stats[name] = {**cache_stats, **counts}
    return stats


def _model_role(job: Job, name: str) -> str:
    if name in job.recipe.teachers:
        return Role.TEACHER.value
    return Role.ASSISTANT.value if name in job.recipe.assistants else name


def _model_title(job: Job, name: str) -> str:
    recipe = job.recipe
    if name in recipe.assistants:
        return f"Assistant {name}: {_format_node(recipe.assistants[name])}"
    if name not in recipe.teachers:
        return f"{_STUDENT_TITLES[Role(name)]}: {_format_node(recipe.student)}"
    title, fraction = f"Teacher {name}: {_format_node(recipe.teachers[name])}", recipe.teachers[name].train_fraction
    if fraction not in (None, 1):
        title += f", stopped early at {100 * fraction:g} % of its training"
    report = job.backends[name].report if name in job.backends else None
    if report is not None and report.speedup is not None and report.backend != "eager":
        title += f", run by {report.backend} at {report.speedup:.1f} times eager's speed"
    return title


def _format_node(node: Any) -> str:
    settings = to_plain(node)
    excluded_keys = ("use", "weights", "backend", "train_fraction")
    text = ", ".join(f"{key}={value}" for key, value in settings.items() if key not in excluded_keys)
    return f"{settings['use']}({text})"
