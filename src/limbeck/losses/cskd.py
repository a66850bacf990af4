"""Knowledge among classmates: what the student says of one picture agrees with what it says of another of its class.

CS-KD: Yun et al., CVPR 2020, https://arxiv.org/abs/2003.13964. λ · τ² · KL(p(x′) ‖ p(x)) for x′ of the class of x, with
no gradient through x′; τ 4, λ (the weight) 1, or 3 for fine-grained classes. Batches of such pairs are dealt out by
``Training(sampling="classmates")``. Their code sends the two halves through the network one after the other and takes
the cross-entropy of the first alone; here both go together, so BatchNorm sees both, and both halves have their labels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, final

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import Exchange
from limbeck.core.schedules import Schedule, at
from limbeck.losses._ops import likeliest, mean_rows, require_same_shape, widen

__all__ = ["ClassWise", "class_wise"]

_UNLABELLED: Final = -100


def class_wise(student: Tensor, partner: Tensor, *, tau: float = 4.0) -> Tensor:
    """Mean over rows of KL(partner ‖ student) at temperature ``tau``, times ``tau ** 2``; no gradient to ``partner``.

    Shapes: both ``[rows, classes]`` logits of one student, row by row of one class. Zero where they agree; in nats.

    >>> class_wise(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 0.0]]), tau=1.0)
    tensor(0.4338)
    """
    require_same_shape(student, partner, what="logits", hint="each row has its partner in the same row")
    if not 0 < tau < math.inf:
        raise LimbeckError(f"a temperature is a number above zero, and here it is {tau}")
    student, partner = widen(student), widen(partner).detach()
    # A class that is ruled out has p = 0 and log p = −inf; its share is 0, not 0 · inf.
    least = torch.finfo(student.dtype).min
    log_q = F.log_softmax(student / tau, dim=1).clamp(min=least)
    log_p = F.log_softmax(partner / tau, dim=1).clamp(min=least)
    return mean_rows(F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=1)) * tau**2


@final
@dataclass(frozen=True, slots=True)
class ClassWise:
    """:func:`class_wise` of the first half of a batch with the second, which holds the partners.

    Rows without a label are left out. A batch whose halves are not of the same classes is refused.

    Arguments:
        tau: the temperature, above zero: a number, or a schedule.
    """

    tau: float | Schedule = 4.0

    def __post_init__(self) -> None:
        if not callable(self.tau) and not 0 < self.tau < math.inf:
            raise LimbeckError(f"a temperature is a number above zero, not {self.tau}")

    def __call__(self, exchange: Exchange) -> Tensor:
        rows, label = exchange.student.rows(), likeliest(exchange.truth())
        half = len(rows) // 2
        first, second = label[:half], label[half:]
        if len(rows) % 2 or not torch.equal(first, second):
            raise LimbeckError(
                "ClassWise compares each row of the first half of a batch with its partner of the same class in the "
                'second, and these are no such pairs: set sampling="classmates" in the training'
            )
        known = first != _UNLABELLED
        return class_wise(rows[:half][known], rows[half:][known], tau=at(self.tau, exchange.progress))
