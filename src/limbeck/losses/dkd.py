"""Decoupled knowledge distillation (DKD): target-class and non-target-class terms with separate weights.

Zhao et al., CVPR 2022, https://arxiv.org/abs/2203.08679. With p and q the teacher's and the student's softmax at
temperature τ and c the target class:

    TCKD = KL of (p_c, 1 − p_c) from (q_c, 1 − q_c)
    NCKD = KL of p without c from q without c, each renormalized
    loss = τ² · mean over rows of alpha · TCKD + beta · NCKD

The KD loss is TCKD + (1 − p_c) · NCKD, which suppresses NCKD where the teacher is confident. Both are computed from
log-sum-exps, which are finite in half precision as well. The paper warms the weight of the loss up over 20 epochs: in a
recipe, ``weight: {use: warmup, ...}``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from limbeck.losses._bases import LogitLoss
from limbeck.losses._logits import TemperatureValue, kl_by_row, log_softmax_pair, masked_mean, valid_targets


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

    Shapes: both ``[rows, classes]`` logits of at least 2 classes; ``target`` ``[rows]`` class indices (−100: no label)
    or ``[rows, classes]`` probabilities, whose argmax is taken; ``temperature`` a number or ``[rows]``. Zero where they
    agree; in nats. A class of logit −inf in both is ignored.

    >>> student, teacher = torch.tensor([[2.0, 0.0, 1.0]]), torch.zeros(1, 3)
    >>> dkd_loss(student, teacher, torch.tensor([0]), temperature=1.0)
    tensor(1.1898)
    """
    log_q, log_p, temperature = log_softmax_pair(student, teacher, temperature)
    target_index, is_labeled = valid_targets(student, target)
    (target_q, rest_q, others_q), (target_p, rest_p, others_p) = (_split(x, target_index) for x in (log_q, log_p))
    tckd = target_p.exp() * (target_p - target_q) + rest_p.exp() * (rest_p - rest_q)
    nckd = kl_by_row(others_q, others_p)
    squared_temperature = temperature.reshape(-1) ** 2 if isinstance(temperature, Tensor) else temperature**2
    return masked_mean((alpha * tckd + beta * nckd) * squared_temperature, is_labeled)


@final
@dataclass(frozen=True)
class DKDLoss(LogitLoss):
    """:func:`dkd_loss` of the student's and a teacher's logits and the target.

    Args:
        alpha: weight of TCKD.
        beta: weight of NCKD.
    """

    paper: ClassVar = "https://arxiv.org/abs/2203.08679"
    needs_target: ClassVar = True
    uses_task_temperature: ClassVar = True
    fn: ClassVar = staticmethod(dkd_loss)

    alpha: float = 1.0
    beta: float = 8.0


def _split(log_q: Tensor, target_index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The logarithms of q_c and 1 − q_c, ``[rows]``, and of q without c, ``[rows, classes]``; all of them finite."""
    other_log_q = log_q.scatter(1, target_index, torch.finfo(log_q.dtype).min)
    log_rest = other_log_q.logsumexp(dim=1, keepdim=True)
    return log_q.gather(1, target_index).squeeze(1), log_rest.squeeze(1), other_log_q - log_rest
