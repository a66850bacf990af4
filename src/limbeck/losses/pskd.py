"""Progressive self-knowledge distillation (PS-KD): labels softened by the student's previous predictions.

Kim et al., ICCV 2021, https://arxiv.org/abs/2006.12000. In epoch t of T the target is
(1 − α_t) · label + α_t · p_{t−1}(x), with α_t = α_T · t/T and α_T = 0.8, and the loss is the cross-entropy with it. It
improves calibration (ECE, NLL) more than accuracy; compare with label smoothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.core.loss_context import LossContext
from limbeck.core.progress import Progress
from limbeck.core.protocols import Loss
from limbeck.core.schedules import Schedule
from limbeck.losses._logits import prepare_logits, require_target_rows, soft_cross_entropy
from limbeck.losses._ops import IGNORE_INDEX, require_interval


def pskd_loss(student: Tensor, previous_logits: Tensor, target: Tensor, *, alpha: float | Tensor = 0.8) -> Tensor:
    """Mean over the labeled rows of the cross-entropy with (1 − alpha) · label + alpha · softmax(previous logits).

    Shapes: ``student`` and ``previous_logits`` ``[rows, classes]`` logits; ``target`` ``[rows]`` class indices (−100:
    no label) or ``[rows, classes]`` probabilities (all zero: no label); ``alpha`` a number from 0 to 1, or ``[rows]``.
    In nats. No temperature, and no gradient to ``previous_logits``. With ``alpha`` 0 it is the cross-entropy.

    >>> pskd_loss(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 0.0]]), torch.tensor([0]), alpha=0.5)
    tensor(0.6269)
    """
    if not isinstance(alpha, Tensor):
        require_interval("alpha", alpha, "[0, 1]")
    student, previous_logits = prepare_logits(student, previous_logits)
    require_target_rows(student, target)
    if target.ndim == 2:
        is_labeled, label = (target != 0).any(dim=1), target.to(student)
    else:
        is_labeled = target != IGNORE_INDEX
        label = F.one_hot(target.long().masked_fill(~is_labeled, 0), student.shape[1]).to(student)
    if isinstance(alpha, Tensor):
        alpha = alpha.to(student).unsqueeze(1)
    mixed_target = label + alpha * (previous_logits.softmax(dim=1).to(student) - label)
    return soft_cross_entropy(student, mixed_target, is_labeled)


@final
@dataclass(frozen=True)
class PSKDLoss(Loss):
    """:func:`pskd_loss` with the predictions stored by :class:`PreviousEpochTeacher`; it replaces the cross-entropy.

    A sample without stored predictions uses its label only.

    Args:
        alpha: α_T, the weight in the last epoch, reached linearly; or a schedule of the weight.
        teacher: name of the teacher that stores previous predictions; ``None``: the ensemble of all.
    """

    knowledge: ClassVar = "self"
    uses_softmax: ClassVar = True
    paper: ClassVar = "https://arxiv.org/abs/2006.12000"
    needs_target: ClassVar = True
    fn: ClassVar = staticmethod(pskd_loss)

    alpha: float | Schedule = 0.8
    teacher: str | None = None

    def __post_init__(self) -> None:
        if not callable(self.alpha):
            require_interval("alpha", self.alpha, "[0, 1]")

    def __call__(self, context: LossContext) -> Tensor:
        previous = context.teacher_outputs(self.teacher)
        alpha: float | Tensor = self.current_alpha(context.progress)
        if previous.valid is not None:
            row_mask = previous.valid if previous.row_to_sample is None else previous.valid[previous.row_to_sample]
            alpha = torch.where(row_mask, alpha, 0.0)
        return pskd_loss(
            context.student.require_logits(), previous.require_logits(), context.require_target(), alpha=alpha
        )

    def current_alpha(self, progress: Progress) -> float:
        """α_t, the weight of the previous predictions.

        >>> PSKDLoss(alpha=0.8).current_alpha(Progress(step=30, steps=40, epoch=3, epochs=4))
        0.8
        """
        if callable(self.alpha):
            return float(self.alpha(progress))
        if progress.epochs < 1:  # progress in steps only
            return self.alpha * progress.fraction
        return self.alpha * min((progress.epoch + 1) / progress.epochs, 1.0)
