"""Students that learn together, each from the labels and from the others (deep mutual learning).

Zhang et al., CVPR 2018, https://arxiv.org/abs/1706.00384. A recipe does the same with ``peers``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from limbeck.core.errors import LimbeckError
from limbeck.core.protocols import Loss, Task, Teacher
from limbeck.core.schedules import Schedule
from limbeck.distiller import Distiller, MutualTask, PeerStudents, scale_weights_for_peers
from limbeck.losses import CrossEntropyLoss, DMLLoss
from limbeck.models import save_weights
from limbeck.training import FitResult, TrainingConfig, fit
from limbeck.training.fit import TrainingData

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["train_mutual"]


def train_mutual(
    students: Mapping[str, nn.Module],
    data: TrainingData | Any,
    *,
    objective: Mapping[str, Loss] | None = None,
    weights: Mapping[str, float | Schedule] | None = None,
    teachers: Mapping[str, nn.Module | Teacher] | None = None,
    task: Task,
    epochs: int | None = None,
    steps: int | None = None,
    training: TrainingConfig = TrainingConfig(),
    run_dir: str | Path | None = None,
    seed: int = 0,
    resume: bool = False,
    fabric: Fabric | None = None,
    callbacks: Any = None,
) -> FitResult:
    """Train all of ``students`` together; ``run.student.students()`` are they, in eval mode.

    Arguments:
        students: by name, at least two, of any architectures with the same classes; trained in place.
        data: as for :func:`limbeck.fit`.
        objective: losses on responses, each student's own; ``None``: ``CrossEntropyLoss`` and ``DMLLoss``, 1 each.
        weights: a number or a schedule for each loss, as each student is to have it.
        teachers: networks that all of them are distilled from as well.
        task: what a batch means to each of them.
        epochs: how often to show every image; or give ``steps``.
        steps: how many optimizer steps to make; each moves every student, and costs as many gradients as there are.
        training: optimizer, batch and the like. ``max_grad_norm`` is the norm of all of their gradients together, and
            what is validated, and ``keep_weights`` goes by, is the mean of their accuracies.
        run_dir: the run folder; gets ``checkpoint/NAME.safetensors`` for each, and what ``fit`` writes.
        seed: of whatever is drawn from torch's generators.
        resume: go on where the training in ``run_dir`` was.
        fabric: devices, precision, processes, as for :func:`limbeck.fit`.
        callbacks: of the training; ``None``: a progress bar.
    """
    if training.batch_pairing != "none":
        raise LimbeckError(
            f"training.batch_pairing {training.batch_pairing} pairs rows of one student: leave it none for peers"
        )
    peers, num_students = PeerStudents(students), len(students)
    losses: dict[str, Loss] = {"target": CrossEntropyLoss(), "dml": DMLLoss(num_peers=num_students)}
    losses = losses if objective is None else dict(objective)
    loss_weights = scale_weights_for_peers(
        {name: (weights or {}).get(name, 1.0) for name in losses} | dict(weights or {}), num_students
    )
    distiller = Distiller(peers, teachers, objective=losses, weights=loss_weights, task=MutualTask(task, num_students))
    result = fit(
        distiller, data, epochs=epochs, steps=steps, training=training, run_dir=run_dir, phase="mutual", seed=seed,
        resume=resume, fabric=fabric, callbacks=callbacks,
    )  # fmt: skip
    if run_dir is not None:
        for name, student in students.items():
            save_weights(student, Path(run_dir) / "checkpoint" / f"{name}.safetensors")
    return result
