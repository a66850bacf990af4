"""Reverse KL divergence of softened predictions, KL(student ‖ teacher).

With p and q the teacher's and the student's softmax at temperature τ, the loss is τ² · mean over rows of sum over
classes of q · (log q − log p). The reverse divergence is mode-seeking, the forward one mode-covering. For language
models: Gu et al., ICLR 2024, https://arxiv.org/abs/2306.08543; this is the divergence without their sampling.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor
from torch.nn import functional as F

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

__all__ = ["ReverseKLLoss", "reverse_kl_loss"]


def reverse_kl_loss(student: Tensor, teacher: Tensor, *, temperature: TemperatureValue = 4.0) -> Tensor:
    """Mean over rows of KL(student ‖ teacher) at ``temperature``, times ``temperature ** 2``.

    Shapes: both ``[rows, classes]`` logits; ``temperature`` a number or ``[rows]``, each row then scaled by its own
        square.
    Zero where they agree; in nats. A class of logit −inf in both counts for nothing.

    >>> import torch
    >>> reverse_kl_loss(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 0.0]]), temperature=1.0)
    tensor(0.3278)
    """
    student, teacher = prepare_logits(student, teacher)
    temperature = broadcast_temperature(temperature, student)
    log_q, log_p = clamped_log_softmax(student, temperature), clamped_log_softmax(teacher, temperature)
    return temperature_scaled_mean(F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(dim=1), temperature)


@final
@dataclass(frozen=True, slots=True)
class ReverseKLLoss(Loss):
    """:func:`reverse_kl_loss` of the student's and a teacher's logits.

    Args:
        temperature: the temperature, above zero: a number, a schedule, or a policy of
            :mod:`limbeck.losses.temperature`; ``None``: the default of the task, 4 without a task.
        teacher: name of the teacher; ``None``: the ensemble of all.
    """

    knowledge: ClassVar = "response"
    paper: ClassVar = "https://arxiv.org/abs/2306.08543"
    uses_temperature: ClassVar = True
    uses_task_temperature: ClassVar = True

    temperature: float | Schedule | Temperature | None = None
    teacher: str | None = None

    def __post_init__(self) -> None:
        if self.temperature is not None:
            require_temperature(self.temperature)

    def __call__(self, context: LossContext) -> Tensor:
        return apply_temperature(reverse_kl_loss, context, temperature=self.temperature, teacher=self.teacher)
