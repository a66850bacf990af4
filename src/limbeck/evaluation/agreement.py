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
from limbeck.evaluation.checks import checked, labelled
from limbeck.losses._ops import require_same_shape

__all__ = ["agreement", "disagreements"]

_CHUNK = 8192


def agreement(student_logits: Tensor, teacher_logits: Tensor, target: Tensor) -> dict[str, float | None]:
    """How often student and teacher choose the same class, how far apart they are, and who is wrong when.

    Args:
        student_logits: ``[n, classes]``.
        teacher_logits: ``[n, classes]``.
        target: ``[n]`` class numbers, −100 where there is no label.

    Returns:
        ``top1``, the share of all rows where both choose one class; ``kl``, the mean over all rows of
        KL(teacher ‖ student) at temperature 1, in nats; and, as shares of the labelled rows (``None`` without any),
        ``both_wrong``, ``student_only_wrong`` and ``teacher_only_wrong``.

    Raises:
        LimbeckError: no row, logits that are not finite, or shapes that do not fit.

    >>> student, teacher = torch.tensor([[0.0, 2.0], [0.0, 2.0]]), torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    >>> found = agreement(student, teacher, torch.tensor([0, 0]))
    >>> found["top1"], found["student_only_wrong"], found["both_wrong"], round(found["kl"], 4)
    (0.5, 0.5, 0.5, 0.7616)
    """
    student, teacher, known = _pair(student_logits, teacher_logits, target)
    said, taught, truth = student.argmax(dim=1), teacher.argmax(dim=1), target.detach().cpu()
    wrong, taught_wrong = (said != truth)[known], (taught != truth)[known]
    return {
        "top1": _share(said == taught),
        "kl": _kl(student, teacher),
        "both_wrong": _share(wrong & taught_wrong),
        "student_only_wrong": _share(wrong & ~taught_wrong),
        "teacher_only_wrong": _share(~wrong & taught_wrong),
    }


def disagreements(
    student_logits: Tensor, teacher_logits: Tensor, target: Tensor, *, most: int = 12
) -> list[dict[str, Any]]:
    """The labelled rows where student and teacher choose different classes, where both are surest first.

    How sure both are is the smaller of their two largest probabilities; equal ones keep the order of the rows.

    Args:
        student_logits: ``[n, classes]``.
        teacher_logits: ``[n, classes]``.
        target: ``[n]`` class numbers, −100 where there is no label.
        most: how many to give at most.

    Returns:
        For each its row ``index``, ``target``, the classes that ``teacher`` and ``student`` choose, and
        ``teacher_confidence`` and ``student_confidence``, the probabilities they give to their choice.

    >>> student, teacher = torch.tensor([[0.0, 2.0], [0.0, 2.0]]), torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    >>> found = disagreements(student, teacher, torch.tensor([0, 0]))
    >>> [(one["index"], one["student"], one["teacher"]) for one in found]
    [(0, 1, 0)]
    """
    if most < 0:
        raise LimbeckError(f"most is how many disagreements to give, 0 or more, not {most}")
    student, teacher, known = _pair(student_logits, teacher_logits, target)
    places = ((student.argmax(dim=1) != teacher.argmax(dim=1)) & known).nonzero()[:, 0]
    sure, said = F.softmax(student[places].double(), dim=1).max(dim=1)
    sure_teacher, taught = F.softmax(teacher[places].double(), dim=1).max(dim=1)
    order = torch.minimum(sure, sure_teacher).argsort(descending=True, stable=True)[:most].tolist()
    truth = target.detach().cpu()
    return [
        {
            "index": int(places[i]),
            "target": int(truth[places[i]]),
            "teacher": int(taught[i]),
            "student": int(said[i]),
            "teacher_confidence": float(sure_teacher[i]),
            "student_confidence": float(sure[i]),
        }
        for i in order
    ]


def _pair(student: Tensor, teacher: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    student, teacher = checked(student, whose="the student's"), checked(teacher, whose="the teacher's")
    require_same_shape(student, teacher, what="logits", hint="both must answer the same rows with the same classes")
    if not len(student):
        raise LimbeckError("there is nothing to compare on: the part has no row")
    return student, teacher, labelled(target, rows=len(student), classes=student.shape[1])


def _kl(student: Tensor, teacher: Tensor) -> float:
    total = 0.0
    for said, taught in zip(torch.split(student, _CHUNK), torch.split(teacher, _CHUNK), strict=True):
        log_q, log_p = F.log_softmax(said.double(), dim=1), F.log_softmax(taught.double(), dim=1)
        total += float(F.kl_div(log_q, log_p, reduction="sum", log_target=True))
    # Rounding can bring two equal answers to −1e−17, which no divergence is.
    return max(total, 0.0) / len(student)


def _share(which: Tensor) -> float | None:
    return float(which.double().mean()) if len(which) else None
