"""Knowledge of responses: the teacher's softened probabilities (Hinton, Vinyals & Dean, 2015).

https://arxiv.org/abs/1503.02531. With p and q the teacher's and the student's softmax at temperature tau, the loss is
tau² · mean over rows of sum over classes of p · (log p − log q). The factor tau² keeps the size of the gradient when
tau changes. ``kl_div(reduction="mean")`` would divide by the number of classes as well; this does not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError
from limbeck.core.exchange import Exchange
from limbeck.core.numeric import mean_rows, require_same_shape, widen
from limbeck.core.schedule import Schedule
from limbeck.core.softening import require_temperature
from limbeck.core.temperature import USUAL, Temperature, tempered

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
    # A class that the teacher rules out has p = 0 and log p = −inf; its share is 0, not 0 · inf.
    least = torch.finfo(student.dtype).min
    if isinstance(tau, Tensor):
        tau = tau.to(student).reshape(-1, 1)
    log_q = F.log_softmax(student / tau, dim=1).clamp(min=least)
    log_p = F.log_softmax(teacher / tau, dim=1).clamp(min=least)
    if isinstance(tau, Tensor):
        by_row = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=1)
        return mean_rows(by_row * tau.squeeze(1) ** 2)
    total = F.kl_div(log_q, log_p, reduction="sum", log_target=True)
    return total * (tau**2 / max(len(student), 1))


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
