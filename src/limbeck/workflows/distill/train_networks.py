"""Training of several networks without a recipe: a chain of assistants, born-again generations, mutual learning.

Assistants: Mirzadeh et al., AAAI 2020, https://arxiv.org/abs/1902.03393; densely guided: Son et al., ICCV 2021,
https://arxiv.org/abs/2009.08825, without their stochastic dropping of teachers. Born again: Furlanello et al., ICML
2018, https://arxiv.org/abs/1805.04770. Mutual learning: Zhang et al., CVPR 2018, https://arxiv.org/abs/1706.00384. A
recipe does the same with ``assistants``, ``generations`` and ``peers``.
"""

from __future__ import annotations

import copy
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict, Unpack, get_args

import torch
from torch import nn

from limbeck.core.errors import LimbeckError, suggest_names
from limbeck.core.limits import MAX_GENERATIONS
from limbeck.core.protocols import Loss, Task, Teacher
from limbeck.core.schedules import Schedule
from limbeck.data.counter_rng import derive_seed
from limbeck.distiller import Distiller, MutualTask, PeerStudents, loss_per_teacher, scale_weights_for_peers
from limbeck.losses import DMLLoss, KDLoss
from limbeck.models import save_weights
from limbeck.models.ensemble_model import EnsembleModel
from limbeck.recipe.training_order import AssistantMode, generation_name, training_order
from limbeck.training import FitResult, TrainingConfig, fit
from limbeck.training.callbacks import Callback
from limbeck.training.fit import TrainingData
from limbeck.workflows._job.stages import supervised_loss

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["BornAgainResult", "FitOptions", "distill_chain", "train_born_again", "train_mutual"]


class FitOptions(TypedDict, total=False):
    """Options of :func:`limbeck.fit`, for every training alike."""

    epochs: int | None
    steps: int | None
    training: TrainingConfig
    run_dir: str | Path | None
    seed: int
    resume: bool
    fabric: Fabric | None
    callbacks: Sequence[Callback] | None


def distill_chain(
    networks: Mapping[str, nn.Module],
    data: TrainingData | Any,
    *,
    objective: Mapping[str, Loss],
    weights: Mapping[str, float | Schedule] | None = None,
    feature_layers: Mapping[str, Mapping[str, str]] | None = None,
    task: Task,
    assistant_mode: AssistantMode = "sequential",
    **fit_options: Unpack[FitOptions],
) -> dict[str, FitResult]:
    """Distill every network but the first, from large to small.

    Args:
        networks: by name, from large to small: the teacher, which is trained already, the assistants, the student.
            They are trained in place.
        data: as for :func:`limbeck.fit`.
        objective: losses by name; every training has copies of them. None may name a teacher, except the first one
            with ``dense``.
        weights: a number or a schedule for each loss.
        feature_layers: for the name of each network, layers by feature name.
        task: what a batch means.
        assistant_mode: each learns from the last before it (``sequential``), or from all before it (``dense``: a
            loss for each, of equal weights).
        fit_options: as for :func:`limbeck.fit`; a ``run_dir`` also gets ``checkpoint/NAME.safetensors`` of each.

    Returns:
        The trainings by the name of their student, in order; ``run.student`` is in eval mode.

    Raises:
        LimbeckError: fewer than two networks, or a name that none has.
    """
    names, layers = list(networks), feature_layers or {}
    if len(names) < 2:
        raise LimbeckError(f"networks must be a teacher and at least one network that learns, got {names}")
    if assistant_mode not in get_args(AssistantMode):
        raise LimbeckError(f"assistant_mode is {' or '.join(get_args(AssistantMode))}, not {assistant_mode!r}")
    for name in layers:
        if name not in names:
            raise LimbeckError(f"feature_layers are given for {name!r}; available: {suggest_names(name, names)}")
    runs: dict[str, FitResult] = {}
    for student, teachers in training_order(names[:1], names[1:], assistant_mode=assistant_mode):
        _check_loss_teachers(objective, student, teachers)
        losses, loss_weights = (
            loss_per_teacher(objective, weights or {}, teachers)
            if assistant_mode == "dense"
            else (dict(objective), dict(weights or {}))
        )
        distiller = Distiller(
            networks[student],
            {name: networks[name] for name in teachers},
            objective={name: copy.deepcopy(loss) for name, loss in losses.items()},
            weights=loss_weights,
            feature_layers={name: layers[name] for name in teachers if name in layers}
            | {"student": layers.get(student, {})},
            task=task,
        )
        runs[student] = _fit_and_save(distiller, data, {student: networks[student]}, phase=student, **fit_options)
    return runs


class BornAgainResult(NamedTuple):
    """The trainings of the generations by name, ``generation1`` first, and the ensemble of the networks."""

    runs: dict[str, FitResult]
    ensemble: EnsembleModel


