"""Probabilistic knowledge transfer (PKT): neighbor probabilities of the samples of a batch.

Passalis & Tefas, ECCV 2018, https://arxiv.org/abs/1803.10837. The cosines of all pairs of a batch, moved to 0..1 by
(cosine + 1) / 2, are divided by the sum of their row, which makes each row a distribution over the batch: p the
teacher's, q the student's. The loss is the mean over batch² entries of p · log((p + ε) / (q + ε)), ε = 1e-7. The usual
weight is 30000. The mean over entries follows the published code; it
halves the loss of a repeated batch.

On several processes, each has only the pairs of its local batch, unless the objective gathers the batch
(``gather_distributed: true`` in a recipe).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final, final

from torch import Tensor
from torch.nn import functional as F

from limbeck.core.loss_context import LossContext
from limbeck.core.protocols import Loss
from limbeck.losses._features import feature_pair, flatten_samples

__all__ = ["PKTLoss", "pkt_loss"]

_EPSILON: Final = 1e-7


def pkt_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over all pairs of p · log((p + ε) / (q + ε)), p and q the batch's neighbourhoods.

    Shapes: ``[batch, ...]`` of any rank; only the batch has to agree. Zero where the angles between samples are the
    same.

    >>> import torch
    >>> pkt_loss(torch.eye(2), torch.ones(2, 2))
    tensor(0.0294)
    """
    student, teacher = flatten_samples(student, teacher, method="probability")
    if not len(student):
        return student.sum()
    q, p = _neighbor_probabilities(student), _neighbor_probabilities(teacher)
    return (p * ((p + _EPSILON) / (q + _EPSILON)).log()).mean()


@final
@dataclass(frozen=True, slots=True)
class PKTLoss(Loss):
    """:func:`pkt_loss` of one layer of student and teacher.

    Args:
        layer: name of the layer, the same for student and teacher.
        teacher: name of the teacher; ``None``: the ensemble of all.
    """

    knowledge: ClassVar = "relation"
    paper: ClassVar = "https://arxiv.org/abs/1803.10837"

    layer: str
    teacher: str | None = None

    def __call__(self, context: LossContext) -> Tensor:
        return pkt_loss(*feature_pair(self, context))


def _neighbor_probabilities(rows: Tensor) -> Tensor:
    unit = F.normalize(rows, dim=1)
    similarities = (unit @ unit.mT + 1) / 2
    return similarities / similarities.sum(dim=1, keepdim=True)
