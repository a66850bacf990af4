"""Binary knowledge distillation: KL divergence of each class by itself, for heads with a sigmoid.

The head of a dense detector, and of multi-label classification, decides about each class by itself (Lin et al., 2017,
https://arxiv.org/abs/1708.02002), so a softmax over its classes has no meaning. With p and q the teacher's and the
student's sigmoid(z / τ), the loss is τ² · mean over rows of Σ p · log(p / q) + (1 − p) · log((1 − p) / (1 − q)) over
classes: that of Hinton et al. (https://arxiv.org/abs/1503.02531) for classes with two outcomes each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from limbeck.losses._bases import LogitLoss
from limbeck.losses._logits import TemperatureValue, log_sigmoid_pair, prepare_logits, temperature_scaled_mean


def binary_kd_loss(student: Tensor, teacher: Tensor, *, temperature: TemperatureValue = 1.0) -> Tensor:
    """Mean over rows of the sum over classes of the binary KL(teacher ‖ student), times ``temperature ** 2``.

    Shapes: both ``[rows, classes]`` logits of sigmoids; ``temperature`` a number or ``[rows]``. Zero where they agree;
    in nats.

    >>> import torch
    >>> binary_kd_loss(torch.tensor([[2.0]]), torch.tensor([[0.0]]))
    tensor(0.4338)
    """
    student, teacher = prepare_logits(student, teacher)
    log_q, log_not_q = log_sigmoid_pair(student, temperature)
    log_p, log_not_p = log_sigmoid_pair(teacher, temperature)
    by_class = log_p.exp() * (log_p - log_q) + log_not_p.exp() * (log_not_p - log_not_q)
    return temperature_scaled_mean(by_class.sum(dim=1), temperature)


@final
@dataclass(frozen=True)
class BinaryKDLoss(LogitLoss):
    """:func:`binary_kd_loss` of the student's and a teacher's logits, for heads with a sigmoid for each class.

    RetinaNet and FCOS of torchvision have such heads. Most rows of a detector are background, so the mean over rows is
    small: a weight of 10 to 1000 is usual.
    """

    paper: ClassVar = "https://arxiv.org/abs/1503.02531"
    uses_task_temperature: ClassVar = True
    uses_softmax: ClassVar = False
    has_sigmoids: ClassVar = True
    fn: ClassVar = staticmethod(binary_kd_loss)
