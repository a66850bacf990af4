"""Class-wise self-knowledge distillation (CS-KD): two samples of one class get the same prediction.

Yun et al., CVPR 2020, https://arxiv.org/abs/2003.13964. λ · τ² · KL(p(x′) ‖ p(x)) for x′ of the class of x, with no
gradient through x′; τ 4, λ (the weight) 1, or 3 for fine-grained classes.
``TrainingConfig(batch_pairing="same_class")`` makes batches of such pairs. Both halves run together, so BatchNorm and
cross-entropy use both; in the published code the second half has no cross-entropy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import LossContext
from limbeck.core.protocols import Loss
from limbeck.core.schedules import Schedule, resolve
from limbeck.losses._logits import kl_mean, log_softmax_pair, require_temperature
from limbeck.losses._ops import IGNORE_INDEX, hard_labels, require_same_shape


def cskd_loss(student: Tensor, partner: Tensor, *, temperature: float = 4.0) -> Tensor:
    """Mean over rows of KL(partner ‖ student) at ``temperature``, times its square; no gradient to ``partner``.

    Shapes: both ``[rows, classes]`` logits of one student, row by row of one class. Zero where they agree; in nats.

    >>> cskd_loss(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 0.0]]), temperature=1.0)
    tensor(0.4338)
    """
    require_same_shape(student, partner, name="logits", hint="each row needs its partner in the same row")
    log_q, log_p, _ = log_softmax_pair(student, partner, temperature)
    return kl_mean(log_q, log_p, temperature)


@final
@dataclass(frozen=True)
class CSKDLoss(Loss):
    """:func:`cskd_loss` of the first half of a batch with the second, which holds the partners.

    Rows without a label are left out. Halves of different classes are an error.

    Args:
        temperature: a number above zero, or a schedule.
    """

    knowledge: ClassVar = "self"
    uses_softmax: ClassVar = True
    paper: ClassVar = "https://arxiv.org/abs/2003.13964"
    needs_target: ClassVar = True
    needs_teacher: ClassVar = False
    fn: ClassVar = staticmethod(cskd_loss)

    temperature: float | Schedule = 4.0

    def __post_init__(self) -> None:
        require_temperature(self.temperature)

    def __call__(self, context: LossContext) -> Tensor:
        logits, labels = context.student.require_logits(), hard_labels(context.require_target())
        half = len(logits) // 2
        if len(logits) % 2 or not torch.equal(labels[:half], labels[half:]):
            raise LimbeckError(
                "CSKDLoss compares each row of the first half of a batch with a row of the same class in the second "
                'half, and the halves have different classes: set batch_pairing="same_class" in the training'
            )
        is_labeled = labels[:half] != IGNORE_INDEX
        temperature = resolve(self.temperature, context.progress)
        return cskd_loss(logits[:half][is_labeled], logits[half:][is_labeled], temperature=temperature)
