"""Cross-entropy with class indices or class probabilities.

Rows whose target is −100, or probabilities that are all zero, are excluded from the mean; without any label
the loss is zero. Label smoothing: Szegedy et al. (2016), https://arxiv.org/abs/1512.00567.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final, final

from torch import Tensor
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import LossContext
from limbeck.core.protocols import Loss
from limbeck.losses._ops import upcast

__all__ = ["IGNORE_INDEX", "CrossEntropyLoss", "cross_entropy_loss"]

IGNORE_INDEX: Final = -100


def cross_entropy_loss(student: Tensor, target: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Mean over the labeled rows of −log q(target), in nats.

    Shapes: ``student`` ``[rows, classes]`` logits; ``target`` ``[rows]`` class numbers (−100: no label) or
    ``[rows, classes]`` probabilities (all zero: no label).

    >>> import torch
    >>> cross_entropy_loss(torch.tensor([[2.0, 0.0], [0.0, 9.0]]), torch.tensor([0, -100]))
    tensor(0.1269)
    """
    if len(student) != len(target):
        raise LimbeckError(f"the student answered {len(student)} rows and the target has {len(target)}")
    if target.ndim == 1 and target.is_floating_point():
        raise LimbeckError(f"class numbers are integers, and these targets are {target.dtype}: give target.long()")
    student, classes = upcast(student), student.shape[1]
    if target.ndim == 2:
        if target.shape[1] != classes:
            raise LimbeckError(f"the student knows {classes} classes and the target has {target.shape[1]}")
        probabilities = target.to(student) * (1 - label_smoothing) + label_smoothing / classes
        # A class of probability 0 and logit −inf contributes 0, not 0 · inf.
        log_q = F.log_softmax(student, dim=1).masked_fill(probabilities == 0, 0.0)
        is_labeled = (target != 0).any(dim=1)
        return -(probabilities * log_q).sum(dim=1).masked_fill(~is_labeled, 0.0).sum() / is_labeled.sum().clamp(min=1)
    total = F.cross_entropy(
        student, target.long(), label_smoothing=label_smoothing, ignore_index=IGNORE_INDEX, reduction="sum"
    )
    return total / (target != IGNORE_INDEX).sum().clamp(min=1)


@final
@dataclass(frozen=True, slots=True)
class CrossEntropyLoss(Loss):
    """:func:`cross_entropy_loss` of the student's logits with the target.

    Args:
        label_smoothing: weight of the uniform distribution, from 0 to below 1.
    """

    knowledge: ClassVar = "label"
    paper: ClassVar = "https://arxiv.org/abs/1512.00567"
    needs_target: ClassVar = True
    supervised: ClassVar = True
    needs_teacher: ClassVar = False

    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise LimbeckError(f"label smoothing is a share from 0 to below 1, not {self.label_smoothing}")

    def __call__(self, context: LossContext) -> Tensor:
        return cross_entropy_loss(
            context.student.require_logits(), context.require_target(), label_smoothing=self.label_smoothing
        )
