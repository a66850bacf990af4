"""Reverse KL from hidden states and a head, as :mod:`limbeck.losses.reverse_kl`, without all logits in memory.

For language models: Gu et al., ICLR 2024, https://arxiv.org/abs/2306.08543; this is the divergence without their
sampling.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from limbeck.losses._bases import LinearLogitLoss
from limbeck.losses._linear import LinearLogits, TeacherLogits
from limbeck.losses._linear_loss import LinearLossOptions, linear_loss
from limbeck.losses._logits import TemperatureValue


def linear_reverse_kl_loss(
    student: LinearLogits, teacher: TeacherLogits, *, temperature: TemperatureValue = 4.0,
    row_weights: Tensor | None = None, num_rows: float | Tensor | None = None, num_classes: int | None = None,
    chunk_rows: int | None = None,
) -> Tensor:  # fmt: skip
    """Mean over rows of KL(student ‖ teacher) at ``temperature``, times ``temperature ** 2``, in chunks of rows.

    Arguments, result and errors are those of :func:`~limbeck.losses.linear_kd_loss`; value and gradient are those of
    :func:`~limbeck.losses.reverse_kl_loss`.

    >>> import torch
    >>> identity = torch.eye(2)
    >>> student, teacher = LinearLogits(torch.tensor([[2.0, 0.0]]), identity), LinearLogits(torch.zeros(1, 2), identity)
    >>> linear_reverse_kl_loss(student, teacher, temperature=1.0)
    tensor(0.3278)
    """
    return linear_loss(
        student,
        LinearLossOptions(
            teacher=teacher, divergence="reverse_kl", temperature=temperature, row_weights=row_weights,
            num_rows=num_rows, num_classes=num_classes, chunk_rows=chunk_rows,
        ),
    )  # fmt: skip


@final
@dataclass(frozen=True)
class LinearReverseKLLoss(LinearLogitLoss):
    """:func:`linear_reverse_kl_loss` of the hidden states and heads of student and teacher."""

    paper: ClassVar = "https://arxiv.org/abs/2306.08543"
    fn: ClassVar = staticmethod(linear_reverse_kl_loss)
