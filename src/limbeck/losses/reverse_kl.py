"""Reverse KL divergence of softened predictions, KL(student ‖ teacher).

With p and q the teacher's and the student's softmax at temperature τ, the loss is τ² · mean over rows of
Σ q · (log q − log p) over classes: mode-seeking, where the forward divergence is mode-covering. For language models: Gu
et al., ICLR 2024, https://arxiv.org/abs/2306.08543; this is the divergence without their sampling.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from limbeck.losses._bases import LogitLoss
from limbeck.losses._logits import TemperatureValue, kl_mean, log_softmax_pair


def reverse_kl_loss(student: Tensor, teacher: Tensor, *, temperature: TemperatureValue = 4.0) -> Tensor:
    """Mean over rows of KL(student ‖ teacher) at ``temperature``, times ``temperature ** 2``.

    Shapes: both ``[rows, classes]`` logits; ``temperature`` a number or ``[rows]``. Zero where they agree; in nats.

    >>> import torch
    >>> reverse_kl_loss(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 0.0]]), temperature=1.0)
    tensor(0.3278)
    """
    log_q, log_p, temperature = log_softmax_pair(student, teacher, temperature)
    return kl_mean(log_p, log_q, temperature)


@final
@dataclass(frozen=True)
class ReverseKLLoss(LogitLoss):
    """:func:`reverse_kl_loss` of the student's and a teacher's logits."""

    paper: ClassVar = "https://arxiv.org/abs/2306.08543"
    uses_task_temperature: ClassVar = True
    fn: ClassVar = staticmethod(reverse_kl_loss)
