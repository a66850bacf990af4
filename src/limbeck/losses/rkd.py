"""Relational knowledge distillation (RKD): distances of pairs and angles of triplets of samples.

Park et al., CVPR 2019, https://arxiv.org/abs/1904.05068. Both compare the relations within a batch by the smooth L1
distance (½x² below 1, |x| − ½ above), mean over all entries, including the diagonal, as in the published code:

    distance  Euclidean distances of all pairs over the mean of those above zero; the usual weight is 25
    angle     cosine of the angle at j of every triplet i, j, k: (x_i − x_j)·(x_k − x_j) over both lengths; 0 where two
              of the three coincide; the usual weight is 50

Both come from the Gram matrix, so memory does not grow with the width of the features. On several processes each has
only the relations of its local batch, unless the objective gathers it (``gather_distributed: true`` in a recipe).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor
from torch.nn import functional as F

from limbeck.losses._bases import FeatureLoss
from limbeck.losses._features import flatten_samples, pairwise_relations


def rkd_distance_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over all pairs of the smooth L1 distance between normalized distances.

    Shapes: ``[batch, ...]`` of any rank; only the batch must agree. Zero where the distances are proportional.

    >>> import torch
    >>> rkd_distance_loss(torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[0.0], [1.0], [1.0]]))
    tensor(0.0972)
    """
    student, teacher = flatten_samples(student, teacher, method="rkd_distance")
    if not len(student):
        return student.sum()
    return F.smooth_l1_loss(_normalized_distances(student), _normalized_distances(teacher))


def rkd_angle_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over all triplets of the smooth L1 distance between the cosines of their angles.

    Shapes: ``[batch, ...]`` of any rank; only the batch must agree. Zero where one is the other rotated, moved or
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
@dataclass(frozen=True)
class RKDDistanceLoss(FeatureLoss):
    """:func:`rkd_distance_loss` of one layer of student and teacher."""

    knowledge: ClassVar = "relation"
    paper: ClassVar = "https://arxiv.org/abs/1904.05068"
    fn: ClassVar = staticmethod(rkd_distance_loss)


@final
@dataclass(frozen=True)
class RKDAngleLoss(FeatureLoss):
    """:func:`rkd_angle_loss` of one layer of student and teacher."""

    knowledge: ClassVar = "relation"
    paper: ClassVar = "https://arxiv.org/abs/1904.05068"
    fn: ClassVar = staticmethod(rkd_angle_loss)


def _normalized_distances(rows: Tensor) -> Tensor:
    _, distances, same = pairwise_relations(rows)
    return distances * ((~same).sum() / distances.sum().masked_fill(same.all(), 1.0))


def _angle_cosines(rows: Tensor) -> Tensor:
    """``[at, from, to]``: (x_i − x_j)·(x_k − x_j) = x_i·x_k − x_i·x_j − x_j·x_k + x_j·x_j, over both lengths."""
    gram, distances, same = pairwise_relations(rows)
    inverse = distances.masked_fill(same, 1.0).reciprocal().masked_fill(same, 0.0)
    half_difference = gram.diagonal().unsqueeze(1) / 2 - gram
    numerator = gram.unsqueeze(0) + half_difference.unsqueeze(2) + half_difference.unsqueeze(1)
    return numerator * inverse.unsqueeze(2) * inverse.unsqueeze(1)
