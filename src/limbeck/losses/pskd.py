"""Progressive self-knowledge distillation (PS-KD): labels softened by the student's previous predictions.

Kim et al., ICCV 2021, https://arxiv.org/abs/2006.12000. In epoch t of T the target is
(1 − α_t) · label + α_t · p_{t−1}(x), with α_t = α_T · t/T and α_T = 0.8, and the loss is the cross-entropy with it. It
improves calibration (ECE, NLL) more than accuracy; compare with label smoothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final, final

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import LossContext
from limbeck.core.progress import Progress
from limbeck.core.protocols import Loss
from limbeck.core.schedules import Schedule
from limbeck.losses._ops import require_same_shape, upcast

__all__ = ["PSKDLoss", "pskd_loss"]

_IGNORE_INDEX: Final = -100


def pskd_loss(student: Tensor, previous_logits: Tensor, target: Tensor, *, alpha: float | Tensor = 0.8) -> Tensor:
    """Mean over the labeled rows of the cross-entropy with (1 − ``alpha``) · label + ``alpha`` ·
    softmax(``previous_logits``).

    Shapes: ``student`` and ``previous_logits`` ``[rows, classes]`` logits; ``target`` ``[rows]`` class numbers (−100:
        no label)
    or ``[rows, classes]`` probabilities (all zero: no label); ``alpha`` a number from 0 to 1, or ``[rows]``. In nats.
    No temperature, and no gradient to ``previous_logits``. With ``alpha`` 0 it is the cross-entropy.

    >>> pskd_loss(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 0.0]]), torch.tensor([0]), alpha=0.5)
    tensor(0.6269)
    """
    require_same_shape(
        student, previous_logits, name="logits", hint="both must answer the same rows with the same classes"
    )
    if len(target) != len(student):
        raise LimbeckError(f"the student answered {len(student)} rows and the target has {len(target)}")
    if not isinstance(alpha, Tensor) and not 0 <= alpha <= 1:
        raise LimbeckError(f"alpha is the share of what was said before, from 0 to 1, not {alpha}")
    student, previous_probabilities = upcast(student), upcast(previous_logits).detach().softmax(dim=1)
    if target.ndim == 2:
        is_labeled, label = (target != 0).any(dim=1), target.to(student)
    else:
        is_labeled = target != _IGNORE_INDEX
        label = F.one_hot(target.long().masked_fill(~is_labeled, 0), student.shape[1]).to(student)
    if isinstance(alpha, Tensor):
        alpha = alpha.to(student).unsqueeze(1)
    mixed_target = label + alpha * (previous_probabilities.to(student) - label)
    # A class of probability 0 and logit −inf contributes 0, not 0 · inf.
    log_q = F.log_softmax(student, dim=1).masked_fill(mixed_target == 0, 0.0)
    return -(mixed_target * log_q).sum(dim=1).masked_fill(~is_labeled, 0.0).sum() / is_labeled.sum().clamp(min=1)


@final
@dataclass(frozen=True, slots=True)
class PSKDLoss(Loss):
    """:func:`pskd_loss` of the student's logits, the target and the predictions stored by
    :class:`PreviousEpochTeacher`.

    It replaces the cross-entropy. A sample without stored predictions uses its label only.

    Args:
        alpha: α_T, the weight in the last epoch, reached linearly; or a schedule of the weight.
        teacher: name of the teacher that stores previous predictions; ``None``: the ensemble of all.
    """

    knowledge: ClassVar = "self"
    paper: ClassVar = "https://arxiv.org/abs/2006.12000"
    needs_target: ClassVar = True

    alpha: float | Schedule = 0.8
    teacher: str | None = None

    def __post_init__(self) -> None:
        if not callable(self.alpha) and not 0 <= self.alpha <= 1:
            raise LimbeckError(f"alpha is the share of what was said before, from 0 to 1, not {self.alpha}")

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
