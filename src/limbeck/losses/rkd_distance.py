"""Relational knowledge distillation (RKD), distances of pairs of samples.

Park et al., CVPR 2019, https://arxiv.org/abs/1904.05068. With d the Euclidean distances of all pairs of a batch over
the mean of those above zero, the loss is the mean over pairs of the smooth L1 distance (½x² below 1, |x| − ½ above)
between the student's and the teacher's. The mean is over all batch² entries, including the diagonal, as in the
published code. That code clamps squared distances to 1e-12; here duplicates have distance 0.
The usual weight is 25.

A batch of B samples has B² relations: on several processes, each has only those of its local batch, unless the
objective gathers this term (``gather_distributed: true`` in a recipe).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor
from torch.nn import functional as F

from limbeck.core.loss_context import LossContext
from limbeck.core.protocols import Loss
from limbeck.losses._features import feature_pair, flatten_samples, pairwise_relations

__all__ = ["RKDDistanceLoss", "rkd_distance_loss"]


def rkd_distance_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over all pairs of the smooth L1 distance between distances, each over the mean of its network's positive.

    Shapes: ``[batch, ...]`` of any rank; only the batch has to agree. Zero where the distances are proportional.

    >>> import torch
    >>> rkd_distance_loss(torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[0.0], [1.0], [1.0]]))
    tensor(0.0972)
    """
    student, teacher = flatten_samples(student, teacher, method="rkd_distance")
    if not len(student):
        return student.sum()
    return F.smooth_l1_loss(_normalized_distances(student), _normalized_distances(teacher))


@final
@dataclass(frozen=True, slots=True)
class RKDDistanceLoss(Loss):
    """:func:`rkd_distance_loss` of one layer of student and teacher.

    Args:
        layer: name of the layer, the same for student and teacher.
        teacher: name of the teacher; ``None``: the ensemble of all.
    """

    knowledge: ClassVar = "relation"
    paper: ClassVar = "https://arxiv.org/abs/1904.05068"

    layer: str
    teacher: str | None = None

    def __call__(self, context: LossContext) -> Tensor:
        return rkd_distance_loss(*feature_pair(self, context))


def _normalized_distances(rows: Tensor) -> Tensor:
    _, distances, same = pairwise_relations(rows)
    return distances * ((~same).sum() / distances.sum().masked_fill(same.all(), 1.0))
