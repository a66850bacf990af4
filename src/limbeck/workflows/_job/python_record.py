"""The record and the report of a run in Python."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from torch import nn

from limbeck.core.errors import LimbeckError
from limbeck.core.roles import Role
from limbeck.core.task import DeployableTask
from limbeck.distiller import Distiller, temperature_warnings
from limbeck.models import save_weights
from limbeck.report import write_model_card, write_record, write_report
from limbeck.teachers import CachedTeacher, ExternalTeacher, FrozenTeacher, MaskedTeacher
from limbeck.training import FitResult, TrainingConfig
from limbeck.utils.io import digest
from limbeck.workflows._job.measure import (
    best_teacher,
    choose_examples,
    compare_models,
    measure_models,
    measure_student_fidelity,
    open_test_set,
    show_training_batch,
)
from limbeck.workflows._job.provenance import describe_processes, describe_run
from limbeck.workflows._job.run_context import PythonRun
from limbeck.workflows._job.teacher_checks import collect_teacher_warnings
from limbeck.workflows.export_run import export_onnx

__all__ = ["teacher_networks", "write_python_record"]

_STUDENTS: Final = (Role.BASELINE, Role.DISTILLED)
"""Their names in the record, which no teacher has."""
_FILES: Final = ("student.safetensors", "student.onnx", "predictions.safetensors")


def teacher_networks(distiller: Distiller) -> dict[str, nn.Module]:
    """The networks of the teachers by name; a teacher made of the student, or of stored outputs, has none."""
    networks = dict[str, nn.Module]()
    for name, teacher in distiller.teachers.items():
        if isinstance(teacher, FrozenTeacher | CachedTeacher | MaskedTeacher) and teacher.network is not None:
            networks[f"teacher {name}" if name in _STUDENTS else name] = teacher.network
    return networks


def write_python_record(
    run: PythonRun, distiller: Distiller, results: Mapping[str, FitResult], *, training: TrainingConfig, stage: str,
    seed: int, world_size: int = 1, with_test: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Measure the networks of a run and write ``record.json``, the report, the model card and the student's weights.

    Args:
        run: the data, the task and the folder.
        distiller: of the distilled student.
        results: the trainings by name: ``distilled``, and ``baseline`` where there is one.
        training: the settings of the training.
        stage: its name.
        seed: its seed.
        world_size: number of processes.
        with_test: export the student, open the held-out test split, once, and compare the networks on it.

    Returns:
        The record.
    """
    teachers = teacher_networks(distiller)
    networks = {**teachers, **{name: result.student for name, result in results.items()}}
    batch_size = training.batch_size if training.batch_tokens is None else None
    record: dict[str, Any] = {
        "origin": "python", "name": run.run_dir.resolve().name, "seed": seed,
        "recipe": _describe_settings(run, distiller, results, training, stage),
        "distributed": describe_processes(world_size, batch_size), **describe_run(run),
    }  # fmt: skip
    with _measured_on_cpu(networks):
        record |= _measure(run, distiller, networks, results, training)
        for name, result in results.items():
            file_name = "student.safetensors" if name == Role.DISTILLED else f"checkpoint/{name}.safetensors"
            save_weights(result.student, run.run_dir / file_name)
        if with_test:
            record |= _export_and_test(run, networks, record)
    record["files"] = {
        name: {"sha256": digest(path), "bytes": path.stat().st_size}
        for name in _FILES if (path := run.run_dir / name).exists() and (with_test or name == "student.safetensors")
    }  # fmt: skip
    record["seconds"] = round(sum(result.seconds for result in results.values()), 2)
    record = write_record(run.run_dir, record)
    write_model_card(run.run_dir)
    write_report(run.run_dir)
    return record


