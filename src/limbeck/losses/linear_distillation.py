"""Cross-entropy and a divergence from hidden states and a head, in one pass.

As two losses, :mod:`limbeck.losses.linear_cross_entropy` and :mod:`limbeck.losses.linear_kd` compute the student's
logits and the products of their gradient twice; this computes them once. The sum is that of Hinton, Vinyals & Dean,
2015, https://arxiv.org/abs/1503.02531.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from limbeck.losses._bases import LinearLogitLoss
from limbeck.losses._linear import LinearLogits, TeacherLogits
from limbeck.losses._linear_blocks import Divergence, require_divergence
from limbeck.losses._linear_loss import LinearLossOptions, linear_loss
from limbeck.losses._logits import TemperatureValue
from limbeck.losses._ops import require_interval


def linear_distillation_loss(
    student: LinearLogits, teacher: TeacherLogits, target: Tensor, *, target_weight: float = 0.1,
    teacher_weight: float = 0.9, divergence: Divergence = "kl", beta: float = 0.5,
    temperature: TemperatureValue = 4.0, label_smoothing: float = 0.0, row_weights: Tensor | None = None,
    num_rows: float | Tensor | None = None, num_labeled: float | Tensor | None = None, num_classes: int | None = None,
    chunk_rows: int | None = None,
) -> Tensor:  # fmt: skip
    """``target_weight`` · cross-entropy + ``teacher_weight`` · divergence · ``temperature ** 2``, in chunks of rows.

    Args:
        student: hidden states and head.
        teacher: as in :func:`~limbeck.losses.linear_kd_loss`.
        target: ``[rows]`` class indices (−100: no label); a row without a label has its divergence only.
        target_weight: factor of :func:`~limbeck.losses.linear_cross_entropy_loss`, which has temperature 1.
        teacher_weight: factor of the divergence.
        divergence: ``kl``, ``reverse_kl`` or ``jsd``.
        beta: the teacher's weight in the mixture of ``jsd``, between 0 and 1.
        temperature: of the divergence, a number or ``[rows]``.
        label_smoothing: weight of the uniform distribution in the target, from 0 to below 1.
        row_weights: ``[rows]`` factors of each row, or booleans, false for rows that are left out.
        num_rows: divisor of the divergences; ``None``: the number of rows, of boolean weights the true ones.
        num_labeled: divisor of the cross-entropies; ``None``: the number of those with a label.
        num_classes: classes from this index on are padding of the vocabulary and left out of both; ``None``: none is.
        chunk_rows: rows whose logits are computed at once; ``None``: by the number of classes.

    Returns:
        A scalar, float32 or float64.

    Raises:
        LimbeckError: as the two losses.

    >>> import torch
    >>> identity, target = torch.eye(2), torch.tensor([0])
    >>> student, teacher = LinearLogits(torch.tensor([[2.0, 0.0]]), identity), LinearLogits(torch.zeros(1, 2), identity)
    >>> linear_distillation_loss(student, teacher, target, temperature=1.0)  # 0.1 · 0.1269 + 0.9 · 0.4338
    tensor(0.4031)
    """
    require_divergence(divergence, beta)
    require_interval("label_smoothing", label_smoothing, "[0, 1)")
    return linear_loss(
        student,
        LinearLossOptions(
            teacher=teacher, target=target, target_weight=target_weight, teacher_weight=teacher_weight,
            divergence=divergence, beta=beta, temperature=temperature, label_smoothing=label_smoothing,
            row_weights=row_weights, num_rows=num_rows, num_labeled=num_labeled, num_classes=num_classes,
            chunk_rows=chunk_rows,
        ),
    )  # fmt: skip


@final
@dataclass(frozen=True)
class LinearDistillationLoss(LinearLogitLoss):
    """:func:`linear_distillation_loss` of the hidden states and heads of student and teacher, and the target.

    A sample without an output of the teacher is left out of the cross-entropy too.

    Args:
        target_weight: factor of the cross-entropy.
        teacher_weight: factor of the divergence.
        divergence: ``kl``, ``reverse_kl`` or ``jsd``.
        beta: the teacher's weight in the mixture of ``jsd``, between 0 and 1.
        label_smoothing: weight of the uniform distribution in the target, from 0 to below 1.
    """

    paper: ClassVar = "https://arxiv.org/abs/1503.02531"
    needs_target: ClassVar = True
    fn: ClassVar = staticmethod(linear_distillation_loss)

    target_weight: float = 0.1
    teacher_weight: float = 0.9
    divergence: Divergence = "kl"
    beta: float = 0.5
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_divergence(self.divergence, self.beta)
        require_interval("label_smoothing", self.label_smoothing, "[0, 1)")
