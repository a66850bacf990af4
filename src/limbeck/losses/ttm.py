"""Transformed teacher matching (TTM, WTTM): temperature on the teacher only.

Zheng & Yang, ICLR 2024, https://arxiv.org/abs/2402.11148. With p and q the teacher's and the student's softmax at
temperature 1, and p_g proportional to p to the power g:

    TTM  = mean over rows of KL(p_g ‖ q)
    WTTM = the same, each row times Σ p^g over classes

A power g is a temperature 1/g of the teacher only; as the student has none, no τ² belongs to it. Σ p^g is 1 where the
teacher is certain, and classes^(1 − g) where its prediction is uniform.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, final

from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.losses._bases import LogitLoss
from limbeck.losses._logits import (
    TemperatureValue,
    broadcast_temperature,
    clamped_log_softmax,
    kl_by_row,
    prepare_logits,
)
from limbeck.losses._ops import require_interval, row_mean

RowWeighting = Literal["by_softness", "equal"]


def ttm_loss(
    student: Tensor, teacher: Tensor, *, power: float = 0.2, row_weighting: RowWeighting = "by_softness",
    temperature: TemperatureValue | None = None,
) -> Tensor:  # fmt: skip
    """Mean over rows of KL(p^power, renormalized ‖ q), each row times Σ p^power, or each the same.

    Shapes: both ``[rows, classes]`` logits; ``power`` above 0 (published: 0.1 to 0.2); ``row_weighting``
    ``"by_softness"`` (WTTM) or ``"equal"`` (TTM); ``temperature`` a number or ``[rows]``, in place of one over
    ``power``. In nats. Zero where the student predicts the teacher's softened probabilities.

    >>> import torch
    >>> ttm_loss(torch.tensor([[2.0, 0.0]]), torch.tensor([[2.0, 0.0]]), power=0.5)
    tensor(0.1060)
    """
    _require_settings(power, row_weighting)
    student, teacher = prepare_logits(student, teacher)
    divisor = broadcast_temperature(1 / power if temperature is None else temperature, teacher)
    by_row = kl_by_row(clamped_log_softmax(student), clamped_log_softmax(teacher, divisor))
    if row_weighting == "by_softness":
        by_row = by_row * (clamped_log_softmax(teacher) / divisor).exp().sum(dim=1)
    return row_mean(by_row)


@final
@dataclass(frozen=True)
class TTMLoss(LogitLoss):
    """:func:`ttm_loss` of the student's and a teacher's logits.

    Args:
        power: of the teacher's probabilities, above 0; one over a temperature.
        row_weighting: ``"by_softness"``: rows with an uncertain teacher have a larger weight (WTTM); ``"equal"``: equal
            weights (TTM).
        temperature: of the teacher, a number, a schedule or a policy, in place of one over ``power``.
    """

    paper: ClassVar = "https://arxiv.org/abs/2402.11148"
    fn: ClassVar = staticmethod(ttm_loss)

    power: float = 0.2
    row_weighting: RowWeighting = "by_softness"

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_settings(self.power, self.row_weighting)


def _require_settings(power: float, row_weighting: str) -> None:
    require_interval("power", power, "(0, inf)")
    if row_weighting not in ("by_softness", "equal"):
        raise LimbeckError(f"row_weighting must be 'by_softness' or 'equal', got {row_weighting!r}")
