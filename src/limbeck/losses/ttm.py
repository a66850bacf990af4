"""Transformed teacher matching (TTM, WTTM): temperature on the teacher only.

Zheng & Yang, ICLR 2024, https://arxiv.org/abs/2402.11148. With p and q the teacher's and the student's softmax,
untempered, and p_g proportional to p to the power g:

    TTM  = mean over rows of KL(p_g ‖ q)
    WTTM = the same, each row times Σ p^g over classes

A power g is a temperature 1/g of the teacher only; as the student has none, no τ² belongs to it. Σ p^g is 1 where the
teacher is certain, and classes^(1 − g) where its prediction is uniform.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal, final

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
)
from limbeck.losses._ops import row_mean
from limbeck.losses.temperature import Temperature, apply_temperature

__all__ = ["TTMLoss", "ttm_loss"]

RowWeighting = Literal["by_softness", "equal"]


def ttm_loss(
    student: Tensor, teacher: Tensor, *, power: float = 0.2, row_weighting: RowWeighting = "by_softness"
) -> Tensor:  # fmt: skip
    """Mean over rows of KL(p^power, renormalized ‖ q), each row times Σ p^power, or each the same.

    Shapes: both ``[rows, classes]`` logits; ``power`` above 0 (published: 0.1 to 0.2); ``row_weighting`` is
        ``"by_softness"``
    (WTTM) or ``"equal"`` (TTM). In nats. Zero where the student says the teacher's softened answer, so not where they
    agree, unless ``power`` is 1. A class of logit −inf in both counts for nothing.

    >>> import torch
    >>> ttm_loss(torch.tensor([[2.0, 0.0]]), torch.tensor([[2.0, 0.0]]), power=0.5)
    tensor(0.1060)
    """
    _require_settings(power, row_weighting)
    return _ttm_loss_at(student, teacher, temperature=1 / power, row_weighting=row_weighting)


def _ttm_loss_at(
    student: Tensor, teacher: Tensor, *, temperature: TemperatureValue, row_weighting: RowWeighting
) -> Tensor:
    student, teacher = prepare_logits(student, teacher)
    temperature = broadcast_temperature(temperature, teacher)
    log_q, log_p = clamped_log_softmax(student), clamped_log_softmax(teacher)
    by_row = F.kl_div(log_q, clamped_log_softmax(teacher, temperature), reduction="none", log_target=True).sum(dim=1)
    if row_weighting == "by_softness":
        by_row = by_row * (log_p / temperature).exp().sum(dim=1)
    return row_mean(by_row)


@final
@dataclass(frozen=True, slots=True)
class TTMLoss(Loss):
    """:func:`ttm_loss` of the student's and a teacher's logits.

    Args:
        power: of the teacher's probabilities, above 0; one over a temperature.
        row_weighting: ``"by_softness"``: rows with an uncertain teacher have a larger weight (WTTM); ``"equal"``: equal
            weights (TTM).
        teacher: name of the teacher; ``None``: the ensemble of all.
        temperature: of the teacher, a number, a schedule or a policy, in place of one over ``power``.
    """

    knowledge: ClassVar = "response"
    paper: ClassVar = "https://arxiv.org/abs/2402.11148"
    uses_temperature: ClassVar = True

    power: float = 0.2
    row_weighting: RowWeighting = "by_softness"
    teacher: str | None = None
    temperature: float | Schedule | Temperature | None = None

    def __post_init__(self) -> None:
        _require_settings(self.power, self.row_weighting)
        if self.temperature is not None:
            require_temperature(self.temperature)

    def __call__(self, context: LossContext) -> Tensor:
        if self.temperature is not None:
            loss = partial(_ttm_loss_at, row_weighting=self.row_weighting)
            return apply_temperature(loss, context, temperature=self.temperature, teacher=self.teacher)
        student, teacher = context.pair(self.teacher)
        return ttm_loss(
            student.require_logits(), teacher.require_logits(), power=self.power, row_weighting=self.row_weighting
        )


def _require_settings(power: float, row_weighting: str) -> None:
    if not 0 < power < float("inf"):
        raise LimbeckError(f"the power of the teacher's probabilities is a number above zero, not {power}")
    if row_weighting not in ("by_softness", "equal"):
        raise LimbeckError(f"rows weigh 'by_softness' or 'equal', not {row_weighting!r}")
