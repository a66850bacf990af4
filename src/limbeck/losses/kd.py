"""Knowledge of responses: the teacher's softened probabilities (Hinton, Vinyals & Dean, 2015).

https://arxiv.org/abs/1503.02531. With p and q the teacher's and the student's softmax at temperature τ, the loss is
τ² · mean over rows of sum over classes of p · (log p − log q). The factor τ² keeps the size of the gradient when
τ changes. ``kl_div(reduction="mean")`` would divide by the number of classes as well; this does not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import LossContext
from limbeck.core.protocols import Loss
from limbeck.core.schedules import Schedule
from limbeck.losses._logits import require_temperature
from limbeck.losses._ops import require_same_shape, row_mean, upcast
from limbeck.losses.temperature import Temperature, apply_temperature

__all__ = ["KDLoss", "kd_loss"]


def kd_loss(student: Tensor, teacher: Tensor, *, temperature: float | Tensor = 4.0) -> Tensor:
    """Mean over rows of KL(teacher ‖ student) at ``temperature``, times ``temperature ** 2`` (Hinton et al., 2015).

    Shapes: both ``[rows, classes]`` logits; ``temperature`` a number, or a tensor of one number or of ``[rows]``, each
        row then
    scaled by its own square.
    Zero where they agree; in nats. A class of logit −inf in both counts for nothing.

    >>> kd_loss(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 0.0]]), temperature=1.0)
    tensor(0.4338)
    """
    require_same_shape(student, teacher, name="logits", hint="both must answer the same rows with the same classes")
    if not isinstance(temperature, Tensor) and not 0 < temperature < math.inf:
        raise LimbeckError(
            f"a temperature is a number above zero, and here it is {temperature}: let its schedule end above zero"
        )
    student, teacher = upcast(student), upcast(teacher).detach()
    if not isinstance(temperature, Tensor):
        loss: Tensor = _KDLossFunction.apply(student, teacher, temperature)
        return loss
    temperature = temperature.to(student).reshape(-1, 1)
    log_q, log_p = (_clamped_log_softmax(logits / temperature) for logits in (student, teacher))
    by_row = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=1)
    return row_mean(by_row * temperature.squeeze(1) ** 2)


@final
@dataclass(frozen=True, slots=True)
class KDLoss(Loss):
    """:func:`kd_loss` of the student's and a teacher's logits.

    Args:
        temperature: the temperature, above zero: a number, a schedule, or a policy of
            :mod:`limbeck.losses.temperature`; ``None``: the default of the task, 4 without a task.
        teacher: which teacher; ``None`` takes the combination of all.
    """

    knowledge: ClassVar = "response"
    uses_temperature: ClassVar = True
    uses_task_temperature: ClassVar = True

    temperature: float | Schedule | Temperature | None = None
    teacher: str | None = None

    def __post_init__(self) -> None:
        if self.temperature is not None:
            require_temperature(self.temperature)

    def __call__(self, context: LossContext) -> Tensor:
        return apply_temperature(kd_loss, context, temperature=self.temperature, teacher=self.teacher)


class _KDLossFunction(torch.autograd.Function):
    """The loss at one temperature, with its gradient in few operations, which a small network feels.

    It is τ · (q − p) / rows. In a second derivative q is computed again, from the logits it depends on.
    """

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        log_q, log_p = (_clamped_log_softmax(logits / temperature) for logits in (student, teacher))
        p = log_p.exp()
        ctx.save_for_backward(student, p)
        ctx.temperature, ctx.log_q = temperature, log_q
        return (p * log_p.sub_(log_q)).sum() * (temperature**2 / max(len(student), 1))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        student, p = ctx.saved_tensors
        log_q = _clamped_log_softmax(student / ctx.temperature) if torch.is_grad_enabled() else ctx.log_q
        return (log_q.exp() - p) * (gradients[0] * (ctx.temperature / max(len(student), 1))), None, None


def _clamped_log_softmax(logits: Tensor) -> Tensor:
    """A class that is ruled out has p = 0 and log p = −inf; its share is to be 0, not 0 · inf."""
    log_p = F.log_softmax(logits, dim=1)
    return log_p.clamp(min=torch.finfo(log_p.dtype).min)
