"""How like its teacher a student answers, right or wrong (Stanton et al., *Does Knowledge Distillation Really Work?*).

https://arxiv.org/abs/2106.05945 calls the first figure average top-1 agreement, and shows that a student can be better
than one that is more like its teacher: so it stands beside the accuracy, and replaces none.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError
from limbeck.evaluation.checks import check_logits, labeled_mask
from limbeck.losses._ops import require_same_shape

__all__ = ["find_disagreements", "prediction_agreement"]

_KL_CHUNK_ROWS = 8192


def prediction_agreement(student_logits: Tensor, teacher_logits: Tensor, target: Tensor) -> dict[str, float | None]:
    """How often student and teacher choose the same class, how far apart they are, and who is wrong when.

    Args:
        student_logits: ``[n, classes]``.
        teacher_logits: ``[n, classes]``.
        target: ``[n]`` class numbers, −100 where there is no label.

    Returns:
        ``top1_agreement``, the share of all rows where both choose one class; ``kl``, the mean over all rows of
        KL(teacher ‖ student) at temperature 1, in nats; and, as shares of the labelled rows (``None`` without any),
        ``both_wrong``, ``student_only_wrong`` and ``teacher_only_wrong``.

    Raises:
        LimbeckError: no row, logits that are not finite, or shapes that do not fit.

    >>> student, teacher = torch.tensor([[0.0, 2.0], [0.0, 2.0]]), torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    >>> found = prediction_agreement(student, teacher, torch.tensor([0, 0]))
    >>> found["top1_agreement"], found["student_only_wrong"], found["both_wrong"], round(found["kl"], 4)
    (0.5, 0.5, 0.5, 0.7616)
    """
    student, teacher, is_labeled = _check_pair(student_logits, teacher_logits, target)
    student_class, teacher_class, labels = student.argmax(dim=1), teacher.argmax(dim=1), target.detach().cpu()
    student_wrong, teacher_wrong = (student_class != labels)[is_labeled], (teacher_class != labels)[is_labeled]
    return {
        "top1_agreement": _mean_or_none(student_class == teacher_class),
        "kl": _mean_kl(student, teacher),
        "both_wrong": _mean_or_none(student_wrong & teacher_wrong),
        "student_only_wrong": _mean_or_none(student_wrong & ~teacher_wrong),
        "teacher_only_wrong": _mean_or_none(~student_wrong & teacher_wrong),
    }


def find_disagreements(
    student_logits: Tensor, teacher_logits: Tensor, target: Tensor, *, limit: int = 12
) -> list[dict[str, Any]]:
    """The labelled rows where student and teacher choose different classes, where both are surest first.

    How sure both are is the smaller of their two largest probabilities; equal ones keep the order of the rows.

    Args:
        student_logits: ``[n, classes]``.
        teacher_logits: ``[n, classes]``.
        target: ``[n]`` class numbers, −100 where there is no label.
        limit: how many to give at most.

    Returns:
        For each its row ``index``, ``target``, the classes that ``teacher`` and ``student`` choose, and
        ``teacher_confidence`` and ``student_confidence``, the probabilities they give to their choice.

    >>> student, teacher = torch.tensor([[0.0, 2.0], [0.0, 2.0]]), torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    >>> found = find_disagreements(student, teacher, torch.tensor([0, 0]))
    >>> [(one["index"], one["student"], one["teacher"]) for one in found]
    [(0, 1, 0)]
    """
    if limit < 0:
        raise LimbeckError(f"limit is how many disagreements to give, 0 or more, not {limit}")
    student, teacher, is_labeled = _check_pair(student_logits, teacher_logits, target)
    indices = ((student.argmax(dim=1) != teacher.argmax(dim=1)) & is_labeled).nonzero()[:, 0]
    student_confidence, student_class = F.softmax(student[indices].double(), dim=1).max(dim=1)
    teacher_confidence, teacher_class = F.softmax(teacher[indices].double(), dim=1).max(dim=1)
    order = torch.minimum(student_confidence, teacher_confidence).argsort(descending=True, stable=True)[:limit].tolist()
    labels = target.detach().cpu()
    return [
        {
            "index": int(indices[i]),
            "target": int(labels[indices[i]]),
            "teacher": int(teacher_class[i]),
            "student": int(student_class[i]),
            "teacher_confidence": float(teacher_confidence[i]),
            "student_confidence": float(student_confidence[i]),
        }
        for i in order
    ]


def _check_pair(student: Tensor, teacher: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    student, teacher = check_logits(student, owner="the student's"), check_logits(teacher, owner="the teacher's")
    require_same_shape(student, teacher, name="logits", hint="both must answer the same rows with the same classes")
    if not len(student):
        raise LimbeckError("there is nothing to compare on: the part has no row")
    return student, teacher, labeled_mask(target, num_rows=len(student), num_classes=student.shape[1])


def _mean_kl(student: Tensor, teacher: Tensor) -> float:
    total = 0.0
    for student_chunk, teacher_chunk in zip(
        torch.split(student, _KL_CHUNK_ROWS), torch.split(teacher, _KL_CHUNK_ROWS), strict=True
    ):
        log_q, log_p = F.log_softmax(student_chunk.double(), dim=1), F.log_softmax(teacher_chunk.double(), dim=1)
        total += float(F.kl_div(log_q, log_p, reduction="sum", log_target=True))
    # Rounding can bring two equal answers to −1e−17, which no divergence is.
    return max(total, 0.0) / len(student)


def _mean_or_none(mask: Tensor) -> float | None:
    return float(mask.double().mean()) if len(mask) else None
