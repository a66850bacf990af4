"""Relational knowledge distillation (RKD), angles of triplets of samples.

Park et al., CVPR 2019, https://arxiv.org/abs/1904.05068. For every triplet i, j, k of a batch, the cosine of the angle
at j, (x_i − x_j)·(x_k − x_j) over both lengths, is compared by the smooth L1 distance (½x² below 1, |x| − ½ above); the
loss is the mean over all batch³ entries. Where two of the three coincide, the cosine is 0, as in the published
code. The usual weight is 50.

The published code holds the differences of all pairs, [batch, batch, values]; here the cosines come from the Gram
matrix, so memory does not grow with the width of the features. On
several processes, each has only the triplets of its local batch, unless the objective gathers the batch
(``gather_distributed: true`` in a recipe).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor
from torch.nn import functional as F

from limbeck.core.loss_context import LossContext
from limbeck.core.protocols import Loss
from limbeck.losses._features import feature_pair, flatten_samples, pairwise_relations

__all__ = ["RKDAngleLoss", "rkd_angle_loss"]


def rkd_angle_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over all triplets of the smooth L1 distance between the cosines of their angles.

    Shapes: ``[batch, ...]`` of any rank; only the batch has to agree. Zero where one is the other turned, moved or
    scaled.

    >>> import torch
    >>> rkd_angle_loss(torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.0], [1.0], [2.0]]))
    tensor(0.1296)
    """
    student, teacher = flatten_samples(student, teacher, method="rkd_angle")
    if not len(student):
        return student.sum()
    return F.smooth_l1_loss(_angle_cosines(student), _angle_cosines(teacher))


@final
@dataclass(frozen=True, slots=True)
class RKDAngleLoss(Loss):
    """:func:`rkd_angle_loss` of one layer of student and teacher.

    Args:
        layer: name of the layer, the same for student and teacher.
        teacher: name of the teacher; ``None``: the ensemble of all.
    """

    knowledge: ClassVar = "relation"
    paper: ClassVar = "https://arxiv.org/abs/1904.05068"

    layer: str
    teacher: str | None = None

    def __call__(self, context: LossContext) -> Tensor:
        return rkd_angle_loss(*feature_pair(self, context))


def _angle_cosines(rows: Tensor) -> Tensor:
    """``[at, from, to]``: (x_i − x_j)·(x_k − x_j) = x_i·x_k − x_i·x_j − x_j·x_k + x_j·x_j, over both lengths."""
    gram, distances, same = pairwise_relations(rows)
    inverse = distances.masked_fill(same, 1.0).reciprocal().masked_fill(same, 0.0)
    half_difference = gram.diagonal().unsqueeze(1) / 2 - gram
    numerator = gram.unsqueeze(0) + half_difference.unsqueeze(2) + half_difference.unsqueeze(1)
    return numerator * inverse.unsqueeze(2) * inverse.unsqueeze(1)
