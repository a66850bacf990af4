"""Class-wise self-knowledge distillation (CS-KD): two samples of one class get the same prediction.

CS-KD: Yun et al., CVPR 2020, https://arxiv.org/abs/2003.13964. λ · τ² · KL(p(x′) ‖ p(x)) for x′ of the class of x, with
no gradient through x′; τ 4, λ (the weight) 1, or 3 for fine-grained classes.
``TrainingConfig(batch_pairing="same_class")`` makes batches of such pairs. The published code runs the halves one
after the other with cross-entropy on the first only; here both run together, so BatchNorm and cross-entropy use both
halves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Final, final

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import LossContext
from limbeck.core.protocols import Loss
from limbeck.core.schedules import Schedule, resolve
from limbeck.losses._ops import hard_labels, require_same_shape, row_mean, upcast

__all__ = ["CSKDLoss", "cskd_loss"]

_IGNORE_INDEX: Final = -100


def cskd_loss(student: Tensor, partner: Tensor, *, temperature: float = 4.0) -> Tensor:
    """Mean over rows of KL(partner ‖ student) at ``temperature``, times ``temperature ** 2``; no gradient to
    ``partner``.

    Shapes: both ``[rows, classes]`` logits of one student, row by row of one class. Zero where they agree; in nats.

    >>> cskd_loss(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 0.0]]), temperature=1.0)
    tensor(0.4338)
    """
    require_same_shape(student, partner, name="logits", hint="each row has its partner in the same row")
    if not 0 < temperature < math.inf:
        raise LimbeckError(f"a temperature is a number above zero, and here it is {temperature}")
    student, partner = upcast(student), upcast(partner).detach()
    # A class that is ruled out has p = 0 and log p = −inf; its share is 0, not 0 · inf.
    min_value = torch.finfo(student.dtype).min
    log_q = F.log_softmax(student / temperature, dim=1).clamp(min=min_value)
    log_p = F.log_softmax(partner / temperature, dim=1).clamp(min=min_value)
    return row_mean(F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=1)) * temperature**2


@final
@dataclass(frozen=True, slots=True)
class CSKDLoss(Loss):
    """:func:`cskd_loss` of the first half of a batch with the second, which holds the partners.

    Rows without a label are left out. A batch whose halves are not of the same classes is refused.

    Args:
        temperature: the temperature, above zero: a number, or a schedule.
    """

    knowledge: ClassVar = "self"
    paper: ClassVar = "https://arxiv.org/abs/2003.13964"
    needs_target: ClassVar = True
    needs_teacher: ClassVar = False

    temperature: float | Schedule = 4.0

    def __post_init__(self) -> None:
        if not callable(self.temperature) and not 0 < self.temperature < math.inf:
            raise LimbeckError(f"a temperature is a number above zero, not {self.temperature}")

    def __call__(self, context: LossContext) -> Tensor:
        logits, labels = context.student.require_logits(), hard_labels(context.require_target())
        half = len(logits) // 2
        first_labels, second_labels = labels[:half], labels[half:]
        if len(logits) % 2 or not torch.equal(first_labels, second_labels):
            raise LimbeckError(
                "CSKDLoss compares each row of the first half of a batch with its partner of the same class in the "
                'second, and these are no such pairs: set sampling="classmates" in the training'
            )
        is_labeled = first_labels != _IGNORE_INDEX
        return cskd_loss(
            logits[:half][is_labeled],
            logits[half:][is_labeled],
            temperature=resolve(self.temperature, context.progress),
        )