def train_born_again(
    make_model: Callable[[], nn.Module],
    data: TrainingData | Any,
    *,
    generations: int = 3,
    objective: Mapping[str, Loss] | None = None,
    weights: Mapping[str, float | Schedule] | None = None,
    task: Task,
    **fit_options: Unpack[FitOptions],
) -> BornAgainResult:
    """Train ``generations`` networks, each distilled from the one before it; the first learns from the labels.

    It costs ``generations`` trainings: compare with one network trained for as many steps, and the ensemble with one
    of as many networks without a teacher.

    Args:
        make_model: gives a new network; called once for each, with torch seeded by ``seed`` and its name.
        data: as for :func:`limbeck.fit`.
        generations: number of networks, at least 2.
        objective: losses of every generation after the first; ``None``: the supervised loss of
            the task and ``KDLoss(temperature=1)``.
        weights: a number or a schedule for each loss.
        task: what a batch means.
        fit_options: as for :func:`distill_chain`.
    """
    if not 2 <= generations <= MAX_GENERATIONS:
        raise LimbeckError(f"generations must be from 2 to {MAX_GENERATIONS}, got {generations}")
    networks: dict[str, nn.Module] = {}
    for name in map(generation_name, range(1, generations + 1)):
        torch.manual_seed(derive_seed(fit_options.get("seed", 0), zlib.crc32(name.encode())))
        networks[name] = make_model()
    name, network = next(iter(networks.items()))
    distiller = Distiller(network, objective={"target": supervised_loss(task)}, task=task)
    runs = {name: _fit_and_save(distiller, data, {name: network}, phase=name, **fit_options)}
    losses = {"target": supervised_loss(task), "kd": KDLoss(temperature=1.0)} if objective is None else objective
    runs |= distill_chain(networks, data, objective=losses, weights=weights, task=task, **fit_options)
    return BornAgainResult(runs, EnsembleModel(list(networks.values())).eval())


def train_mutual(
    students: Mapping[str, nn.Module],
    data: TrainingData | Any,
    *,
    objective: Mapping[str, Loss] | None = None,
    weights: Mapping[str, float | Schedule] | None = None,
    teachers: Mapping[str, nn.Module | Teacher] | None = None,
    task: Task,
    **fit_options: Unpack[FitOptions],
) -> FitResult:
    """Train all of ``students`` together, each from the labels and from the others.

    Args:
        students: by name, at least two, of any architectures with the same classes; trained in place.
        data: as for :func:`limbeck.fit`.
        objective: losses on responses, of every student; ``None``: the supervised loss of the task and ``DMLLoss``, 1
            each.
        weights: a number or a schedule for each loss, of every student.
        teachers: networks that all of them are distilled from as well.
        task: what a batch means to each of them.
        fit_options: as for :func:`distill_chain`. One step trains every student. ``max_grad_norm`` limits the norm of
            all their gradients together, and the validated metric is the mean of their accuracies.

    Returns:
        The training; ``run.student.students()`` are the students, in eval mode.
    """
    training, num_students = fit_options.get("training", TrainingConfig()), len(students)
    if training.batch_pairing != "none":
        raise LimbeckError(
            f"training.batch_pairing {training.batch_pairing} pairs rows of one student: leave it none for peers"
        )
    peers = PeerStudents(students)
    losses: dict[str, Loss] = {"target": supervised_loss(task), "dml": DMLLoss(num_peers=num_students)}
    losses = losses if objective is None else dict(objective)
    peer_weights = scale_weights_for_peers({**dict.fromkeys(losses, 1.0), **(weights or {})}, num_students)
    distiller = Distiller(peers, teachers, objective=losses, weights=peer_weights, task=MutualTask(task, num_students))
    return _fit_and_save(distiller, data, students, phase="mutual", **fit_options)


def _fit_and_save(
    distiller: Distiller,
    data: TrainingData | Any,
    networks: Mapping[str, nn.Module],
    *,
    phase: str,
    **fit_options: Unpack[FitOptions],
) -> FitResult:
    result = fit(distiller, data, phase=phase, **fit_options)
    if (run_dir := fit_options.get("run_dir")) is not None:
        for name, network in networks.items():
            save_weights(network, Path(run_dir) / "checkpoint" / f"{name}.safetensors")
    return result


def _check_loss_teachers(objective: Mapping[str, Loss], student: str, teachers: Sequence[str]) -> None:
    for name, loss in objective.items():
        teacher = getattr(loss, "teacher", None)
        if isinstance(teacher, str) and teacher not in teachers:
            raise LimbeckError(
                f"the loss {name!r} has the teacher {teacher!r}, and {student!r} learns from "
                f"{', '.join(teachers)}: remove its teacher, and it takes the teacher of each training"
            )
