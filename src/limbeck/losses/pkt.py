"""Probabilistic knowledge transfer (PKT): neighbor probabilities of the samples of a batch.

Passalis & Tefas, ECCV 2018, https://arxiv.org/abs/1803.10837. The cosines of all pairs of a batch, moved to 0..1 by
(cosine + 1) / 2, are divided by the sum of their row, which makes each row a distribution over the batch: p the
teacher's, q the student's. The loss is the mean over batch² entries of p · log((p + ε) / (q + ε)), ε = 1e-7, as in the
published code. The usual weight is 30000. On several processes each has only the pairs of its local batch, unless the
objective gathers it (``gather_distributed: true`` in a recipe).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final, final

from torch import Tensor
from torch.nn import functional as F

from limbeck.losses._bases import FeatureLoss
from limbeck.losses._features import flatten_samples

_EPSILON: Final = 1e-7


def pkt_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over all pairs of p · log((p + ε) / (q + ε)), p and q the neighbor probabilities of the batch.

    Shapes: ``[batch, ...]`` of any rank; only the batch must agree. Zero where the angles between samples are equal.
    Repeating a batch halves the loss.

    >>> import torch
    >>> pkt_loss(torch.eye(2), torch.ones(2, 2))
    tensor(0.0294)
    """
    student, teacher = flatten_samples(student, teacher, method="pkt")
    if not len(student):
        return student.sum()
    q, p = _neighbor_probabilities(student), _neighbor_probabilities(teacher)
    return (p * ((p + _EPSILON) / (q + _EPSILON)).log()).mean()


@final
@dataclass(frozen=True)
class PKTLoss(FeatureLoss):
    """:func:`pkt_loss` of one layer of student and teacher."""

    knowledge: ClassVar = "relation"
    paper: ClassVar = "https://arxiv.org/abs/1803.10837"
    fn: ClassVar = staticmethod(pkt_loss)


def _neighbor_probabilities(rows: Tensor) -> Tensor:
    unit = F.normalize(rows, dim=1)
    similarities = (unit @ unit.mT + 1) / 2
    return similarities / similarities.sum(dim=1, keepdim=True)
