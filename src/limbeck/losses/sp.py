"""Similarity-preserving distillation (SP): row-normalized similarity matrices of a batch.

Tung & Mori, ICCV 2019, https://arxiv.org/abs/1907.09682. The features of a batch, flattened to ``[batch, values]``,
give F·Fᵀ, whose rows are L2-normalized; the loss
is the squared Frobenius distance between the student's and the teacher's, over batch². Any two layers can be
compared without a projection.

A batch of B samples has B² relations: on several processes, each has only those of its local batch, unless the
objective gathers this term (``gather_distributed: true`` in a recipe).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import LossContext
from limbeck.core.protocols import Loss
from limbeck.losses._features import feature_pair
from limbeck.losses._ops import upcast

__all__ = ["SPLoss", "sp_loss"]


def sp_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """‖S − T‖² / batch², with S and T the row-normalized F·Fᵀ of student and teacher.

    Shapes: ``[batch, ...]`` of any rank; only the batch has to agree. The same samples twice over cost half, as in the
    paper: an entry of a row of twice the length is smaller by √2.

    >>> import torch
    >>> sp_loss(torch.eye(2), torch.ones(2, 2))
    tensor(0.2929)
    """
    if len(student) != len(teacher):
        raise LimbeckError(
            f"similarity compares one batch with itself, and the student's features are of {len(student)} samples and "
            f"the teacher's of {len(teacher)}: tap layers that give [batch, ...]"
        )
    difference = _similarity_matrix(upcast(student)) - _similarity_matrix(upcast(teacher).detach())
    return difference.square().sum() / max(len(student), 1) ** 2


@final
@dataclass(frozen=True, slots=True)
class SPLoss(Loss):
    """:func:`sp_loss` of one layer of student and teacher.

    Args:
        layer: name of the layer, the same for student and teacher.
        teacher: name of the teacher; ``None``: the ensemble of all.
    """

    knowledge: ClassVar = "relation"
    paper: ClassVar = "https://arxiv.org/abs/1907.09682"

    layer: str
    teacher: str | None = None

    def __call__(self, context: LossContext) -> Tensor:
        return sp_loss(*feature_pair(self, context))


def _similarity_matrix(features: Tensor) -> Tensor:
    """Row-normalized F·Fᵀ, ``[batch, batch]``."""
    rows = features.flatten(1) if features.ndim > 1 else features.unsqueeze(1)
    return F.normalize(rows @ rows.mT, p=2.0, dim=1)
