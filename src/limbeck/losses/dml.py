"""Knowledge between students that learn together: each agrees with what the others say now (deep mutual learning, DML).

Zhang et al., CVPR 2018, https://arxiv.org/abs/1706.00384. Student k pays 1/(K − 1) · Σ over the others j of
τ² · KL(p_j ‖ p_k) beside its cross-entropy; the paper has no temperature, which is τ 1. No gradient goes from one to
the other. The paper moves one student after the other and computes the answers anew between; here all move in one
step, which costs one forward pass each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import Exchange
from limbeck.core.schedules import Schedule, at
from limbeck.losses._ops import require_same_shape, widen

__all__ = ["Mutual", "mutual"]


def mutual(students: Sequence[Tensor], *, tau: float = 1.0) -> Tensor:
    """Mean over students, their rows and the others j of KL(j ‖ student), times ``tau ** 2``; no gradient to j.

    Shapes: each ``[rows, classes]`` logits; at least two. Zero where they agree; in nats.

    >>> mutual([torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 0.0]])])
    tensor(0.3808)
    """
    if len(students) < 2:
        raise LimbeckError(f"mutual learning takes at least two students, not {len(students)}")
    if not 0 < tau < math.inf:
        raise LimbeckError(f"a temperature is a number above zero, and here it is {tau}")
    for other in students[1:]:
        require_same_shape(
            students[0], other, what="logits", hint="students answer the same rows with the same classes"
        )
    # A class that is ruled out has p = 0 and log p = −inf; its share is 0, not 0 · inf.
    logs = [
        F.log_softmax(one / tau, dim=1).clamp(min=torch.finfo(one.dtype).min) for one in (widen(s) for s in students)
    ]
    pairs = [(mine, said.detach()) for k, mine in enumerate(logs) for j, said in enumerate(logs) if j != k]
    total = torch.stack([F.kl_div(mine, said, reduction="sum", log_target=True) for mine, said in pairs]).sum()
    return total * (tau**2 / (len(pairs) * max(len(logs[0]), 1)))


@final
@dataclass(frozen=True, slots=True)
class Mutual:
    """:func:`mutual` of students that learn together, whose rows stand one student after the other.

    ``limbeck.distiller.Peers`` gives them so.

    Arguments:
        peers: how many students there are.
        tau: the temperature, above zero: a number, or a schedule.
    """

    peers: int = 2
    tau: float | Schedule = 1.0

    def __post_init__(self) -> None:
        if self.peers < 2:
            raise LimbeckError(f"mutual learning takes at least two students, not {self.peers}")
        if not callable(self.tau) and not 0 < self.tau < math.inf:
            raise LimbeckError(f"a temperature is a number above zero, not {self.tau}")

    def __call__(self, exchange: Exchange) -> Tensor:
        rows, target = exchange.student.rows(), exchange.target
        each = len(rows) // self.peers
        alike = target is None or torch.equal(target[each:], target[:-each] if each else target)
        if each * self.peers != len(rows) or not alike:
            raise LimbeckError(
                f"Mutual compares {self.peers} students that answered one batch, and these {len(rows)} rows are not "
                "theirs: give the students as peers (limbeck.workflows.distill.mutual_learning, or `peers` in a recipe)"
            )
        return mutual(torch.split(rows, each), tau=at(self.tau, exchange.progress)) if each else rows.sum()
