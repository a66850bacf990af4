"""Generalized Jensen–Shannon divergence of softened predictions.

Lin, IEEE Transactions on Information Theory 1991, https://doi.org/10.1109/18.61115; for distillation, Agarwal et al.,
ICLR 2024, https://arxiv.org/abs/2306.13649. With p and q the teacher's and the student's softmax at temperature τ
and m = beta · p + (1 − beta) · q, the loss is τ² · mean over rows of beta · KL(p ‖ m) + (1 − beta) · KL(q ‖ m). It is
bounded: each row contributes at most τ² · the entropy of (beta, 1 − beta). Divided by beta it tends to KL(p ‖ q) as
    beta
goes to 0, and divided by 1 − beta to KL(q ‖ p) as beta goes to 1; other libraries swap beta and 1 − beta.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, final

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import LossContext
from limbeck.core.protocols import Loss
from limbeck.core.schedules import Schedule
from limbeck.losses._logits import (
    TemperatureValue,
    broadcast_temperature,
    clamped_log_softmax,
    prepare_logits,
    require_temperature,
    temperature_scaled_mean,
)
from limbeck.losses.temperature import Temperature, apply_temperature

__all__ = ["JSDLoss", "jsd_loss"]


def jsd_loss(student: Tensor, teacher: Tensor, *, temperature: TemperatureValue = 4.0, beta: float = 0.5) -> Tensor:
    """Mean over rows of beta · KL(p ‖ m) + (1 − beta) · KL(q ‖ m) at ``temperature``, times ``temperature ** 2``.

    Shapes: both ``[rows, classes]`` logits; ``temperature`` a number or ``[rows]``, each row then scaled by its own
        square;
    ``beta``, the teacher's share of the mixture m, between 0 and 1. Zero where they agree; in nats. A class of logit
    −inf in both counts for nothing.

    >>> jsd_loss(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 0.0]]), temperature=1.0)
    tensor(0.0895)
    """
    _require_beta(beta)
    student, teacher = prepare_logits(student, teacher)
    temperature = broadcast_temperature(temperature, student)
    log_q, log_p = clamped_log_softmax(student, temperature), clamped_log_softmax(teacher, temperature)
    # log m, from whichever of log p and log q is larger: never −inf, and exact where they are nearly the same.
    log_ratio = log_p - log_q
    mixture_weight = torch.full_like(log_ratio, beta).masked_fill(log_ratio > 0, 1 - beta)
    log_mixture = torch.log1p(mixture_weight * torch.expm1(-log_ratio.abs()))
    m_over_p, m_over_q = log_mixture + F.relu(-log_ratio), log_mixture + F.relu(log_ratio)
    by_row = -(beta * log_p.exp() * m_over_p + (1 - beta) * log_q.exp() * m_over_q).sum(dim=1)
    return temperature_scaled_mean(by_row, temperature)


@final
@dataclass(frozen=True, slots=True)
class JSDLoss(Loss):
    """:func:`jsd_loss` of the student's and a teacher's logits.

    Args:
        temperature: the temperature, above zero: a number, a schedule, or a policy of
            :mod:`limbeck.losses.temperature`; ``None``: the default of the task, 4 without a task.
        beta: the teacher's share of the mixture, between 0 and 1.
        teacher: name of the teacher; ``None``: the ensemble of all.
    """

    knowledge: ClassVar = "response"
    paper: ClassVar = "https://doi.org/10.1109/18.61115"
    uses_temperature: ClassVar = True
    uses_task_temperature: ClassVar = True

    temperature: float | Schedule | Temperature | None = None
    beta: float = 0.5
    teacher: str | None = None

    def __post_init__(self) -> None:
        if self.temperature is not None:
            require_temperature(self.temperature)
        _require_beta(self.beta)

    def __call__(self, context: LossContext) -> Tensor:
        loss = partial(jsd_loss, beta=self.beta)
        return apply_temperature(loss, context, temperature=self.temperature, teacher=self.teacher)


def _require_beta(beta: float) -> None:
    if not 0 < beta < 1:
        raise LimbeckError(
            f"beta is the teacher's share of the mixture, between 0 and 1, not {beta}: for its ends take KDLoss or "
            "ReverseKLLoss"
        )
