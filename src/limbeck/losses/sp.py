"""Knowledge of relations between samples: which pictures of a batch look alike (similarity-preserving distillation).

Tung & Mori, ICCV 2019, https://arxiv.org/abs/1907.09682. The features of a batch, flattened to ``[batch, values]``,
give F·Fᵀ, whose rows are made of length 1 (in the Euclidean norm: ``normalize(x, 1)`` would be another one); the loss
is the squared Frobenius distance between the student's and the teacher's, over batch². Channels, positions and their
order are multiplied away, so any two layers can be compared, without a projection.

A batch of B samples has B² relations: on several processes, each sees only those within its own share, unless the
objective gathers this term (``gather: true`` in a recipe).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import Exchange
from limbeck.losses._autograd import products
from limbeck.losses._ops import widen

__all__ = ["Similarity", "similarity"]


def similarity(student: Tensor, teacher: Tensor) -> Tensor:
    """‖S − T‖² / batch², with S and T the row-normalised F·Fᵀ of student and teacher.

    Shapes: ``[batch, ...]`` of any rank; only the batch has to agree. The same samples twice over cost half, as in the
    paper: an entry of a row of twice the length is smaller by √2.

    >>> import torch
    >>> similarity(torch.eye(2), torch.ones(2, 2))
    tensor(0.2929)
    """
    if len(student) != len(teacher):
        raise LimbeckError(
            f"similarity compares one batch with itself, and the student's features are of {len(student)} samples and "
            f"the teacher's of {len(teacher)}: tap layers that give [batch, ...]"
        )
    difference = _alike(widen(student)) - _alike(widen(teacher).detach())
    return difference.square().sum() / max(len(student), 1) ** 2


@final
@dataclass(frozen=True, slots=True)
class Similarity:
    """:func:`similarity` between two tapped layers.

    Arguments:
        at: the name of the tap, given to the student and to the teacher alike.
        teacher: which teacher; ``None`` takes the combination of all.
    """

    at: str
    teacher: str | None = None

    def __call__(self, exchange: Exchange) -> Tensor:
        student, teacher = exchange.pair(self.teacher)
        return similarity(student.tap(self.at), teacher.tap(self.at))


def _alike(features: Tensor) -> Tensor:
    """Row-normalised F·Fᵀ, ``[batch, batch]``."""
    rows = features.flatten(1) if features.ndim > 1 else features.unsqueeze(1)
    return F.normalize(products(rows), p=2.0, dim=1)
