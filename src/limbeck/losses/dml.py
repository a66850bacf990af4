"""Deep mutual learning (DML): students that train together distill from each other.

Zhang et al., CVPR 2018, https://arxiv.org/abs/1706.00384. The loss of student k is 1/(K − 1) · Σ over the other
students j of τ² · KL(p_j ‖ p_k), without a gradient to j, added to its cross-entropy; the paper has τ = 1. The paper
updates one student after the other and recomputes the predictions in between; here all are updated in one step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import LossContext
from limbeck.core.protocols import Loss
from limbeck.core.schedules import Schedule, resolve
from limbeck.losses._ops import require_same_shape, upcast

__all__ = ["DMLLoss", "dml_loss"]


def dml_loss(students: Sequence[Tensor], *, temperature: float = 1.0) -> Tensor:
    """Mean over students, their rows and the others j of KL(j ‖ student), times ``temperature ** 2``; no gradient to j.

    Shapes: each ``[rows, classes]`` logits; at least two. Zero where they agree; in nats.

    >>> dml_loss([torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 0.0]])])
    tensor(0.3808)
    """
    if len(students) < 2:
        raise LimbeckError(f"mutual learning takes at least two students, not {len(students)}")
    if not 0 < temperature < math.inf:
        raise LimbeckError(f"a temperature is a number above zero, and here it is {temperature}")
    for student in students[1:]:
        require_same_shape(
            students[0], student, name="logits", hint="students answer the same rows with the same classes"
        )
    # A class that is ruled out has p = 0 and log p = −inf; its share is 0, not 0 · inf.
    log_probs = [
        F.log_softmax(logits / temperature, dim=1).clamp(min=torch.finfo(logits.dtype).min)
        for logits in (upcast(s) for s in students)
    ]
    pairs = [
        (student_log_probs, peer_log_probs.detach())
        for k, student_log_probs in enumerate(log_probs)
        for j, peer_log_probs in enumerate(log_probs)
        if j != k
    ]
    total = torch.stack(
        [
            F.kl_div(student_log_probs, peer_log_probs, reduction="sum", log_target=True)
            for student_log_probs, peer_log_probs in pairs
        ]
    ).sum()
    return total * (temperature**2 / (len(pairs) * max(len(log_probs[0]), 1)))


@final
@dataclass(frozen=True, slots=True)
class DMLLoss(Loss):
    """:func:`dml_loss` of students whose rows are concatenated.

    See ``limbeck.distiller.PeerStudents``.

    Args:
        num_peers: number of students.
        temperature: the temperature, above zero: a number, or a schedule.
    """

    knowledge: ClassVar = "self"
    paper: ClassVar = "https://arxiv.org/abs/1706.00384"
    needs_teacher: ClassVar = False

    num_peers: int = 2
    temperature: float | Schedule = 1.0

    def __post_init__(self) -> None:
        if self.num_peers < 2:
            raise LimbeckError(f"mutual learning takes at least two students, not {self.num_peers}")
        if not callable(self.temperature) and not 0 < self.temperature < math.inf:
            raise LimbeckError(f"a temperature is a number above zero, not {self.temperature}")

    def __call__(self, context: LossContext) -> Tensor:
        rows, target = context.student.require_logits(), context.target
        rows_per_student = len(rows) // self.num_peers
        same_targets = target is None or torch.equal(
            target[rows_per_student:], target[:-rows_per_student] if rows_per_student else target
        )
        if rows_per_student * self.num_peers != len(rows) or not same_targets:
            raise LimbeckError(
                f"DMLLoss compares {self.num_peers} students that answered one batch, and these {len(rows)} rows "
                "are not "
                "theirs: give the students as peers (limbeck.workflows.distill.mutual_learning, or `peers` in a recipe)"
            )
        return (
            dml_loss(torch.split(rows, rows_per_student), temperature=resolve(self.temperature, context.progress))
            if rows_per_student
            else rows.sum()
        )
