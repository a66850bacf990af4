"""Mean squared error of logits.

Ba & Caruana, NeurIPS 2014, https://arxiv.org/abs/1312.6184. Unlike other response losses it is a mean over classes,
as in the paper; the KD loss at a high temperature has the same gradient (Hinton et al., 2015, section 2.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from limbeck.core.loss_context import LossContext
from limbeck.core.protocols import Loss
from limbeck.losses._logits import prepare_logits
from limbeck.losses._ops import mean_squared_error


def logit_mse_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over rows and classes of (student − teacher)².

    Shapes: both ``[rows, classes]`` logits, which must be finite.

    >>> import torch
    >>> logit_mse_loss(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 1.0]]))
    tensor(2.5000)
    """
    return mean_squared_error(*prepare_logits(student, teacher))


@final
@dataclass(frozen=True)
class LogitMSELoss(Loss):
    """:func:`logit_mse_loss` of the student's and a teacher's logits.

    Args:
        teacher: name of the teacher; ``None``: the ensemble of all.
    """

    knowledge: ClassVar = "response"
    paper: ClassVar = "https://arxiv.org/abs/1312.6184"
    fn: ClassVar = staticmethod(logit_mse_loss)

    teacher: str | None = None

    def __call__(self, context: LossContext) -> Tensor:
        student, teacher = context.pair(self.teacher)
        return logit_mse_loss(student.require_logits(), teacher.require_logits())
