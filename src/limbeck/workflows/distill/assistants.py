"""A chain from the teacher to a much smaller student: assistants of sizes between, each distilled from those before it.

Sequential: Mirzadeh et al., AAAI 2020, https://arxiv.org/abs/1902.03393. Dense, each from all before
it: Son et al., ICCV 2021, https://arxiv.org/abs/2009.08825; their stochastic dropping of teachers is not here.

:func:`distill_chain` takes plain modules; :func:`train_assistants` is the part of the main job that a recipe's
``assistants`` ask for.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from torch import nn

from limbeck.core.errors import LimbeckError, suggest_names
from limbeck.core.protocols import Loss, Task
from limbeck.core.schedules import Schedule
from limbeck.distiller import Distiller, loss_per_teacher
from limbeck.models import save_weights
from limbeck.recipe.training_order import AssistantMode, TrainingPair, training_order
from limbeck.training import FitResult, TrainingConfig, fit
from limbeck.training.callbacks import Callback
from limbeck.training.fit import TrainingData
from limbeck.workflows._job.job import Job

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["check_chain_order", "distill_chain", "train_assistants"]


def distill_chain(
    networks: Mapping[str, nn.Module],
    data: TrainingData | Any,
    *,
    objective: Mapping[str, Loss],
    weights: Mapping[str, float | Schedule] | None = None,
    feature_layers: Mapping[str, Mapping[str, str]] | None = None,
    task: Task,
    assistant_mode: AssistantMode = "sequential",
    epochs: int | None = None,
    steps: int | None = None,
    training: TrainingConfig = TrainingConfig(),
    run_dir: str | Path | None = None,
    seed: int = 0,
    resume: bool = False,
    fabric: Fabric | None = None,
    callbacks: Sequence[Callback] | None = None,
) -> dict[str, FitResult]:
    """Distill every network but the first, from large to small; gives the training of each by its name, in that order.

    Arguments:
        networks: by name, from large to small: the teacher, which is trained already, the assistants, the student.
        data: as for :func:`limbeck.fit`.
        objective: losses by name. Each network learns by fresh copies, so none may name a teacher, except that with
            ``dense`` every network is distilled from the first.
        weights: a number or a schedule for each loss.
        feature_layers: for the name of each network, layers by the name to give them, recorded while it is student or
            teacher.
        task: what a batch means.
        assistant_mode: each learns from the last before it (``sequential``), or from all before it (``dense``: a
            loss for each, of equal shares).
        epochs: how often each training shows every image; or give ``steps``.
        steps: how many optimizer steps each training makes.
        training: optimizer, batch and the like, for each training alike.
        run_dir: the run folder; gets ``checkpoint/NAME.safetensors`` for each that was trained, and what ``fit``
            writes.
        seed: of whatever is drawn from torch's generators.
        resume: go on where the chain in ``run_dir`` was; what is finished is not done again.
        fabric: devices, precision, processes, as for :func:`limbeck.fit`.
        callbacks: of each training; ``None``: a progress bar.

    The networks are trained in place: ``distill_chain(...)["student"].student`` is ``networks["student"]``, in eval
        mode.
    """
    names = list(networks)
    if len(names) < 2:
        raise LimbeckError(f"a chain takes a teacher and at least one network that learns, and here are: {names}")
    if assistant_mode not in get_args(AssistantMode):
        raise LimbeckError(f"assistant_mode is {' or '.join(get_args(AssistantMode))}, not {assistant_mode!r}")
    for name in feature_layers or {}:
        if name not in names:
            raise LimbeckError(f"feature_layers are given for {name!r}; there are: {suggest_names(name, names)}")
    runs: dict[str, FitResult] = {}
    for student_name, teacher_names in training_order(names[:1], names[1:], assistant_mode=assistant_mode):
        _check_loss_teachers(objective, TrainingPair(student_name, teacher_names))
        losses, loss_weights = (
            loss_per_teacher(objective, weights or {}, teacher_names)
            if assistant_mode == "dense"
            else (objective, weights)
        )
        teacher_layers = {
            name: (feature_layers or {})[name] for name in teacher_names if name in (feature_layers or {})
        }
        distiller = Distiller(
            networks[student_name], {name: networks[name] for name in teacher_names},
            objective={name: copy.deepcopy(loss) for name, loss in losses.items()}, weights=loss_weights,
            feature_layers=teacher_layers | {"student": (feature_layers or {}).get(student_name, {})}, task=task,
        )  # fmt: skip
        runs[student_name] = fit(
            distiller, data, epochs=epochs, steps=steps, training=training, run_dir=run_dir, phase=student_name,
            seed=seed,
            resume=resume, fabric=fabric, callbacks=callbacks,
        )  # fmt: skip
        if run_dir is not None:
            save_weights(networks[student_name], Path(run_dir) / "checkpoint" / f"{student_name}.safetensors")
    return runs


def train_assistants(
    job: Job, teachers: Mapping[str, nn.Module], *, resume: bool, callbacks: Sequence[Callback] | None
) -> dict[str, FitResult]:
    """Train the recipe's assistants through its stages, each from its teachers; none where it has none."""
    runs: dict[str, FitResult] = {}
    for name, teacher_names in job.recipe.training_order()[:-1]:
        trained_networks = {**teachers, **{assistant_name: run.student for assistant_name, run in runs.items()}}
        runs[name] = job.train_stages(
            name,
            job.build_assistant(name),
            {teacher_name: trained_networks[teacher_name] for teacher_name in teacher_names},
            resume=resume,
            callbacks=callbacks,
        )
    return runs


def check_chain_order(job: Job, models: Mapping[str, Any]) -> list[str]:
    """What a user should know of the order of a chain: it goes from large to small."""
    student_names = [name for name in (*job.recipe.assistants, "distilled") if job.recipe.assistants]
    model_sizes = [(name, models[name]["parameters"]) for name in student_names]
    return [
        f"{name!r} has more parameters than the assistant {previous_name!r} that is its teacher ({num_parameters:,} "
        f"against {previous_parameters:,}): "
        "a chain goes from large to small"
        for (previous_name, previous_parameters), (name, num_parameters) in pairwise(model_sizes)
        if num_parameters > previous_parameters
    ]


def _check_loss_teachers(objective: Mapping[str, Loss], pair: TrainingPair) -> None:
    for name, loss in objective.items():
        teacher = getattr(loss, "teacher", None)
        if isinstance(teacher, str) and teacher not in pair.teachers:
            raise LimbeckError(
                f"the loss {name!r} has the teacher {teacher!r}, and {pair.student!r} learns from "
                f"{', '.join(pair.teachers)}: "
                "leave its teacher away, and it takes the teacher of each training"
            )
