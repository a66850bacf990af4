"""Knowledge of responses: what is said of the true class, and of the others, each with its own weight (DKD).

Zhao et al., CVPR 2022, https://arxiv.org/abs/2203.08679. With p and q the teacher's and the student's softmax at
temperature tau and c the true class:

    TCKD = KL of (p_c, 1 − p_c) from (q_c, 1 − q_c)
    NCKD = KL of p without c from q without c, each renormalised
    loss = tau² · mean over rows of alpha · TCKD + beta · NCKD

A soft target is TCKD + (1 − p_c) · NCKD: it hears the less of the other classes, the surer the teacher is. Between two
classes NCKD is 0, as one class is left. The published code subtracts 1000 from the true logit and takes the logarithm
of summed probabilities, which is −inf in half precision; here both parts are log-sum-exps of logarithms. The paper lets
the weight of the loss rise over 20 epochs: in a recipe, ``weight: {use: warmup, ...}``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.core.loss_context import Exchange
from limbeck.core.schedules import Schedule
from limbeck.losses._logits import (
    Tau,
    known_classes,
    log_probabilities,
    logits_pair,
    mean_known,
    require_temperature,
    temperature,
)
from limbeck.losses.temperature import USUAL, Temperature, tempered

__all__ = ["Decoupled", "decoupled"]


def decoupled(
    student: Tensor, teacher: Tensor, target: Tensor, *, alpha: float = 1.0, beta: float = 8.0, tau: Tau = 4.0
) -> Tensor:
    """Mean over the labelled rows of alpha · TCKD + beta · NCKD at temperature ``tau``, times ``tau ** 2``.

    Shapes: both ``[rows, classes]`` logits of at least 2 classes; ``target`` ``[rows]`` class numbers (−100: no label,
    the row is left out) or ``[rows, classes]`` probabilities, of which the likeliest counts; ``tau`` a number or
    ``[rows]``. Zero where they agree; in nats. A class of logit −inf in both counts for nothing.

    >>> student, teacher = torch.tensor([[2.0, 0.0, 1.0]]), torch.zeros(1, 3)
    >>> decoupled(student, teacher, torch.tensor([0]), tau=1.0)
    tensor(1.1898)
    """
    student, teacher = logits_pair(student, teacher)
    wanted, known = known_classes(student, target)
    tau = temperature(tau, student)
    (true_q, rest_q, others_q), (true_p, rest_p, others_p) = (
        _parted(log_probabilities(logits, tau), wanted) for logits in (student, teacher)
    )
    own = true_p.exp() * (true_p - true_q) + rest_p.exp() * (rest_p - rest_q)
    others = F.kl_div(others_q, others_p, reduction="none", log_target=True).sum(dim=1)
    square = tau.reshape(-1) ** 2 if isinstance(tau, Tensor) else tau**2
    return mean_known((alpha * own + beta * others) * square, known)


@final
@dataclass(frozen=True, slots=True)
class Decoupled:
    """:func:`decoupled` of the student's and a teacher's logits and the truth.

    Arguments:
        alpha: weight of what is said of the true class.
        beta: weight of what is said of the others.
        tau: the temperature, above zero: a number, a schedule, or a policy of :mod:`limbeck.temperature`.
        teacher: which teacher; ``None`` takes the combination of all.
    """

    alpha: float = 1.0
    beta: float = 8.0
    tau: float | Schedule | Temperature = USUAL
    teacher: str | None = None

    def __post_init__(self) -> None:
        require_temperature(self.tau)

    def __call__(self, exchange: Exchange) -> Tensor:
        student, teacher, target = exchange.judged(self.teacher)

        def loss(own: Tensor, other: Tensor, /, *, tau: Tau) -> Tensor:
            return decoupled(own, other, target, alpha=self.alpha, beta=self.beta, tau=tau)

        return tempered(loss, student, teacher, tau=self.tau, progress=exchange.progress)


def _parted(log_q: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The logarithms of q_c and 1 − q_c, ``[rows]``, and of q without c, ``[rows, classes]``; all of them finite."""
    others = log_q.scatter(1, wanted, torch.finfo(log_q.dtype).min)
    rest = others.logsumexp(dim=1, keepdim=True)
    return log_q.gather(1, wanted).squeeze(1), rest.squeeze(1), others - rest
