"""Fidelity of a student to its teacher: predictions, errors and layers.

Stanton et al., *Does Knowledge Distillation Really Work?* (2021, https://arxiv.org/abs/2106.05945). Compare it with
that of the same student trained without a teacher: two accurate networks agree, and err on the same hard samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.core.protocols import Task
from limbeck.evaluation.checks import labeled_mask
from limbeck.evaluation.model_outputs import LayerRecorder, first_batch
from limbeck.evaluation.similarity import cka_matrix, prediction_agreement

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
    """Fidelity of ``student`` to ``teacher`` on ``batches``, both in eval mode. Iterates over ``batches`` once.

    Args:
        student: a network that the task can call.
        teacher: another one with the same classes.
        batches: batches of one split, in an order that mixes the classes, since CKA uses the first samples.
        task: the task of the batches.
        class_names: names of the classes; ``None``: their indices.
        max_samples: maximum number of samples for CKA.

    Returns:
        The result of :func:`prediction_similarity`, and ``cka``, the result of :func:`layerwise_cka`.

    Raises:
        LimbeckError: no batch, different classes, or outputs that are not finite.

    >>> from limbeck.tasks import Classification
    >>> net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    >>> batch = {"input": torch.eye(2).repeat(4, 1), "target": torch.zeros(8, dtype=torch.long)}
    >>> fidelity = measure_fidelity(net, net, [batch], Classification(2))
    >>> fidelity["top1_agreement"], fidelity["kl"], round(fidelity["cka"]["matrix"][0][0], 6)
    (1.0, 0.0, 1.0)
    """
    first, batches = first_batch(batches)
    student_recorder, teacher_recorder = (
        LayerRecorder(model, first, task, max_samples=max_samples) for model in (student, teacher)
    )
    for batch in batches:
        student_recorder.record(batch)
        teacher_recorder.record(batch)
    logits = student_recorder.logits
    names = [str(index) for index in range(logits.shape[1])] if class_names is None else class_names
    similarity = prediction_similarity(logits, teacher_recorder.logits, student_recorder.target, class_names=names)
    return {**similarity, "cka": layerwise_cka(student_recorder.features, teacher_recorder.features)}


def prediction_similarity(
    student_logits: Tensor, teacher_logits: Tensor, target: Tensor, *, class_names: Sequence[str]
) -> dict[str, Any]:
    """Agreement of predictions, and common errors by class.

    Args:
        student_logits: ``[n, classes]``.
        teacher_logits: ``[n, classes]``.
        target: ``[n]`` class indices, −100 for no label.
        class_names: names of the classes in the order of their indices.

    Returns:
        ``num_samples`` (all rows); the values of :func:`limbeck.evaluation.prediction_agreement`; ``same_error``, the
        fraction of labeled rows with the same wrong prediction; and ``per_class``, for each class with samples the
        counts ``num_samples``, ``same_error``, ``different_error`` (both wrong with different predictions),
        ``student_only_wrong`` and ``teacher_only_wrong``.

    >>> student, teacher = torch.eye(3)[[1, 1, 0, 2]], torch.eye(3)[[1, 2, 0, 0]]
    >>> result = prediction_similarity(student, teacher, torch.tensor([0, 0, 0, 0]), class_names=["a", "b", "c"])
    >>> list(result["per_class"][0].values())
    ['a', 4, 1, 1, 1, 0]
    """
    metrics = prediction_agreement(student_logits, teacher_logits, target)
    if len(class_names) != student_logits.shape[1]:
        raise LimbeckError(f"the logits have {student_logits.shape[1]} classes, and {len(class_names)} names are given")
    labels = target.detach().cpu()
    is_labeled = labeled_mask(labels, num_rows=len(labels), num_classes=len(class_names))
    student_class, teacher_class = (logits.detach().cpu().argmax(dim=1) for logits in (student_logits, teacher_logits))
    student_wrong, teacher_wrong = student_class != labels, teacher_class != labels
    masks = {
        "num_samples": torch.ones_like(is_labeled),
        "same_error": student_wrong & (student_class == teacher_class),
        "different_error": student_wrong & teacher_wrong & (student_class != teacher_class),
        "student_only_wrong": student_wrong & ~teacher_wrong,
        "teacher_only_wrong": teacher_wrong & ~student_wrong,
    }
    counts = {
        name: torch.bincount(labels[mask & is_labeled], minlength=len(class_names)).tolist()
        for name, mask in masks.items()
    }
    per_class = [
        {"class": class_name, **{name: counts[name][i] for name in masks}}
        for i, class_name in enumerate(class_names)
        if counts["num_samples"][i]
    ]
    num_labeled = sum(counts["num_samples"])
    same_error = sum(counts["same_error"]) / num_labeled if num_labeled else None
    return {"num_samples": len(labels), **metrics, "same_error": same_error, "per_class": per_class}


def layerwise_cka(student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """CKA of every pair of layers, from features ``[n, width]`` by layer; ``None`` for less than 4 samples.

    Returns:
        ``student_layers`` and ``teacher_layers``; ``matrix``, see :func:`limbeck.evaluation.cka_matrix`;
        ``num_samples``.
    """
    num_samples = min(len(features) for features in (*student.values(), *teacher.values()))
    if num_samples < 4:
        return None
    return {
        "student_layers": list(student),
        "teacher_layers": list(teacher),
        "matrix": cka_matrix(student, teacher),
        "num_samples": num_samples,
    }
