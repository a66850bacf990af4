"""Deep mutual learning (DML): students that train together distill from each other.

Zhang et al., CVPR 2018, https://arxiv.org/abs/1706.00384. The loss of student k is 1/(K − 1) · Σ over the other
students j of τ² · KL(p_j ‖ p_k), without a gradient to j, added to its cross-entropy; the paper has τ = 1 and updates
one student after the other, here all are updated in one step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import ClassVar, final

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import LossContext
from limbeck.core.protocols import Loss
from limbeck.core.schedules import Schedule, resolve
from limbeck.losses._logits import clamped_log_softmax, kl_by_row, require_temperature
from limbeck.losses._ops import require_interval, require_same_shape, row_mean, upcast


def dml_loss(students: Sequence[Tensor], *, temperature: float = 1.0) -> Tensor:
    """Mean over students, their rows and the others j of KL(j ‖ student), times ``temperature ** 2``; no gradient to j.

    Shapes: each ``[rows, classes]`` logits; at least two. Zero where they agree; in nats.

    >>> dml_loss([torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 0.0]])])
    tensor(0.3808)
    """
    require_interval("the number of students", len(students), "[2, inf)")
    require_temperature(temperature)
    for student in students[1:]:
        require_same_shape(
            students[0], student, name="logits", hint="students need the same rows with the same classes"
        )
    log_probs = [clamped_log_softmax(upcast(logits), temperature) for logits in students]
    losses = [row_mean(kl_by_row(log_q, log_p.detach())) for log_q, log_p in permutations(log_probs, 2)]
    return torch.stack(losses).mean() * temperature**2


@final
@dataclass(frozen=True)
class DMLLoss(Loss):
    """:func:`dml_loss` of students whose rows are concatenated, see ``limbeck.distiller.PeerStudents``.

    Args:
        num_peers: number of students.
        temperature: a number above zero, or a schedule.
    """

    knowledge: ClassVar = "self"
    uses_softmax: ClassVar = True
    paper: ClassVar = "https://arxiv.org/abs/1706.00384"
    needs_teacher: ClassVar = False
    fn: ClassVar = staticmethod(dml_loss)

    num_peers: int = 2
    temperature: float | Schedule = 1.0

    def __post_init__(self) -> None:
        require_interval("num_peers", self.num_peers, "[2, inf)")
        require_temperature(self.temperature)

    def __call__(self, context: LossContext) -> Tensor:
        rows, target = context.student.require_logits(), context.target
        count = len(rows) // self.num_peers
        same_targets = target is None or torch.equal(target[count:], target[:-count] if count else target)
        if count * self.num_peers != len(rows) or not same_targets:
            raise LimbeckError(
                f"DMLLoss compares the rows of {self.num_peers} students for one batch, got {len(rows)} rows that are "
                "not theirs: give the students as peers (limbeck.workflows.distill.mutual_learning, or `peers` in a "
                "recipe)"
            )
        if not count:
            return rows.sum()
        return dml_loss(torch.split(rows, count), temperature=resolve(self.temperature, context.progress))
