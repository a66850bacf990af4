"""Multi-level logit distillation (MLKD): predictions, batch and class similarities at several temperatures.

Jin et al., CVPR 2023,
https://openaccess.thecvf.com/content/CVPR2023/html/Jin_Multi-Level_Logit_Distillation_CVPR_2023_paper.html. With P and
Q the teacher's and the student's softmax at a temperature, as ``[rows, classes]``:

    instance   τ² · mean over rows of KL(P ‖ Q)
    batch      ‖P·Pᵀ − Q·Qᵀ‖² / rows       similarity of samples
    classes    ‖Pᵀ·P − Qᵀ·Q‖² / classes    similarity of classes

summed over the temperatures. The published code masks the confident half of samples and classes; the paper does not,
nor does this. The paper's weak and strong views are rows here: give each sample several views. Gather the batch of all
processes (``gather_distributed: true`` in a recipe). A temperature policy scales all temperatures so that their mean is
its value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import LossContext
from limbeck.core.protocols import Loss
from limbeck.core.schedules import Schedule
from limbeck.losses._logits import (
    TemperatureValue,
    broadcast_temperature,
    clamped_log_softmax,
    prepare_logits,
    require_temperature,
    temperature_scaled_mean,
)
from limbeck.losses.temperature import Temperature, apply_temperature

__all__ = ["MLKDLoss", "mlkd_loss"]

_TEMPERATURES = (2.0, 3.0, 4.0, 5.0, 6.0)


def mlkd_loss(
    student: Tensor, teacher: Tensor, *,
    temperatures: Sequence[float] = _TEMPERATURES, instance_weight: float = 1.0, batch_weight: float = 1.0,
    class_weight: float = 1.0,
) -> Tensor:  # fmt: skip
    """Sum over ``temperatures`` of the three levels, each times its weight.

    Shapes: both ``[rows, classes]`` logits. Zero where they agree. A batch twice over costs twice as much at the level
    of the batch and four times at that of the classes, as in the paper.

    >>> mlkd_loss(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 0.0]]), temperatures=[1.0], instance_weight=0.0)
    tensor(0.2712)
    """
    student, teacher = prepare_logits(student, teacher)
    return sum(
        (
            _mlkd_loss_at(student, teacher, temperature, instance_weight, batch_weight, class_weight)
            for temperature in _require_temperatures(temperatures)
        ),
        student.new_zeros(()),
    )


def _mlkd_loss_at(
    student: Tensor,
    teacher: Tensor,
    temperature: TemperatureValue,
    instance_weight: float,
    batch_weight: float,
    class_weight: float,
) -> Tensor:
    log_q, log_p = clamped_log_softmax(student, temperature), clamped_log_softmax(teacher, temperature)
    q, p = log_q.exp(), log_p.exp()
    by_row = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=1)
    sample_difference, class_difference = torch.mm(p, p.T) - torch.mm(q, q.T), torch.mm(p.T, p) - torch.mm(q.T, q)
    return (
        instance_weight * temperature_scaled_mean(by_row, temperature)
        + batch_weight * sample_difference.square().sum() / max(len(sample_difference), 1)
        + class_weight * class_difference.square().sum() / max(len(class_difference), 1)
    )


@final
@dataclass(frozen=True, slots=True)
class MLKDLoss(Loss):
    """:func:`mlkd_loss` of the student's and a teacher's logits.

    Args:
        temperatures: the temperatures, each above zero; the loss is the sum over them.
        instance_weight: weight of the instance level.
        batch_weight: weight of the batch level.
        class_weight: weight of the class level.
        teacher: name of the teacher; ``None``: the ensemble of all.
        temperature: mean to which ``temperatures`` are scaled, a number, a schedule or a policy; ``None``: not scaled.
    """

    knowledge: ClassVar = "response"
    paper: ClassVar = (
        "https://openaccess.thecvf.com/content/CVPR2023/html/Jin_Multi-Level_Logit_Distillation_CVPR_2023_paper.html"
    )
    uses_temperature: ClassVar = True

    temperatures: tuple[float, ...] = _TEMPERATURES
    instance_weight: float = 1.0
    batch_weight: float = 1.0
    class_weight: float = 1.0
    teacher: str | None = None
    temperature: float | Schedule | Temperature | None = None

    def __post_init__(self) -> None:
        if self.temperature is not None:
            require_temperature(self.temperature)
        object.__setattr__(self, "temperatures", tuple(_require_temperatures(self.temperatures)))

    def __call__(self, context: LossContext) -> Tensor:
        if self.temperature is not None:
            return apply_temperature(
                self._loss_at_mean_temperature, context, temperature=self.temperature, teacher=self.teacher
            )
        student, teacher = context.pair(self.teacher)
        return mlkd_loss(
            student.require_logits(), teacher.require_logits(),
            temperatures=self.temperatures, instance_weight=self.instance_weight, batch_weight=self.batch_weight,
            class_weight=self.class_weight,
        )  # fmt: skip

    def _loss_at_mean_temperature(self, student: Tensor, teacher: Tensor, *, temperature: TemperatureValue) -> Tensor:
        student, teacher = prepare_logits(student, teacher)
        target_mean, current_mean = (
            broadcast_temperature(temperature, student),
            sum(self.temperatures) / len(self.temperatures),
        )
        return sum(
            (
                _mlkd_loss_at(
                    student,
                    teacher,
                    target_mean * (value / current_mean),
                    self.instance_weight,
                    self.batch_weight,
                    self.class_weight,
                )
                for value in self.temperatures
            ),
            student.new_zeros(()),
        )


def _require_temperatures(temperatures: Sequence[float]) -> Sequence[float]:
    if not len(temperatures):
        raise LimbeckError("several temperatures are asked for, and here is none: give temperatures=[2, 3, 4, 5, 6]")
    for temperature in temperatures:
        require_temperature(temperature)
    return temperatures
