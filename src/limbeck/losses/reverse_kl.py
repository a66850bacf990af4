"""Knowledge of responses: the divergence the other way round, KL(student ‖ teacher).

With p and q the teacher's and the student's softmax at temperature tau, the loss is tau² · mean over rows of sum over
classes of q · (log q − log p). Where the forward divergence spreads the student over all that the teacher finds
possible, this one lets it settle on a part of it (for language models: Gu et al., ICLR 2024,
https://arxiv.org/abs/2306.08543; of the divergence itself only, not their sampling).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor
from torch.nn import functional as F

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

__all__ = ["ReverseKL", "reverse_kl"]


def reverse_kl(student: Tensor, teacher: Tensor, *, tau: Tau = 4.0) -> Tensor:
    """Mean over rows of KL(student ‖ teacher) at temperature ``tau``, times ``tau ** 2``.

    Shapes: both ``[rows, classes]`` logits; ``tau`` a number or ``[rows]``, each row then scaled by its own square.
    Zero where they agree; in nats. A class of logit −inf in both counts for nothing.

    >>> import torch
    >>> reverse_kl(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 0.0]]), tau=1.0)
    tensor(0.3278)
    """
    student, teacher = logits_pair(student, teacher)
    tau = temperature(tau, student)
    log_q, log_p = log_probabilities(student, tau), log_probabilities(teacher, tau)
    return mean_softened(F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(dim=1), tau)


@final
@dataclass(frozen=True, slots=True)
class ReverseKL:
    """:func:`reverse_kl` of the student's and a teacher's logits.

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
        return tempered(reverse_kl, student, teacher, tau=self.tau, progress=exchange.progress)
