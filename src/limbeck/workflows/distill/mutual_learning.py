"""Students that learn together, each from the labels and from the others (deep mutual learning).

Zhang et al., CVPR 2018, https://arxiv.org/abs/1706.00384. A recipe does the same with ``peers``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from limbeck.core.errors import LimbeckError
from limbeck.core.protocols import Task, TeacherSource, Term
from limbeck.core.schedules import Schedule
from limbeck.distiller import Distiller, Peers, Together, for_each_peer
from limbeck.losses import CrossEntropy, Mutual
from limbeck.models import save_weights
from limbeck.training import Run, Training, fit
from limbeck.training.fit import Source

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["mutual"]


def mutual(
    students: Mapping[str, nn.Module],
    data: Source | Any,
    *,
    objective: Mapping[str, Term] | None = None,
    weights: Mapping[str, float | Schedule] | None = None,
    teachers: Mapping[str, nn.Module | TeacherSource] | None = None,
    task: Task,
    epochs: int | None = None,
    steps: int | None = None,
    training: Training = Training(),
    out: str | Path | None = None,
    seed: int = 0,
    resume: bool = False,
    fabric: Fabric | None = None,
    watchers: Any = None,
) -> Run:
    """Train all of ``students`` together; ``run.student.students()`` are they, in eval mode.

    Arguments:
        students: by name, at least two, of any architectures with the same classes; trained in place.
        data: as for :func:`limbeck.fit`.
        objective: terms on responses, each student's own; ``None``: ``CrossEntropy`` and ``Mutual``, 1 each.
        weights: a number or a schedule for each term, as each student is to have it.
        teachers: networks that all of them listen to as well.
        task: what a batch means to each of them.
        epochs: how often to show every picture; or give ``steps``.
        steps: how many optimizer steps to make; each moves every student, and costs as many gradients as there are.
        training: optimizer, batch and the like. ``clip`` is the norm of all of their gradients together, and what is
            validated, and ``keep`` goes by, is the mean of their accuracies.
        out: the run folder; gets ``checkpoint/NAME.safetensors`` for each, and what ``fit`` writes.
        seed: of whatever is drawn from torch's generators.
        resume: go on where the training in ``out`` was.
        fabric: devices, precision, processes, as for :func:`limbeck.fit`.
        watchers: who is told how it goes; ``None``: a progress bar.
    """
    if training.sampling != "plain":
        raise LimbeckError(f"training.sampling {training.sampling} pairs rows of one student: leave it plain for peers")
    peers, many = Peers(students), len(students)
    terms: dict[str, Term] = {"truth": CrossEntropy(), "mutual": Mutual(peers=many)}
    terms = terms if objective is None else dict(objective)
    shares = for_each_peer({name: (weights or {}).get(name, 1.0) for name in terms} | dict(weights or {}), many)
    distiller = Distiller(peers, teachers, objective=terms, weights=shares, task=Together(task, many))
    run = fit(
        distiller, data, epochs=epochs, steps=steps, training=training, out=out, phase="mutual", seed=seed,
        resume=resume, fabric=fabric, watchers=watchers,
    )  # fmt: skip
    if out is not None:
        for name, student in students.items():
            save_weights(student, Path(out) / "checkpoint" / f"{name}.safetensors")
    return run
