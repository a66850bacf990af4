"""Knowledge of responses at three levels and several temperatures: samples, the batch, and the classes.

Jin et al., CVPR 2023,
https://openaccess.thecvf.com/content/CVPR2023/html/Jin_Multi-Level_Logit_Distillation_CVPR_2023_paper.html. With P and
Q the teacher's and the student's softmax at a temperature, as ``[rows, classes]``:

    instances  tau² · mean over rows of KL(P ‖ Q)
    batch      ‖P·Pᵀ − Q·Qᵀ‖² / rows       which samples are answered alike
    classes    ‖Pᵀ·P − Qᵀ·Q‖² / classes    which classes are confused

all summed over the temperatures. The published code leaves out the surer half of the samples and of the classes, by a
mask that for two of the three parts multiplies what has been summed already; the paper has no mask, and neither has
this. The paper's weak and strong views are rows here: give each sample several views (``per_decode``). The two matrices
relate rows, so a batch spread over processes is gathered (``gather: true`` in a recipe). A temperature policy moves
all the temperatures together: they are scaled so that their mean is what the policy says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError
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
from limbeck.losses.temperature import Temperature, tempered

__all__ = ["MultiLevel", "multi_level"]

_TAUS = (2.0, 3.0, 4.0, 5.0, 6.0)


def multi_level(
    student: Tensor, teacher: Tensor, *,
    taus: Sequence[float] = _TAUS, instances: float = 1.0, batch: float = 1.0, classes: float = 1.0,
) -> Tensor:  # fmt: skip
    """Sum over ``taus`` of the three levels, each times its weight.

    Shapes: both ``[rows, classes]`` logits. Zero where they agree. A batch twice over costs twice as much at the level
    of the batch and four times at that of the classes, as in the paper.

    >>> multi_level(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 0.0]]), taus=[1.0], instances=0.0)
    tensor(0.2712)
    """
    student, teacher = logits_pair(student, teacher)
    return sum(
        (_levels(student, teacher, tau, instances, batch, classes) for tau in _checked(taus)), student.new_zeros(())
    )


def _levels(student: Tensor, teacher: Tensor, tau: Tau, instances: float, batch: float, classes: float) -> Tensor:
    log_q, log_p = log_probabilities(student, tau), log_probabilities(teacher, tau)
    q, p = log_q.exp(), log_p.exp()
    by_row = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=1)
    samples, confused = torch.mm(p, p.T) - torch.mm(q, q.T), torch.mm(p.T, p) - torch.mm(q.T, q)
    return (
        instances * mean_softened(by_row, tau)
        + batch * samples.square().sum() / max(len(samples), 1)
        + classes * confused.square().sum() / max(len(confused), 1)
    )


@final
@dataclass(frozen=True, slots=True)
class MultiLevel:
    """:func:`multi_level` of the student's and a teacher's logits.

    Arguments:
        taus: the temperatures, each above zero; the loss is the sum over them.
        instances: weight of what is said of each sample.
        batch: weight of which samples are answered alike.
        classes: weight of which classes are confused.
        teacher: which teacher; ``None`` takes the combination of all.
        tau: what the mean of ``taus`` is scaled to, a number, a schedule or a policy; ``None`` leaves them.
    """

    taus: tuple[float, ...] = _TAUS
    instances: float = 1.0
    batch: float = 1.0
    classes: float = 1.0
    teacher: str | None = None
    tau: float | Schedule | Temperature | None = None

    def __post_init__(self) -> None:
        if self.tau is not None:
            require_temperature(self.tau)
        object.__setattr__(self, "taus", tuple(_checked(self.taus)))

    def __call__(self, exchange: Exchange) -> Tensor:
        student, teacher = exchange.pair(self.teacher)
        if self.tau is not None:
            return tempered(self._around, student, teacher, tau=self.tau, progress=exchange.progress)
        return multi_level(
            student.rows(), teacher.rows(),
            taus=self.taus, instances=self.instances, batch=self.batch, classes=self.classes,
        )  # fmt: skip

    def _around(self, student: Tensor, teacher: Tensor, *, tau: Tau) -> Tensor:
        student, teacher = logits_pair(student, teacher)
        centre, middle = temperature(tau, student), sum(self.taus) / len(self.taus)
        return sum(
            (
                _levels(student, teacher, centre * (one / middle), self.instances, self.batch, self.classes)
                for one in self.taus
            ),
            student.new_zeros(()),
        )


def _checked(taus: Sequence[float]) -> Sequence[float]:
    if not len(taus):
        raise LimbeckError("several temperatures are asked for, and here is none: give taus=[2, 3, 4, 5, 6]")
    for tau in taus:
        require_temperature(tau)
    return taus
