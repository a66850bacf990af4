"""Runs in Python, with a record and a report as those of ``limbeck distill``: :func:`fit` and :func:`distill`."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, final

from torch import nn

from limbeck.core.errors import LimbeckError
from limbeck.core.protocols import loss_attribute
from limbeck.core.roles import Role
from limbeck.core.task import EvaluableTask, require_evaluable
from limbeck.data import DataModule
from limbeck.distiller import Distiller, PeerStudents
from limbeck.report.record_io import load_json, parse_record, read_record
from limbeck.training import FitResult, TrainingConfig, make_fabric
from limbeck.training import fit as fit_network
from limbeck.training.callbacks import Callback
from limbeck.training.fit import TrainingData, get_batches
from limbeck.training.progress_bar import ProgressBar
from limbeck.utils.parametrizations import copy_module
from limbeck.utils.validation import unknown_setting_message
from limbeck.workflows._job.provenance import require_same_data, write_task_file
from limbeck.workflows._job.python_record import write_python_record
from limbeck.workflows._job.run_context import PythonRun
from limbeck.workflows._job.run_dir import is_unused, lock_folder, require_writable
from limbeck.workflows._job.stages import baseline_objective, supervised_loss

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["DistillResult", "distill", "fit"]

_DISTILL_PHASES: Final = (Role.BASELINE.value, Role.DISTILLED.value)


@final
@dataclass(frozen=True, slots=True)
class DistillResult:
    """Result of :func:`distill`.

    Attributes:
        student: the distilled student in eval mode.
        baseline: the same student, trained without a teacher.
        results: both trainings, by ``distilled`` and ``baseline``.
        record: the content of ``record.json``.
        run_dir: the folder, with ``report.html``.
    """

    student: nn.Module
    baseline: nn.Module
    results: Mapping[str, FitResult]
    record: Mapping[str, Any]
    run_dir: Path

    def __repr__(self) -> str:
        return f"DistillResult({self.record['verdict']['text']!r}, report={str(self.run_dir / 'report.html')!r})"


def fit(
    distiller: Distiller,
    data: TrainingData | Any,
    *,
    epochs: int | None = None,
    steps: int | None = None,
    steps_per_epoch: int | None = None,
    stop_after_steps: int | None = None,
    steps_before: int = 0,
    total_steps: int = 0,
    training: TrainingConfig | None = None,
    run_dir: str | Path | None = None,
    phase: str = "distilled",
    stage: str = "distill",
    subset: Literal["all", "labeled"] = "all",
    seed: int = 0,
    resume: bool = False,
    fabric: Fabric | None = None,
    callbacks: Sequence[Callback] | None = None,
    **settings: Any,
) -> FitResult:
    """Train the distiller's student; with ``run_dir``, write a record and a report of it and its teachers.

    The report is on the validation split; the held-out test split stays closed, and there is no baseline:
    :func:`limbeck.distill` opens the one and trains the other. A record needs a data module (:mod:`limbeck.data`), one
    student and a task with metrics; other trainings, and those of another ``phase``, write ``metrics.csv`` and
    checkpoints only.

    Args:
        distiller: student, teachers and objective.
        data: a limbeck data module, :func:`limbeck.data.from_loaders`, or a ``DataLoader`` to train on, then without
            validation.
        epochs: passes over the training split; or give ``steps``.
        steps: number of optimizer steps.
        steps_per_epoch: steps between validations; ``None``: one pass over the training split.
        stop_after_steps: end after this many steps, with the schedules of the full length.
        steps_before: number of steps of the stages before this one.
        total_steps: number of steps of all stages, which ``schedules.across_stages`` reads; 0: unknown.
        training: optimizer, batch size and other settings; or give them as keywords.
        run_dir: folder for ``record.json``, ``report.html``, ``README.md``, ``student.safetensors``, ``metrics.csv``,
            ``temperatures.csv`` (if a loss has a temperature) and ``checkpoint/``; ``None`` writes nothing.
        phase: name of the trained model in files and progress bars.
        stage: name of the stage in files.
        subset: train on ``all`` samples, or on the ``labeled`` ones only.
        seed: for dropout and new projections.
        resume: continue from the checkpoint in ``run_dir``, if there is one.
        fabric: devices, precision and processes; ``None``: :func:`~limbeck.training.make_fabric`.
        callbacks: called in rank 0; ``None``: a progress bar.
        settings: those of :class:`~limbeck.training.TrainingConfig`: ``optimizer="adamw", lr=0.01, batch_size=32``.

    Returns:
        The trained student with its history.

    Raises:
        LimbeckError: if the task refuses the data (``check_data``), or a setting does not fit it.
        TrainingDiverged: if a loss or the weights are not finite.
        TrainingInterrupted: on Ctrl-C or SIGTERM, after a checkpoint is written.

    >>> import limbeck, torch
    >>> from limbeck.losses import KDLoss
    >>> data = limbeck.data.from_tensors(torch.rand(40, 4), torch.arange(40) % 2)
    >>> student, teacher = nn.Linear(4, 2), nn.Linear(4, 2)
    >>> task = limbeck.tasks.Classification(classes=2)
    >>> distiller = limbeck.Distiller(student, teacher, objective=KDLoss(), task=task)
    >>> fit(distiller, data, steps=3, optimizer="sgd", lr=0.1, callbacks=[]).steps
    3
    """
    _require_distiller(distiller)
    training, fabric = _resolve_training(training, settings), fabric or make_fabric()
    if (
        callbacks is None
        and phase == Role.DISTILLED
        and not (distiller.teachers or isinstance(distiller.student, PeerStudents))
    ):  # a network that is trained by itself, such as a teacher
        callbacks = [ProgressBar(title="training")]
    folder = None if run_dir is None else _require_run_dir(run_dir, fabric.global_rank)
    task, run = distiller.task, None
    has_report = phase == Role.DISTILLED and fabric.global_rank == 0 and not isinstance(distiller.student, PeerStudents)
    if has_report and folder is not None and isinstance(data, DataModule) and isinstance(task, EvaluableTask):
        run = PythonRun(data, task, folder)
    with nullcontext() if run is None else lock_folder(run.run_dir, setting="run_dir"):
        if run is not None:
            _require_no_other_files(run.run_dir)
            require_same_data(run.run_dir, run.data.fingerprint(), resume=resume)
        result = fit_network(
            distiller, data, epochs=epochs, steps=steps, steps_per_epoch=steps_per_epoch,
            stop_after_steps=stop_after_steps, steps_before=steps_before, total_steps=total_steps, training=training,
            run_dir=folder, phase=phase, stage=stage, subset=subset, seed=seed, resume=resume, fabric=fabric,
            callbacks=callbacks,
        )  # fmt: skip
        if run is not None:
            write_task_file(run.task, run.run_dir)
            write_python_record(
                run, distiller, {Role.DISTILLED.value: result}, training=training, stage=stage, seed=seed,
                world_size=fabric.world_size,
            )  # fmt: skip
    return result


def distill(
    distiller: Distiller,
    data: DataModule,
    *,
    run_dir: str | Path,
    epochs: int | None = None,
    steps: int | None = None,
    training: TrainingConfig | None = None,
    seed: int = 0,
    resume: bool = False,
    callbacks: Sequence[Callback] | None = None,
    **settings: Any,
) -> DistillResult:
    """Train the student with its teachers and, from the same weights, without them; compare both on the test split.

    The baseline is a copy of the student. It is trained on the labeled samples by the supervised losses of the
    objective, or by the supervised loss of the task, for as many steps. The student is exported to ONNX where the task
    allows it. The held-out test split is opened once, after both trainings. A recipe does the same:
    :func:`limbeck.workflows.distill`.

    Args:
        distiller: student, teachers and objective; the student is trained in place.
        data: a limbeck data module.
        run_dir: folder of the record, the report, the weights and the checkpoints.
        epochs: passes over the training split; or give ``steps``.
        steps: number of optimizer steps.
        training: optimizer, batch size and other settings; or give them as keywords.
        seed: for dropout and new projections.
        resume: continue the run in ``run_dir``.
        callbacks: of each training; ``None``: a progress bar.
        settings: those of :class:`~limbeck.training.TrainingConfig`: ``optimizer="adamw", lr=0.01, batch_size=32``.

    Returns:
        Both networks, their trainings and the record; its ``verdict`` says whether the student is better.

    Raises:
        LimbeckError: the data has no test split, the objective has supervised losses only, or ``run_dir`` has a run.
    """
    training, folder = _resolve_training(training, settings), _require_run_dir(run_dir)
    task = _check_arguments(distiller, data, folder, resume=resume)
    data = replace(data, test=data.test.with_log(folder / "checkpoint" / "test_access.json"))
    run = PythonRun(data, task, folder)
    steps_per_epoch = max(1, get_batches(data, training).steps_per_epoch // training.grad_accum_steps)
    if (epochs is None) == (steps is None):
        raise LimbeckError(f"give either epochs or steps, got {epochs} and {steps}")
    options: dict[str, Any] = {
        "steps": steps_per_epoch * epochs if epochs is not None else steps, "steps_per_epoch": steps_per_epoch,
        "run_dir": folder, "seed": seed, "resume": resume, "callbacks": callbacks,
    }  # fmt: skip
    baseline = _make_baseline(distiller, task)
    with lock_folder(folder, setting="run_dir"):
        require_same_data(folder, data.fingerprint(), resume=resume)
        write_task_file(task, folder)
        results = {
            Role.BASELINE.value: fit_network(
                baseline, data, phase=Role.BASELINE.value, subset="labeled", training=_baseline_training(training),
                **options,
            ),
            Role.DISTILLED.value: fit_network(distiller, data, training=training, **options),
        }  # fmt: skip
        if resume and (folder / "record.json").exists():
            record = _read_finished(folder / "record.json")
        else:
            record = write_python_record(
                run, distiller, results, training=training, stage="distill", seed=seed, with_test=True
            )
        data.test.close()
    student, baseline_student = (results[name].student for name in (Role.DISTILLED, Role.BASELINE))
    return DistillResult(student, baseline_student, results, record, folder)


def _resolve_training(training: TrainingConfig | None, settings: Mapping[str, Any]) -> TrainingConfig:
    names = [*TrainingConfig.model_fields, "lr"]
    for name in settings:
        if name not in names:
            raise LimbeckError(unknown_setting_message("the training", name, names))
    if training is not None and settings:
        raise LimbeckError(f"{next(iter(settings))} must be a setting of `training`, since both were given")
    return training or TrainingConfig(**settings)


def _check_arguments(distiller: Distiller, data: DataModule, folder: Path, *, resume: bool) -> EvaluableTask:
    """The task, if a run can be made of the arguments."""
    _require_distiller(distiller)
    if not isinstance(data, DataModule):
        raise LimbeckError(
            f"limbeck.distill needs a data module with a held-out test split, got {type(data).__name__}: use "
            "limbeck.data.from_datasets or from_tensors, or train by limbeck.fit"
        )
    if isinstance(distiller.student, PeerStudents):
        raise LimbeckError("limbeck.distill trains one student: call limbeck.workflows.train_mutual for peers")
    if all(loss_attribute(loss, "supervised") for loss in distiller.objective.losses.values()):
        raise LimbeckError(
            "the objective must have a loss on a teacher, or the baseline is the same training; call limbeck.fit"
        )
    if not resume and not is_unused(folder) and not _has_other_trainings_only(folder):
        state = "has a finished run" if (folder / "record.json").exists() else "is not empty"
        raise LimbeckError(f"{folder} {state}: give another run_dir, or resume=True")
    if make_fabric().world_size > 1:
        raise LimbeckError("limbeck.distill runs in one process: use a recipe and torchrun for several")
    return require_evaluable(distiller.task, "limbeck.distill")


def _require_distiller(distiller: object) -> None:
    """Raise an error that names what to pass where a network, data or a recipe was given as the distiller."""
    if isinstance(distiller, Distiller):
        return
    name, advice = type(distiller).__name__, "limbeck.workflows.distill takes a recipe"
    if isinstance(distiller, nn.Module):
        advice = "wrap the network: limbeck.Distiller(network, teachers, objective=..., task=...)"
    elif isinstance(distiller, DataModule):
        advice = "pass the distiller first and the data second"
    raise LimbeckError(f"distiller must be a limbeck.Distiller, got {name}; {advice}")


def _require_run_dir(run_dir: Any, rank: int = 0) -> Path:
    """``run_dir`` as a path, which process 0 can write."""
    if not isinstance(run_dir, str | Path) or run_dir == "":
        raise LimbeckError(f"run_dir must be the path of a folder, got {run_dir!r}")
    if rank == 0:
        require_writable(Path(run_dir), "run_dir")
    return Path(run_dir)


def _require_no_other_files(folder: Path) -> None:
    """Raise where a record in ``folder`` would replace that of :func:`distill`, or files that are not of limbeck."""
    path = folder / "record.json"
    if path.exists() and Role.BASELINE in read_record(path).models:
        raise LimbeckError(f"{folder} has a finished run of limbeck.distill: give another run_dir")
    names = ("README.md", "report.html", "student.safetensors")
    if not (folder / "checkpoint").exists() and (name := next((n for n in names if (folder / n).exists()), None)):
        raise LimbeckError(f"run_dir must be a new folder or one of limbeck, got {folder} with a {name} of its own")


def _has_other_trainings_only(folder: Path) -> bool:
    """Whether ``folder`` has only what :func:`fit` writes of another phase, such as the training of the teacher."""
    names = {path.name for path in folder.iterdir()}
    phases = {path.name.partition(".")[0] for path in (folder / "checkpoint").glob("*")}
    return names <= {"checkpoint", "metrics.csv", "temperatures.csv"} and not phases & set(_DISTILL_PHASES)


def _read_finished(path: Path) -> dict[str, Any]:
    """The record of a run of :func:`distill`."""
    record: dict[str, Any] = load_json(path)
    if parse_record(record, source=str(path)).verdict is None:
        raise LimbeckError(f"{path} must have a verdict, got none: remove it, and resume again")
    return record


def _make_baseline(distiller: Distiller, task: EvaluableTask) -> Distiller:
    """The student as it is now, with the supervised losses only."""
    losses, weights = baseline_objective(
        distiller.objective.losses, distiller.objective.weights, default=supervised_loss(task)
    )
    losses = {name: copy.deepcopy(loss) for name, loss in losses.items()}
    return Distiller(copy_module(distiller.student), objective=losses, weights=weights, task=task)


def _baseline_training(training: TrainingConfig) -> TrainingConfig:
    """``training`` without paired batches and groups of losses, as for the baseline of a recipe."""
    groups = tuple(group for group in training.parameter_groups if not group["match"].startswith("losses."))
    return training.model_copy(update={"batch_pairing": "none", "parameter_groups": groups})
