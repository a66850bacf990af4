"""Knowledge distillation (KD): KL divergence of softened predictions.

Hinton, Vinyals & Dean, 2015, https://arxiv.org/abs/1503.02531. With p and q the teacher's and the student's softmax
at temperature τ, the loss is τ² · mean over rows of Σ p · (log p − log q) over classes. The factor τ² keeps the scale
of the gradient. Unlike ``kl_div(reduction="mean")`` it does not divide by the number of classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from limbeck.losses._bases import LogitLoss
from limbeck.losses._logits import TemperatureValue, kl_mean, log_softmax_pair


def kd_loss(student: Tensor, teacher: Tensor, *, temperature: TemperatureValue = 4.0) -> Tensor:
    """Mean over rows of KL(teacher ‖ student) at ``temperature``, times ``temperature ** 2``.

    Shapes: both ``[rows, classes]`` logits; ``temperature`` a number or ``[rows]``, each row then scaled by its own
    square. Zero where they agree; in nats. A class of logit −inf in both is ignored.

    >>> import torch
    >>> kd_loss(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 0.0]]), temperature=1.0)
    tensor(0.4338)
    """
    log_q, log_p, temperature = log_softmax_pair(student, teacher, temperature)
    return kl_mean(log_q, log_p, temperature)


@final
@dataclass(frozen=True)
class KDLoss(LogitLoss):
    """:func:`kd_loss` of the student's and a teacher's logits."""

    paper: ClassVar = "https://arxiv.org/abs/1503.02531"
    uses_task_temperature: ClassVar = True
    fn: ClassVar = staticmethod(kd_loss)
