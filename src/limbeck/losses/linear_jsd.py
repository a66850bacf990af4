"""Generalized Jensen–Shannon divergence from hidden states and a head, as :mod:`limbeck.losses.jsd`, in chunks of rows.

Lin, IEEE Transactions on Information Theory 1991, https://doi.org/10.1109/18.61115; for distillation of language
models, Agarwal et al., ICLR 2024, https://arxiv.org/abs/2306.13649.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from limbeck.losses._bases import LinearLogitLoss
from limbeck.losses._linear import LinearLogits, TeacherLogits
from limbeck.losses._linear_loss import LinearLossOptions, linear_loss
from limbeck.losses._logits import TemperatureValue
from limbeck.losses._ops import require_interval


def linear_jsd_loss(
    student: LinearLogits, teacher: TeacherLogits, *, temperature: TemperatureValue = 4.0, beta: float = 0.5,
    row_weights: Tensor | None = None, num_rows: float | Tensor | None = None, num_classes: int | None = None,
    chunk_rows: int | None = None,
) -> Tensor:  # fmt: skip
    """Mean over rows of beta · KL(p ‖ m) + (1 − beta) · KL(q ‖ m), times ``temperature ** 2``, in chunks of rows.

    ``beta``, between 0 and 1, is the teacher's weight in the mixture m. The other arguments, result and errors are
    those of :func:`~limbeck.losses.linear_kd_loss`; value and gradient are those of :func:`~limbeck.losses.jsd_loss`.

    >>> import torch
    >>> identity = torch.eye(2)
    >>> student, teacher = LinearLogits(torch.tensor([[2.0, 0.0]]), identity), LinearLogits(torch.zeros(1, 2), identity)
    >>> linear_jsd_loss(student, teacher, temperature=1.0)
    tensor(0.0895)
    """
    require_interval("beta", beta, "(0, 1)")
    return linear_loss(
        student,
        LinearLossOptions(
            teacher=teacher, divergence="jsd", beta=beta, temperature=temperature, row_weights=row_weights,
            num_rows=num_rows, num_classes=num_classes, chunk_rows=chunk_rows,
        ),
    )  # fmt: skip


@final
@dataclass(frozen=True)
class LinearJSDLoss(LinearLogitLoss):
    """:func:`linear_jsd_loss` of the hidden states and heads of student and teacher.

    Args:
        beta: the teacher's weight in the mixture, between 0 and 1; for its ends use ``LinearKDLoss`` and
            ``LinearReverseKLLoss``.
    """

    paper: ClassVar = "https://doi.org/10.1109/18.61115"
    fn: ClassVar = staticmethod(linear_jsd_loss)

    beta: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        require_interval("beta", self.beta, "(0, 1)")
