"""What a student took over from its teacher: its answers, its errors, and how it sees (Stanton et al., 2021).

*Does Knowledge Distillation Really Work?* (https://arxiv.org/abs/2106.05945) calls it fidelity. A figure of it means
something beside that of the same student trained alone: two good networks agree, and err on the same hard samples,
without one having taught the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.core.protocols import Task
from limbeck.evaluation.agreement import agreement
from limbeck.evaluation.checks import labelled
from limbeck.evaluation.cka import cka_by_layer
from limbeck.evaluation.layer_similarity import Ear

__all__ = ["fidelity", "likeness", "sights"]


def fidelity(
    student: nn.Module,
    teacher: nn.Module,
    batches: Iterable[Any],
    task: Task,
    *,
    classes: Sequence[str] | None = None,
    samples: int = 1000,
) -> dict[str, Any]:
    """How like ``teacher`` a ``student`` answers, errs and sees, on ``batches`` of a part that nobody is tested on.

    Each batch is shown to both, once, so any iterable will do. Both run in eval mode; their modes are put back.

    Args:
        student: any network that the task can call.
        teacher: another one with the same classes.
        batches: of one part, in an order that mixes the classes, since CKA is taken of its first rows.
        task: what a batch means.
        classes: their names; ``None``: their numbers.
        samples: how many samples CKA is taken of, at most.

    Returns:
        What :func:`likeness` gives, and ``cka``, which is what :func:`sights` gives.

    Raises:
        LimbeckError: no batch, other classes, or answers that are not finite.

    >>> from limbeck.tasks import Classification
    >>> net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    >>> batch = {"input": torch.eye(2).repeat(4, 1), "target": torch.zeros(8, dtype=torch.long)}
    >>> found = fidelity(net, net, [batch], Classification(2))
    >>> found["top1"], found["kl"], round(found["cka"]["values"][0][0], 6)
    (1.0, 0.0, 1.0)
    """
    items = iter(batches)
    if (first := next(items, None)) is None:
        raise LimbeckError("there is nothing to measure on: the part gave no batch")
    ours, theirs = (Ear(model, first, task, samples=samples) for model in (student, teacher))
    for batch in chain([first], items):
        ours.hear(batch)
        theirs.hear(batch)
    said = ours.logits
    names = [str(number) for number in range(said.shape[1])] if classes is None else classes
    found = likeness(said, theirs.logits, ours.target, classes=names)
    return {**found, "cka": sights(ours.layers, theirs.layers)}


def likeness(
    student_logits: Tensor, teacher_logits: Tensor, target: Tensor, *, classes: Sequence[str]
) -> dict[str, Any]:
    """The same from answers alone: agreement, and where the two are wrong together.

    Args:
        student_logits: ``[n, classes]``.
        teacher_logits: ``[n, classes]``.
        target: ``[n]`` class numbers, −100 where there is no label.
        classes: their names, in the order of their numbers.

    Returns:
        ``examples`` (all rows); ``top1`` and ``kl`` over all of them, and ``both_wrong``, ``student_only_wrong`` and
        ``teacher_only_wrong`` over those with a label, as :func:`limbeck.evaluation.agreement` gives them;
        ``same_wrong``, the share where both are wrong by one answer; and ``by_class``, for each class that occurs the
        counts ``examples``, ``same_wrong``, ``other_wrong`` (both wrong, by two answers), ``student_only`` and
        ``teacher_only``.

    >>> student, teacher = torch.eye(3)[[1, 1, 0, 2]], torch.eye(3)[[1, 2, 0, 0]]
    >>> found = likeness(student, teacher, torch.tensor([0, 0, 0, 0]), classes=["a", "b", "c"])
    >>> found["by_class"]
    [{'class': 'a', 'examples': 4, 'same_wrong': 1, 'other_wrong': 1, 'student_only': 1, 'teacher_only': 0}]
    """
    found = agreement(student_logits, teacher_logits, target)
    if len(classes) != student_logits.shape[1]:
        raise LimbeckError(f"there are {student_logits.shape[1]} classes, and {len(classes)} names were given for them")
    truth = target.detach().cpu()
    known = labelled(truth, rows=len(truth), classes=len(classes))
    said, taught = student_logits.detach().cpu().argmax(dim=1), teacher_logits.detach().cpu().argmax(dim=1)
    wrong, astray = (said != truth) & known, (taught != truth) & known
    kinds = {
        "same_wrong": wrong & astray & (said == taught), "other_wrong": wrong & astray & (said != taught),
        "student_only": wrong & ~astray, "teacher_only": astray & ~wrong,
    }  # fmt: skip
    counts = {kind: torch.bincount(truth[which], minlength=len(classes)).tolist() for kind, which in kinds.items()}
    many = torch.bincount(truth[known], minlength=len(classes)).tolist()
    by_class = [
        {"class": name, "examples": many[i], **{kind: counts[kind][i] for kind in kinds}}
        for i, name in enumerate(classes)
        if many[i]
    ]
    same = sum(counts["same_wrong"]) / sum(many) if sum(many) else None
    return {"examples": len(truth), **found, "same_wrong": same, "by_class": by_class}


def sights(student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """CKA of every layer with every layer, from features ``[n, width]`` by place; ``None`` under 4 samples.

    Returns:
        ``student`` and ``teacher``, the places; ``values``, a row for each of the student's places and a column for
        each of the teacher's, see :func:`limbeck.evaluation.cka_by_layer`; ``samples``, how many it was taken of.
    """
    samples = min(len(features) for features in (*student.values(), *teacher.values()))
    if samples < 4:
        return None
    return {
        "student": list(student), "teacher": list(teacher), "values": cka_by_layer(student, teacher), "samples": samples
    }  # fmt: skip
