"""Knowledge of responses: the distance of both networks from their mixture (generalised Jensen–Shannon divergence).

Lin, IEEE Transactions on Information Theory 1991, https://doi.org/10.1109/18.61115; for distillation, Agarwal et al.,
ICLR 2024, https://arxiv.org/abs/2306.13649. With p and q the teacher's and the student's softmax at temperature tau
and m = beta · p + (1 − beta) · q, the loss is tau² · mean over rows of beta · KL(p ‖ m) + (1 − beta) · KL(q ‖ m). It is
bounded: each row costs at most tau² · the entropy of (beta, 1 − beta). Divided by beta it tends to KL(p ‖ q) as beta
goes to 0, and divided by 1 − beta to KL(q ‖ p) as beta goes to 1; other libraries swap beta and 1 − beta.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import final

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import Exchange
from limbeck.core.schedules import Schedule
from limbeck.losses._logits import (
    Tau,
    log_probabilities,
    logits_pair,
    mean_softened,
    require_temperature,
    temperature,
)
from limbeck.losses.temperature import USUAL, Temperature, tempered

__all__ = ["JensenShannon", "jensen_shannon"]


def jensen_shannon(student: Tensor, teacher: Tensor, *, tau: Tau = 4.0, beta: float = 0.5) -> Tensor:
    """Mean over rows of beta · KL(p ‖ m) + (1 − beta) · KL(q ‖ m) at temperature ``tau``, times ``tau ** 2``.

    Shapes: both ``[rows, classes]`` logits; ``tau`` a number or ``[rows]``, each row then scaled by its own square;
    ``beta``, the teacher's share of the mixture m, between 0 and 1. Zero where they agree; in nats. A class of logit
    −inf in both counts for nothing.

    >>> jensen_shannon(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 0.0]]), tau=1.0)
    tensor(0.0895)
    """
    _require_share(beta)
    student, teacher = logits_pair(student, teacher)
    tau = temperature(tau, student)
    log_q, log_p = log_probabilities(student, tau), log_probabilities(teacher, tau)
    # log m, from whichever of log p and log q is larger: never −inf, and exact where they are nearly the same.
    apart = log_p - log_q
    share = torch.full_like(apart, beta).masked_fill(apart > 0, 1 - beta)
    below = torch.log1p(share * torch.expm1(-apart.abs()))
    m_over_p, m_over_q = below + F.relu(-apart), below + F.relu(apart)
    by_row = -(beta * log_p.exp() * m_over_p + (1 - beta) * log_q.exp() * m_over_q).sum(dim=1)
    return mean_softened(by_row, tau)


@final
@dataclass(frozen=True, slots=True)
class JensenShannon:
    """:func:`jensen_shannon` of the student's and a teacher's logits.

    Arguments:
        tau: the temperature, above zero: a number, a schedule, or a policy of :mod:`limbeck.temperature`.
        beta: the teacher's share of the mixture, between 0 and 1.
        teacher: which teacher; ``None`` takes the combination of all.
    """

    tau: float | Schedule | Temperature = USUAL
    beta: float = 0.5
    teacher: str | None = None

    def __post_init__(self) -> None:
        require_temperature(self.tau)
        _require_share(self.beta)

    def __call__(self, exchange: Exchange) -> Tensor:
        student, teacher = exchange.pair(self.teacher)
        loss = partial(jensen_shannon, beta=self.beta)
        return tempered(loss, student, teacher, tau=self.tau, progress=exchange.progress)


def _require_share(beta: float) -> None:
    if not 0 < beta < 1:
        raise LimbeckError(
            f"beta is the teacher's share of the mixture, between 0 and 1, not {beta}: for its ends take SoftTarget or "
            "ReverseKL"
        )
