"""KD from hidden states and a head: the KL divergence of :mod:`limbeck.losses.kd` without all logits in memory.

Hinton, Vinyals & Dean, 2015, https://arxiv.org/abs/1503.02531. The logits of a large vocabulary are computed for a
chunk of rows at a time, with the gradient, as in cut cross-entropy (Wijmans et al., ICLR 2025,
https://arxiv.org/abs/2411.09009) and Liger (Hsu et al., 2024, https://arxiv.org/abs/2410.10989).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from limbeck.losses._bases import LinearLogitLoss
from limbeck.losses._linear import LinearLogits, TeacherLogits
from limbeck.losses._linear_loss import LinearLossOptions, linear_loss
from limbeck.losses._logits import TemperatureValue


def linear_kd_loss(
    student: LinearLogits, teacher: TeacherLogits, *, temperature: TemperatureValue = 4.0,
    row_weights: Tensor | None = None, num_rows: float | Tensor | None = None, num_classes: int | None = None,
    chunk_rows: int | None = None,
) -> Tensor:  # fmt: skip
    """Mean over rows of KL(teacher ‖ student) at ``temperature``, times ``temperature ** 2``, in chunks of rows.

    The value and the gradient are those of :func:`~limbeck.losses.kd_loss` of the logits. There is no second
    derivative, and the teacher gets no gradient.

    Args:
        student: hidden states and head.
        teacher: hidden states and head of any width, logits ``[rows, classes]``, or
            :class:`~limbeck.losses.TopKLogits`, whose divergence is over the k classes and the rest as one.
        temperature: a number or ``[rows]``, each row then scaled by its own square.
        row_weights: ``[rows]`` factors of each row, or booleans, false for rows that are left out.
        num_rows: divisor of the sum over rows; ``None``: the number of rows, of boolean weights the true ones. Where
            gradients of several batches are accumulated, the rows of all of them.
        num_classes: classes from this index on are padding of the vocabulary and left out of both; ``None``: none is.
        chunk_rows: rows whose logits are computed at once; ``None``: by the number of classes.

    Returns:
        A scalar, float32 or float64.

    Raises:
        LimbeckError: heads of different vocabularies without ``num_classes``, or different rows.

    >>> import torch
    >>> identity = torch.eye(2)
    >>> student, teacher = LinearLogits(torch.tensor([[2.0, 0.0]]), identity), LinearLogits(torch.zeros(1, 2), identity)
    >>> linear_kd_loss(student, teacher, temperature=1.0)
    tensor(0.4338)
    """
    return linear_loss(
        student,
        LinearLossOptions(
            teacher=teacher, divergence="kl", temperature=temperature, row_weights=row_weights, num_rows=num_rows,
            num_classes=num_classes, chunk_rows=chunk_rows,
        ),
    )  # fmt: skip


@final
@dataclass(frozen=True)
class LinearKDLoss(LinearLogitLoss):
    """:func:`linear_kd_loss` of the hidden states and heads of student and teacher."""

    paper: ClassVar = "https://arxiv.org/abs/1503.02531"
    fn: ClassVar = staticmethod(linear_kd_loss)