def _measure(
    run: PythonRun, distiller: Distiller, networks: Mapping[str, nn.Module], results: Mapping[str, FitResult],
    training: TrainingConfig,
) -> dict[str, Any]:  # fmt: skip
    """The part of the record that does not need the test split."""
    labels = {
        name: (Role.TEACHER.value, f"Teacher {name}: {_class_name(network)}") for name, network in networks.items()
    }
    for name, title in ((Role.BASELINE, "Student without a teacher"), (Role.DISTILLED, "Distilled student")):
        if name in results:
            labels[name] = (name.value, f"{title}: {_class_name(networks[name])}")
    runs = {name: results.get(name) for name in networks}
    models, scores, warnings = measure_models(run, networks, runs, labels)
    teacher = best_teacher(run, models)
    warnings += collect_teacher_warnings(run, networks, models, scores)
    warnings += temperature_warnings(distiller.objective.losses, run.task)
    warnings += [text for result in results.values() for text in result.warnings]
    fidelity = measure_student_fidelity(run, networks, scores, teacher=teacher, students=list(results))
    training_batch, batch_warnings = show_training_batch(run, training)
    warnings = list(dict.fromkeys([*warnings, *batch_warnings]))
    return {
        "models": models, "fidelity": fidelity, "export": {}, "training_batch": training_batch, "warnings": warnings,
    }  # fmt: skip


def _export_and_test(run: PythonRun, networks: Mapping[str, nn.Module], record: dict[str, Any]) -> dict[str, Any]:
    """The exported file, where the task has one, and what the held-out test split decides."""
    if isinstance(run.task, DeployableTask):
        try:
            record["export"]["onnx"] = export_onnx(run, networks[Role.DISTILLED], run.run_dir / "student.onnx")
        except LimbeckError as error:  # the network is trained, whether it can be exported or not
            record["warnings"].append(f"the student was not exported: {error}")
    split, scores, test_set = open_test_set(run, networks, record)
    teacher = best_teacher(run, record["models"])
    comparison = compare_models(run.task, scores, record["models"], teacher)
    return {**comparison, "examples": choose_examples(run, networks, scores, split, teacher), "test_set": test_set}


@contextmanager
def _measured_on_cpu(networks: Mapping[str, nn.Module]) -> Iterator[None]:
    """The networks on the CPU in eval mode, where latencies are measured; they go back to their device."""
    devices = {}
    for name, network in networks.items():
        tensor = next((t for tensors in (network.parameters(), network.buffers()) for t in tensors), None)
        devices[name] = None if tensor is None else tensor.device
        network.cpu().eval()
    try:
        yield
    finally:
        for name, network in networks.items():
            if devices[name] is not None:
                network.to(devices[name])


def _describe_settings(
    run: PythonRun, distiller: Distiller, results: Mapping[str, FitResult], training: TrainingConfig, stage: str
) -> dict[str, Any]:
    """The settings of the training as a recipe writes them, as far as they are plain data."""
    objective = distiller.objective
    losses = {
        name: {"use": _class_name(loss), **_plain_settings(loss), "weight": _plain(objective.weights[name])}
        for name, loss in objective.losses.items()
    }
    settings = {name: value for name, value in training.model_dump().items() if value is not None}
    return {
        "name": run.run_dir.resolve().name, "task": {"use": _class_name(run.task), **_plain_settings(run.task)},
        "data": {"use": run.data.name},
        "teachers": {name: {"use": _class_name(network)} for name, network in teacher_networks(distiller).items()},
        "student": {"use": _class_name(distiller.student)},
        "stages": [{"name": stage, "steps": results[Role.DISTILLED].steps, "objective": losses}],
        "training": {name: _plain(value) for name, value in settings.items()},
    }  # fmt: skip


def _plain_settings(value: object) -> dict[str, Any]:
    if not dataclasses.is_dataclass(value):
        return {}
    settings = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return {name: _plain(setting) for name, setting in settings.items() if setting is not None}


def _plain(value: Any) -> Any:
    """``value`` where JSON can represent it, else as text."""
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError):
        return str(value)


def _class_name(value: object) -> str:
    return value.name if isinstance(value, ExternalTeacher) else getattr(value, "__name__", type(value).__name__)
