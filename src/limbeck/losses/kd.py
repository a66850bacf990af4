"""Knowledge of responses: the teacher's softened probabilities (Hinton, Vinyals & Dean, 2015).

https://arxiv.org/abs/1503.02531. With p and q the teacher's and the student's softmax at temperature tau, the loss is
tau² · mean over rows of sum over classes of p · (log p − log q). The factor tau² keeps the size of the gradient when
tau changes. ``kl_div(reduction="mean")`` would divide by the number of classes as well; this does not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import Exchange
from limbeck.core.schedules import Schedule
from limbeck.losses._logits import require_temperature
from limbeck.losses._ops import mean_rows, require_same_shape, widen
from limbeck.losses.temperature import USUAL, Temperature, tempered

__all__ = ["SoftTarget", "soft_target"]


def soft_target(student: Tensor, teacher: Tensor, *, tau: float | Tensor = 4.0) -> Tensor:
    """Mean over rows of KL(teacher ‖ student) at temperature ``tau``, times ``tau ** 2`` (Hinton et al., 2015).

    Shapes: both ``[rows, classes]`` logits; ``tau`` a number, or a tensor of one number or of ``[rows]``, each row then
    scaled by its own square.
    Zero where they agree; in nats. A class of logit −inf in both counts for nothing.

    >>> soft_target(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 0.0]]), tau=1.0)
    tensor(0.4338)
    """
    require_same_shape(student, teacher, what="logits", hint="both must answer the same rows with the same classes")
    if not isinstance(tau, Tensor) and not 0 < tau < math.inf:
        raise LimbeckError(
            f"a temperature is a number above zero, and here it is {tau}: let its schedule end above zero"
        )
    student, teacher = widen(student), widen(teacher).detach()
    if not isinstance(tau, Tensor):
        loss: Tensor = _SoftTarget.apply(student, teacher, tau)
        return loss
    tau = tau.to(student).reshape(-1, 1)
    log_q, log_p = (_log_softmax(logits / tau) for logits in (student, teacher))
    by_row = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=1)
    return mean_rows(by_row * tau.squeeze(1) ** 2)


@final
@dataclass(frozen=True, slots=True)
class SoftTarget:
    """:func:`soft_target` of the student's and a teacher's logits.

    Arguments:
        tau: the temperature, above zero: a number, a schedule, or a policy of :mod:`limbeck.temperature`.
        teacher: which teacher; ``None`` takes the combination of all.
    """

    tau: float | Schedule | Temperature = USUAL
    teacher: str | None = None

    def __post_init__(self) -> None:
        require_temperature(self.tau)

    def __call__(self, exchange: Exchange) -> Tensor:
        student, teacher = exchange.pair(self.teacher)
        return tempered(soft_target, student, teacher, tau=self.tau, progress=exchange.progress)


class _SoftTarget(torch.autograd.Function):
    """The loss at one temperature, with its gradient in few operations, which a small network feels.

    It is tau · (q − p) / rows. In a second derivative q is computed again, from the logits it depends on.
    """

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, tau: float) -> Tensor:
        log_q, log_p = (_log_softmax(logits / tau) for logits in (student, teacher))
        p = log_p.exp()
        ctx.save_for_backward(student, p)
        ctx.tau, ctx.log_q = tau, log_q
        return (p * log_p.sub_(log_q)).sum() * (tau**2 / max(len(student), 1))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        student, p = ctx.saved_tensors
        log_q = _log_softmax(student / ctx.tau) if torch.is_grad_enabled() else ctx.log_q
        return (log_q.exp() - p) * (gradients[0] * (ctx.tau / max(len(student), 1))), None, None


def _log_softmax(logits: Tensor) -> Tensor:
    """A class that is ruled out has p = 0 and log p = −inf; its share is to be 0, not 0 · inf."""
    log_p = F.log_softmax(logits, dim=1)
    return log_p.clamp(min=torch.finfo(log_p.dtype).min)
