"""Cross-entropy with class indices or class probabilities.

Rows whose target is −100, or probabilities that are all zero, are excluded from the mean; without any label
the loss is zero. Label smoothing: Szegedy et al. (2016), https://arxiv.org/abs/1512.00567.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from limbeck.core.loss_context import LossContext
from limbeck.core.protocols import Loss
from limbeck.losses._logits import cross_entropy, require_target_rows
from limbeck.losses._ops import require_interval, upcast


def cross_entropy_loss(student: Tensor, target: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Mean over the labeled rows of −log q(target), in nats.

    Shapes: ``student`` ``[rows, classes]`` logits; ``target`` ``[rows]`` class indices (−100: no label) or
    ``[rows, classes]`` probabilities (all zero: no label).

    >>> import torch
    >>> cross_entropy_loss(torch.tensor([[2.0, 0.0], [0.0, 9.0]]), torch.tensor([0, -100]))
    tensor(0.1269)
    """
    require_target_rows(student, target)
    return cross_entropy(upcast(student), target, label_smoothing=label_smoothing)


@final
@dataclass(frozen=True)
class CrossEntropyLoss(Loss):
    """:func:`cross_entropy_loss` of the student's logits with the target.

    Args:
        label_smoothing: weight of the uniform distribution, from 0 to below 1.
    """

    knowledge: ClassVar = "label"
    uses_softmax: ClassVar = True
    paper: ClassVar = "https://arxiv.org/abs/1512.00567"
    needs_target: ClassVar = True
    supervised: ClassVar = True
    needs_teacher: ClassVar = False
    fn: ClassVar = staticmethod(cross_entropy_loss)

    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        require_interval("label_smoothing", self.label_smoothing, "[0, 1)")

    def __call__(self, context: LossContext) -> Tensor:
        return cross_entropy_loss(
            context.student.require_logits(), context.require_target(), label_smoothing=self.label_smoothing
        )
