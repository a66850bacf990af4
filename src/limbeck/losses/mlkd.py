"""Multi-level logit distillation (MLKD): predictions, batch and class similarities at several temperatures.

Jin et al., CVPR 2023,
https://openaccess.thecvf.com/content/CVPR2023/html/Jin_Multi-Level_Logit_Distillation_CVPR_2023_paper.html. With P and
Q the teacher's and the student's softmax at a temperature, as ``[rows, classes]``:

    instance   τ² · mean over rows of KL(P ‖ Q)
    batch      ‖P·Pᵀ − Q·Qᵀ‖² / rows       similarity of samples
    classes    ‖Pᵀ·P − Qᵀ·Q‖² / classes    similarity of classes

summed over the temperatures. As in the paper, and unlike the published code, no sample or class is masked. The paper's
weak and strong views are rows here: give each sample several views. Gather the batch of all processes
(``gather_distributed: true`` in a recipe).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.losses._bases import LogitLoss
from limbeck.losses._logits import (
    TemperatureValue,
    broadcast_temperature,
    kl_mean,
    log_softmax_pair,
    require_temperature,
)
from limbeck.losses._ops import upcast

_TEMPERATURES = (2.0, 3.0, 4.0, 5.0, 6.0)


def mlkd_loss(
    student: Tensor, teacher: Tensor, *, temperatures: Sequence[float] = _TEMPERATURES, instance_weight: float = 1.0,
    batch_weight: float = 1.0, class_weight: float = 1.0, temperature: TemperatureValue | None = None,
) -> Tensor:  # fmt: skip
    """Sum over ``temperatures`` of the three levels, each times its weight.

    Shapes: both ``[rows, classes]`` logits; with ``temperature``, a number or ``[rows]``, all temperatures are scaled
    to this mean. Zero where they agree. Repeating a batch doubles the level of the batch and quadruples that of the
    classes, as in the paper.

    >>> mlkd_loss(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 0.0]]), temperatures=[1.0], instance_weight=0.0)
    tensor(0.2712)
    """
    _require_temperatures(temperatures)
    values: Sequence[TemperatureValue] = temperatures
    if temperature is not None:
        mean = sum(temperatures) / len(temperatures)
        scale = broadcast_temperature(temperature, student)
        values = [scale * (value / mean) for value in temperatures]
    total = upcast(student).new_zeros(())
    for value in values:
        log_q, log_p, divisor = log_softmax_pair(student, teacher, value)
        q, p = log_q.exp(), log_p.exp()
        batch_difference, class_difference = torch.mm(p, p.T) - torch.mm(q, q.T), torch.mm(p.T, p) - torch.mm(q.T, q)
        total = (
            total
            + instance_weight * kl_mean(log_q, log_p, divisor)
            + batch_weight * batch_difference.square().sum() / max(len(batch_difference), 1)
            + class_weight * class_difference.square().sum() / max(len(class_difference), 1)
        )
    return total


@final
@dataclass(frozen=True)
class MLKDLoss(LogitLoss):
    """:func:`mlkd_loss` of the student's and a teacher's logits.

    Args:
        temperatures: the temperatures, each above zero; the loss is the sum over them.
        instance_weight: weight of the instance level.
        batch_weight: weight of the batch level.
        class_weight: weight of the class level.
        temperature: mean to which ``temperatures`` are scaled, a number, a schedule or a policy; ``None``: not scaled.
    """

    paper: ClassVar = (
        "https://openaccess.thecvf.com/content/CVPR2023/html/Jin_Multi-Level_Logit_Distillation_CVPR_2023_paper.html"
    )
    fn: ClassVar = staticmethod(mlkd_loss)

    temperatures: tuple[float, ...] = _TEMPERATURES
    instance_weight: float = 1.0
    batch_weight: float = 1.0
    class_weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_temperatures(self.temperatures)


def _require_temperatures(temperatures: Sequence[float]) -> None:
    if not len(temperatures):
        raise LimbeckError("temperatures must not be empty: give temperatures=[2, 3, 4, 5, 6]")
    for temperature in temperatures:
        require_temperature(temperature)
