"""Knowledge of relations between samples: how far apart they are (relational distillation, distances).

Park et al., CVPR 2019, https://arxiv.org/abs/1904.05068. With d the Euclidean distances of all pairs of a batch over
the mean of those above zero, the loss is the mean over pairs of the smooth L1 distance (½x² below 1, |x| − ½ above)
between the student's and the teacher's. The mean is over all batch² entries, each sample with itself among them, as in
the published code. That code clamps squared distances to 1e-12 and so counts duplicates as apart; here they are at 0.
The usual weight is 25.

A batch of B samples has B² relations: on several processes, each sees only those within its own share, unless the
objective gathers this term (``gather: true`` in a recipe).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor
from torch.nn import functional as F

from limbeck.core.loss_context import Exchange
from limbeck.losses._features import relations, samples

__all__ = ["RKDDistance", "rkd_distance"]


def rkd_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over all pairs of the smooth L1 distance between distances, each over the mean of its network's positive.

    Shapes: ``[batch, ...]`` of any rank; only the batch has to agree. Zero where the distances are proportional.

    >>> import torch
    >>> rkd_distance(torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[0.0], [1.0], [1.0]]))
    tensor(0.0972)
    """
    student, teacher = samples(student, teacher, what="rkd_distance")
    if not len(student):
        return student.sum()
    return F.smooth_l1_loss(_scaled(student), _scaled(teacher))


@final
@dataclass(frozen=True, slots=True)
class RKDDistance:
    """:func:`rkd_distance` between two tapped layers.

    Arguments:
        at: the name of the tap, given to the student and to the teacher alike.
        teacher: which teacher; ``None`` takes the combination of all.
    """

    at: str
    teacher: str | None = None

    def __call__(self, exchange: Exchange) -> Tensor:
        student, teacher = exchange.pair(self.teacher)
        return rkd_distance(student.tap(self.at), teacher.tap(self.at))


def _scaled(rows: Tensor) -> Tensor:
    _, distances, same = relations(rows)
    return distances * ((~same).sum() / distances.sum().masked_fill(same.all(), 1.0))
