"""Knowledge of responses: only the teacher is softened, and soft answers weigh more (TTM and WTTM).

Zheng & Yang, ICLR 2024, https://arxiv.org/abs/2402.11148. With p and q the teacher's and the student's softmax,
untempered, and p_g proportional to p to the power g:

    TTM  = mean over rows of KL(p_g ‖ q)
    WTTM = the same, each row times Σ p^g over classes

A power g is a temperature 1/g of the teacher only; as the student has none, no tau² belongs to it. Σ p^g is 1 where the
teacher is sure, and classes to the power 1 − g where it knows nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal, final

from torch import Tensor
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import Exchange
from limbeck.core.schedules import Schedule
from limbeck.losses._logits import Tau, log_probabilities, logits_pair, require_temperature, temperature
from limbeck.losses._ops import mean_rows
from limbeck.losses.temperature import Temperature, tempered

__all__ = ["Transformed", "transformed"]

Rows = Literal["by_softness", "equal"]


def transformed(
    student: Tensor, teacher: Tensor, *, power: float = 0.2, rows: Rows = "by_softness"
) -> Tensor:  # fmt: skip
    """Mean over rows of KL(p^power, renormalised ‖ q), each row times Σ p^power, or each the same.

    Shapes: both ``[rows, classes]`` logits; ``power`` above 0 (published: 0.1 to 0.2); ``rows`` is ``"by_softness"``
    (WTTM) or ``"equal"`` (TTM). In nats. Zero where the student says the teacher's softened answer, so not where they
    agree, unless ``power`` is 1. A class of logit −inf in both counts for nothing.

    >>> import torch
    >>> transformed(torch.tensor([[2.0, 0.0]]), torch.tensor([[2.0, 0.0]]), power=0.5)
    tensor(0.1060)
    """
    _require(power, rows)
    return _transformed(student, teacher, tau=1 / power, rows=rows)


def _transformed(student: Tensor, teacher: Tensor, *, tau: Tau, rows: Rows) -> Tensor:
    student, teacher = logits_pair(student, teacher)
    tau = temperature(tau, teacher)
    log_q, log_p = log_probabilities(student), log_probabilities(teacher)
    by_row = F.kl_div(log_q, log_probabilities(teacher, tau), reduction="none", log_target=True).sum(dim=1)
    if rows == "by_softness":
        by_row = by_row * (log_p / tau).exp().sum(dim=1)
    return mean_rows(by_row)


@final
@dataclass(frozen=True, slots=True)
class Transformed:
    """:func:`transformed` of the student's and a teacher's logits.

    Arguments:
        power: of the teacher's probabilities, above 0; one over a temperature.
        rows: ``"by_softness"``: rows of which the teacher is unsure weigh more (WTTM); ``"equal"``: all the same (TTM).
        teacher: which teacher; ``None`` takes the combination of all.
        tau: of the teacher, a number, a schedule or a policy, in place of one over ``power``.
    """

    power: float = 0.2
    rows: Rows = "by_softness"
    teacher: str | None = None
    tau: float | Schedule | Temperature | None = None

    def __post_init__(self) -> None:
        _require(self.power, self.rows)
        if self.tau is not None:
            require_temperature(self.tau)

    def __call__(self, exchange: Exchange) -> Tensor:
        student, teacher = exchange.pair(self.teacher)
        if self.tau is not None:
            loss = partial(_transformed, rows=self.rows)
            return tempered(loss, student, teacher, tau=self.tau, progress=exchange.progress)
        return transformed(student.rows(), teacher.rows(), power=self.power, rows=self.rows)


def _require(power: float, rows: str) -> None:
    if not 0 < power < float("inf"):
        raise LimbeckError(f"the power of the teacher's probabilities is a number above zero, not {power}")
    if rows not in ("by_softness", "equal"):
        raise LimbeckError(f"rows weigh 'by_softness' or 'equal', not {rows!r}")
