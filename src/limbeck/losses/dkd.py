"""Decoupled knowledge distillation (DKD): target-class and non-target-class terms with separate weights.

Zhao et al., CVPR 2022, https://arxiv.org/abs/2203.08679. With p and q the teacher's and the student's softmax at
temperature τ and c the target class:

    TCKD = KL of (p_c, 1 − p_c) from (q_c, 1 − q_c)
    NCKD = KL of p without c from q without c, each renormalized
    loss = τ² · mean over rows of alpha · TCKD + beta · NCKD

The KD loss is TCKD + (1 − p_c) · NCKD, which suppresses NCKD where the teacher is confident. With two classes NCKD
is 0. The published code subtracts 1000 from the true logit and takes the logarithm
of summed probabilities, which is −inf in half precision; here both parts are log-sum-exps of logarithms. The paper
warms the weight of the loss up over 20 epochs: in a recipe, ``weight: {use: warmup, ...}``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.core.loss_context import LossContext
from limbeck.core.protocols import Loss
from limbeck.core.schedules import Schedule
from limbeck.losses._logits import (
    TemperatureValue,
    broadcast_temperature,
    clamped_log_softmax,
    masked_mean,
    prepare_logits,
    require_temperature,
    valid_targets,
)
from limbeck.losses.temperature import Temperature, apply_temperature

__all__ = ["DKDLoss", "dkd_loss"]


def dkd_loss(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: TemperatureValue = 4.0,
) -> Tensor:
    """Mean over the labeled rows of alpha · TCKD + beta · NCKD at ``temperature``, times ``temperature ** 2``.

    Shapes: both ``[rows, classes]`` logits of at least 2 classes; ``target`` ``[rows]`` class numbers (−100: no label,
    the row is left out) or ``[rows, classes]`` probabilities, of which the likeliest counts; ``temperature`` a number
    or ``[rows]``. Zero where they agree; in nats. A class of logit −inf in both counts for nothing.

    >>> student, teacher = torch.tensor([[2.0, 0.0, 1.0]]), torch.zeros(1, 3)
    >>> dkd_loss(student, teacher, torch.tensor([0]), temperature=1.0)
    tensor(1.1898)
    """
    student, teacher = prepare_logits(student, teacher)
    target_index, is_labeled = valid_targets(student, target)
    temperature = broadcast_temperature(temperature, student)
    (true_q, rest_q, others_q), (true_p, rest_p, others_p) = (
        _split_target(clamped_log_softmax(logits, temperature), target_index) for logits in (student, teacher)
    )
    tckd = true_p.exp() * (true_p - true_q) + rest_p.exp() * (rest_p - rest_q)
    nckd = F.kl_div(others_q, others_p, reduction="none", log_target=True).sum(dim=1)
    squared_temperature = temperature.reshape(-1) ** 2 if isinstance(temperature, Tensor) else temperature**2
    return masked_mean((alpha * tckd + beta * nckd) * squared_temperature, is_labeled)


@final
@dataclass(frozen=True, slots=True)
class DKDLoss(Loss):
    """:func:`dkd_loss` of the student's and a teacher's logits and the target.

    Args:
        alpha: weight of TCKD.
        beta: weight of NCKD.
        temperature: the temperature, above zero: a number, a schedule, or a policy of
            :mod:`limbeck.losses.temperature`; ``None``: the default of the task, 4 without a task.
        teacher: name of the teacher; ``None``: the ensemble of all.
    """

    knowledge: ClassVar = "response"
    paper: ClassVar = "https://arxiv.org/abs/2203.08679"
    needs_target: ClassVar = True
    uses_temperature: ClassVar = True
    uses_task_temperature: ClassVar = True

    alpha: float = 1.0
    beta: float = 8.0
    temperature: float | Schedule | Temperature | None = None
    teacher: str | None = None

    def __post_init__(self) -> None:
        if self.temperature is not None:
            require_temperature(self.temperature)

    def __call__(self, context: LossContext) -> Tensor:
        target = context.pair_with_target(self.teacher)[2]

        def loss(student: Tensor, teacher: Tensor, /, *, temperature: TemperatureValue) -> Tensor:
            return dkd_loss(student, teacher, target, alpha=self.alpha, beta=self.beta, temperature=temperature)

        return apply_temperature(loss, context, temperature=self.temperature, teacher=self.teacher)


def _split_target(log_q: Tensor, target_index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The logarithms of q_c and 1 − q_c, ``[rows]``, and of q without c, ``[rows, classes]``; all of them finite."""
    other_log_q = log_q.scatter(1, target_index, torch.finfo(log_q.dtype).min)
    log_rest = other_log_q.logsumexp(dim=1, keepdim=True)
    return log_q.gather(1, target_index).squeeze(1), log_rest.squeeze(1), other_log_q - log_rest
