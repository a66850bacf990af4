"""Generalized Jensen–Shannon divergence of softened predictions.

Lin, IEEE Transactions on Information Theory 1991, https://doi.org/10.1109/18.61115; for distillation, Agarwal et al.,
ICLR 2024, https://arxiv.org/abs/2306.13649. With p and q the teacher's and the student's softmax at temperature τ
and m = beta · p + (1 − beta) · q, the loss is τ² · mean over rows of beta · KL(p ‖ m) + (1 − beta) · KL(q ‖ m). Each
row is at most τ² · the entropy of (beta, 1 − beta). Divided by beta it tends to KL(p ‖ q) as beta goes to 0; other
libraries swap beta and 1 − beta.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.losses._bases import LogitLoss
from limbeck.losses._logits import TemperatureValue, log_softmax_pair, temperature_scaled_mean
from limbeck.losses._ops import require_interval


def jsd_loss(student: Tensor, teacher: Tensor, *, temperature: TemperatureValue = 4.0, beta: float = 0.5) -> Tensor:
    """Mean over rows of beta · KL(p ‖ m) + (1 − beta) · KL(q ‖ m) at ``temperature``, times ``temperature ** 2``.

    Shapes: both ``[rows, classes]`` logits; ``temperature`` a number or ``[rows]``; ``beta``, the teacher's weight in
    the mixture m, between 0 and 1. Zero where they agree; in nats. A class of logit −inf in both is ignored.

    >>> jsd_loss(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 0.0]]), temperature=1.0)
    tensor(0.0895)
    """
    require_interval("beta", beta, "(0, 1)")
    log_q, log_p, temperature = log_softmax_pair(student, teacher, temperature)
    # log m, from whichever of log p and log q is larger: never −inf, and exact where they are nearly the same.
    log_ratio = log_p - log_q
    mixture_weight = torch.full_like(log_ratio, beta).masked_fill(log_ratio > 0, 1 - beta)
    log_mixture = torch.log1p(mixture_weight * torch.expm1(-log_ratio.abs()))
    m_over_p, m_over_q = log_mixture + F.relu(-log_ratio), log_mixture + F.relu(log_ratio)
    by_row = -(beta * log_p.exp() * m_over_p + (1 - beta) * log_q.exp() * m_over_q).sum(dim=1)
    return temperature_scaled_mean(by_row, temperature)


@final
@dataclass(frozen=True)
class JSDLoss(LogitLoss):
    """:func:`jsd_loss` of the student's and a teacher's logits.

    Args:
        beta: the teacher's weight in the mixture, between 0 and 1; for its ends use ``KDLoss`` and ``ReverseKLLoss``.
    """

    paper: ClassVar = "https://doi.org/10.1109/18.61115"
    uses_task_temperature: ClassVar = True
    fn: ClassVar = staticmethod(jsd_loss)

    beta: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        require_interval("beta", self.beta, "(0, 1)")
