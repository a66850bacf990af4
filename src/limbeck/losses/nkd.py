"""Normalized knowledge distillation (NKD): target-class probability and normalized non-target probabilities.

Yang et al., ICCV 2023, https://arxiv.org/abs/2303.13005. With p and q the teacher's and the student's softmax, c the
target class, and p̂ and q̂ the softmax at temperature τ over the other classes only:

    loss = mean over rows of −p_c · log q_c + gamma · τ² · (−Σ p̂ · log q̂)

The first part has no temperature, as in the paper. Both are cross-entropies, so the loss is not zero where student and
teacher agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from limbeck.losses._bases import LogitLoss
from limbeck.losses._logits import (
    TemperatureValue,
    broadcast_temperature,
    clamped_log_softmax,
    masked_mean,
    prepare_logits,
    scale_logits,
    valid_targets,
)


def nkd_loss(
    student: Tensor, teacher: Tensor, target: Tensor, *, gamma: float = 1.5, temperature: TemperatureValue = 1.0
) -> Tensor:  # fmt: skip
    """Mean over the labeled rows of −p_c · log q_c + gamma · τ² · the cross-entropy of the others.

    Shapes: both ``[rows, classes]`` logits of at least 2 classes; ``target`` ``[rows]`` class indices (−100: no label)
    or ``[rows, classes]`` probabilities, whose argmax is taken; ``temperature`` a number or ``[rows]``. In nats. A
    class of logit −inf in both is ignored.

    >>> student, teacher = torch.tensor([[2.0, 0.0, 1.0]]), torch.zeros(1, 3)
    >>> nkd_loss(student, teacher, torch.tensor([0]))
    tensor(1.3558)
    """
    student, teacher = prepare_logits(student, teacher)
    target_index, is_labeled = valid_targets(student, target)
    temperature = broadcast_temperature(temperature, student)
    target_q, target_p = (clamped_log_softmax(x).gather(1, target_index).squeeze(1) for x in (student, teacher))
    others_q, others_p = (
        clamped_log_softmax(scale_logits(logits, temperature).scatter(1, target_index, -torch.inf))
        for logits in (student, teacher)
    )
    other_loss = -(others_p.exp() * others_q).sum(dim=1)
    squared_temperature = temperature.reshape(-1) ** 2 if isinstance(temperature, Tensor) else temperature**2
    return masked_mean(gamma * squared_temperature * other_loss - target_p.exp() * target_q, is_labeled)


@final
@dataclass(frozen=True)
class NKDLoss(LogitLoss):
    """:func:`nkd_loss` of the student's and a teacher's logits and the target.

    The temperature is that of the non-target classes, 1 by default; a policy that changes the logits
    (``LogitStandardization``, ``Dynamic``) changes them for the target class as well.

    Args:
        gamma: weight of the non-target classes.
    """

    paper: ClassVar = "https://arxiv.org/abs/2303.13005"
    needs_target: ClassVar = True
    paper_temperature: ClassVar = 1.0
    fn: ClassVar = staticmethod(nkd_loss)

    gamma: float = 1.5
