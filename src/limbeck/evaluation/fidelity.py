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
from limbeck.evaluation.agreement import prediction_agreement
from limbeck.evaluation.checks import labeled_mask
from limbeck.evaluation.cka import cka_matrix
from limbeck.evaluation.layer_similarity import LayerRecorder

__all__ = ["layerwise_cka", "measure_fidelity", "prediction_similarity"]


def measure_fidelity(
    student: nn.Module,
    teacher: nn.Module,
    batches: Iterable[Any],
    task: Task,
    *,
    class_names: Sequence[str] | None = None,
    max_samples: int = 1000,
) -> dict[str, Any]:
    """How like ``teacher`` a ``student`` answers, errs and sees, on ``batches`` of a part that nobody is tested on.

    Each batch is shown to both, once, so any iterable will do. Both run in eval mode; their modes are put back.

    Args:
        student: any network that the task can call.
        teacher: another one with the same classes.
        batches: of one part, in an order that mixes the classes, since CKA is taken of its first rows.
        task: what a batch means.
        class_names: their names; ``None``: their numbers.
        max_samples: how many samples CKA is taken of, at most.

    Returns:
        What :func:`prediction_similarity` gives, and ``cka``, which is what :func:`layerwise_cka` gives.

    Raises:
        LimbeckError: no batch, other classes, or answers that are not finite.

    >>> from limbeck.tasks import Classification
    >>> net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    >>> batch = {"input": torch.eye(2).repeat(4, 1), "target": torch.zeros(8, dtype=torch.long)}
    >>> found = measure_fidelity(net, net, [batch], Classification(2))
    >>> found["top1_agreement"], found["kl"], round(found["cka"]["matrix"][0][0], 6)
    (1.0, 0.0, 1.0)
    """
    iterator = iter(batches)
    if (first_batch := next(iterator, None)) is None:
        raise LimbeckError("there is nothing to measure on: the part gave no batch")
    student_recorder, teacher_recorder = (
        LayerRecorder(model, first_batch, task, max_samples=max_samples) for model in (student, teacher)
    )
    for batch in chain([first_batch], iterator):
        student_recorder.record(batch)
        teacher_recorder.record(batch)
    student_logits = student_recorder.logits
    names = [str(index) for index in range(student_logits.shape[1])] if class_names is None else class_names
    similarity = prediction_similarity(
        student_logits, teacher_recorder.logits, student_recorder.target, class_names=names
    )
    return {**similarity, "cka": layerwise_cka(student_recorder.features, teacher_recorder.features)}


def prediction_similarity(
    student_logits: Tensor, teacher_logits: Tensor, target: Tensor, *, class_names: Sequence[str]
) -> dict[str, Any]:
    """The same from answers alone: agreement, and where the two are wrong together.

    Args:
        student_logits: ``[n, classes]``.
        teacher_logits: ``[n, classes]``.
        target: ``[n]`` class numbers, −100 where there is no label.
        class_names: their names, in the order of their numbers.

    Returns:
        ``num_samples`` (all rows); ``top1_agreement`` and ``kl`` over all of them, and ``both_wrong``, ``student_only_wrong`` and
        ``teacher_only_wrong`` over those with a label, as :func:`limbeck.evaluation.prediction_agreement` gives them;
        ``same_error``, the share where both are wrong by one answer; and ``per_class``, for each class that occurs the
        counts ``num_samples``, ``same_error``, ``different_error`` (both wrong, by two answers),
        ``student_only_wrong`` and ``teacher_only_wrong``.

    >>> student, teacher = torch.eye(3)[[1, 1, 0, 2]], torch.eye(3)[[1, 2, 0, 0]]
    >>> found = prediction_similarity(student, teacher, torch.tensor([0, 0, 0, 0]), class_names=["a", "b", "c"])
    >>> found["per_class"]
    [{'class': 'a', 'num_samples': 4, 'same_error': 1, 'different_error': 1, 'student_only_wrong': 1, 'teacher_only_wrong': 0}]
    """
    metrics = prediction_agreement(student_logits, teacher_logits, target)
    if len(class_names) != student_logits.shape[1]:
        raise LimbeckError(
            f"there are {student_logits.shape[1]} classes, and {len(class_names)} names were given for them"
        )
    labels = target.detach().cpu()
    is_labeled = labeled_mask(labels, num_rows=len(labels), num_classes=len(class_names))
    student_class, teacher_class = (
        student_logits.detach().cpu().argmax(dim=1),
        teacher_logits.detach().cpu().argmax(dim=1),
    )
    student_wrong, teacher_wrong = (student_class != labels) & is_labeled, (teacher_class != labels) & is_labeled
    masks = {
        "same_error": student_wrong & teacher_wrong & (student_class == teacher_class), "different_error": student_wrong & teacher_wrong & (student_class != teacher_class),
        "student_only_wrong": student_wrong & ~teacher_wrong, "teacher_only_wrong": teacher_wrong & ~student_wrong,
    }  # fmt: skip
    counts = {kind: torch.bincount(labels[mask], minlength=len(class_names)).tolist() for kind, mask in masks.items()}
    num_examples = torch.bincount(labels[is_labeled], minlength=len(class_names)).tolist()
    per_class = [
        {"class": name, "num_samples": num_examples[i], **{kind: counts[kind][i] for kind in masks}}
        for i, name in enumerate(class_names)
        if num_examples[i]
    ]
    same_error = sum(counts["same_error"]) / sum(num_examples) if sum(num_examples) else None
    return {"num_samples": len(labels), **metrics, "same_error": same_error, "per_class": per_class}


def layerwise_cka(student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """CKA of every layer with every layer, from features ``[n, width]`` by place; ``None`` under 4 samples.

    Returns:
        ``student_layers`` and ``teacher_layers``, the places; ``matrix``, a row for each of the student's places and a column for
        each of the teacher's, see :func:`limbeck.evaluation.cka_matrix`; ``num_samples``, how many it was taken of.
    """
    num_samples = min(len(features) for features in (*student.values(), *teacher.values()))
    if num_samples < 4:
        return None
    return {
        "student_layers": list(student), "teacher_layers": list(teacher), "matrix": cka_matrix(student, teacher), "num_samples": num_samples
    }  # fmt: skip
