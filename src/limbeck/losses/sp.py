"""Similarity-preserving distillation (SP): row-normalized similarity matrices of a batch.

Tung & Mori, ICCV 2019, https://arxiv.org/abs/1907.09682. The features of a batch, flattened to ``[batch, values]``,
give F·Fᵀ, whose rows are L2-normalized; the loss is the squared Frobenius distance between the student's and the
teacher's, over batch². On several processes each has only the relations of its local batch, unless the objective
gathers it (``gather_distributed: true`` in a recipe).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor
from torch.nn import functional as F

from limbeck.losses._bases import FeatureLoss
from limbeck.losses._features import flatten_samples


def sp_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """‖S − T‖² / batch², with S and T the row-normalized F·Fᵀ of student and teacher.

    Shapes: ``[batch, ...]`` of any rank; only the batch must agree. Repeating a batch halves the loss, as in the paper.

    >>> import torch
    >>> sp_loss(torch.eye(2), torch.ones(2, 2))
    tensor(0.2929)
    """
    student, teacher = flatten_samples(student, teacher, method="sp")
    difference = _similarity_matrix(student) - _similarity_matrix(teacher)
    return difference.square().sum() / max(len(student), 1) ** 2


@final
@dataclass(frozen=True)
class SPLoss(FeatureLoss):
    """:func:`sp_loss` of one layer of student and teacher."""

    knowledge: ClassVar = "relation"
    paper: ClassVar = "https://arxiv.org/abs/1907.09682"
    fn: ClassVar = staticmethod(sp_loss)


def _similarity_matrix(rows: Tensor) -> Tensor:
    """Row-normalized F·Fᵀ, ``[batch, batch]``."""
    return F.normalize(rows @ rows.mT, dim=1)
