"""Knowledge of responses: the true class's own share, and the others made to sum to one (NKD).

Yang et al., ICCV 2023, https://arxiv.org/abs/2303.13005. With p and q the teacher's and the student's softmax, c the
true class, and p̂ and q̂ the softmax at temperature tau over the other classes only:

    loss = mean over rows of −p_c · log q_c + gamma · tau² · (−Σ p̂ · log q̂)

The first part has no temperature, as in the paper. Both are cross-entropies, so the loss is not zero where student and
teacher agree; it is least there in its second part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from limbeck.core.loss_context import Exchange
from limbeck.core.schedules import Schedule
from limbeck.losses._logits import (
    Tau,
    known_classes,
    log_probabilities,
    logits_pair,
    mean_known,
    require_temperature,
    softened,
    temperature,
)
from limbeck.losses.temperature import Temperature, tempered

__all__ = ["Normalized", "normalized"]


def normalized(
    student: Tensor, teacher: Tensor, target: Tensor, *, gamma: float = 1.5, tau: Tau = 1.0
) -> Tensor:  # fmt: skip
    """Mean over the labelled rows of −p_c · log q_c + gamma · tau² · the cross-entropy of the others.

    Shapes: both ``[rows, classes]`` logits of at least 2 classes; ``target`` ``[rows]`` class numbers (−100: no label,
    the row is left out) or ``[rows, classes]`` probabilities, of which the likeliest counts; ``tau`` a number or
    ``[rows]``. In nats. A class of logit −inf in both counts for nothing.

    >>> student, teacher = torch.tensor([[2.0, 0.0, 1.0]]), torch.zeros(1, 3)
    >>> normalized(student, teacher, torch.tensor([0]))
    tensor(1.3558)
    """
    student, teacher = logits_pair(student, teacher)
    wanted, known = known_classes(student, target)
    tau = temperature(tau, student)
    said, told = (log_probabilities(logits).gather(1, wanted).squeeze(1) for logits in (student, teacher))
    others_q, others_p = (
        log_probabilities(softened(logits, tau).scatter(1, wanted, -torch.inf)) for logits in (student, teacher)
    )
    others = -(others_p.exp() * others_q).sum(dim=1)
    square = tau.reshape(-1) ** 2 if isinstance(tau, Tensor) else tau**2
    return mean_known(gamma * square * others - told.exp() * said, known)


@final
@dataclass(frozen=True, slots=True)
class Normalized:
    """:func:`normalized` of the student's and a teacher's logits and the truth.

    Arguments:
        gamma: weight of what is said of the classes that are not the true one.
        tau: their temperature, above zero: a number, a schedule, or a policy of :mod:`limbeck.temperature`; one that
            changes the logits (``Standardised``, ``Dynamic``) changes them for the true class as well.
        teacher: which teacher; ``None`` takes the combination of all.
    """

    gamma: float = 1.5
    tau: float | Schedule | Temperature = 1.0
    teacher: str | None = None

    def __post_init__(self) -> None:
        require_temperature(self.tau)

    def __call__(self, exchange: Exchange) -> Tensor:
        student, teacher, target = exchange.judged(self.teacher)

        def loss(own: Tensor, other: Tensor, /, *, tau: Tau) -> Tensor:
            return normalized(own, other, target, gamma=self.gamma, tau=tau)

        return tempered(loss, student, teacher, tau=self.tau, progress=exchange.progress)
