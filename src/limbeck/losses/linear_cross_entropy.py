"""Cross-entropy with class indices from hidden states and a head, without all logits in memory.

The logits are computed for a chunk of rows at a time, with the gradient; after Wijmans et al., *Cut Your Losses in
Large-Vocabulary Language Models* (ICLR 2025, https://arxiv.org/abs/2411.09009).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from limbeck.core.loss_context import LossContext
from limbeck.core.protocols import Loss
from limbeck.losses._linear import LinearLogits, require_chunks
from limbeck.losses._linear_loss import LinearLossOptions, linear_loss
from limbeck.losses._ops import require_interval


def linear_cross_entropy_loss(
    student: LinearLogits, target: Tensor, *, label_smoothing: float = 0.0, row_weights: Tensor | None = None,
    num_rows: float | Tensor | None = None, num_classes: int | None = None, chunk_rows: int | None = None,
) -> Tensor:  # fmt: skip
    """Mean over the labeled rows of −log q(target), in nats, in chunks of rows.

    The value and the gradient are those of :func:`~limbeck.losses.cross_entropy_loss` of the logits. There is no second
    derivative.

    Args:
        student: hidden states and head.
        target: ``[rows]`` class indices (−100: no label).
        label_smoothing: weight of the uniform distribution, from 0 to below 1.
        row_weights: ``[rows]`` factors of each row, or booleans, false for rows that are left out.
        num_rows: divisor of the sum over rows; ``None``: the number of labeled rows, of boolean weights the true ones.
            Where gradients of several batches are accumulated, the labeled rows of all of them.
        num_classes: classes from this index on are padding of the vocabulary and left out; ``None``: none is.
        chunk_rows: rows whose logits are computed at once; ``None``: by the number of classes.

    Returns:
        A scalar, float32 or float64.

    Raises:
        LimbeckError: a label that is no class, or another number of labels than rows.

    >>> import torch
    >>> student = LinearLogits(torch.tensor([[2.0, 0.0], [0.0, 9.0]]), torch.eye(2))
    >>> linear_cross_entropy_loss(student, torch.tensor([0, -100]))
    tensor(0.1269)
    """
    require_interval("label_smoothing", label_smoothing, "[0, 1)")
    return linear_loss(
        student,
        LinearLossOptions(
            target=target, label_smoothing=label_smoothing, row_weights=row_weights, num_labeled=num_rows,
            num_classes=num_classes, chunk_rows=chunk_rows,
        ),
    )  # fmt: skip


@final
@dataclass(frozen=True)
class LinearCrossEntropyLoss(Loss):
    """:func:`linear_cross_entropy_loss` of the student's hidden states and head with the target.

    Args:
        label_smoothing: weight of the uniform distribution, from 0 to below 1.
        num_classes: classes from this index on are padding of the vocabulary and left out; ``None``: none is.
        chunk_rows: rows whose logits are computed at once; ``None``: by the number of classes.
    """

    knowledge: ClassVar = "label"
    uses_softmax: ClassVar = True
    paper: ClassVar = "https://arxiv.org/abs/2411.09009"
    needs_target: ClassVar = True
    supervised: ClassVar = True
    needs_teacher: ClassVar = False
    fn: ClassVar = staticmethod(linear_cross_entropy_loss)

    label_smoothing: float = 0.0
    num_classes: int | None = None
    chunk_rows: int | None = None

    def __post_init__(self) -> None:
        require_interval("label_smoothing", self.label_smoothing, "[0, 1)")
        require_chunks(self.num_classes, self.chunk_rows)

    def __call__(self, context: LossContext) -> Tensor:
        return linear_cross_entropy_loss(
            LinearLogits.from_outputs(context.student), context.require_target(),
            label_smoothing=self.label_smoothing, num_classes=self.num_classes, chunk_rows=self.chunk_rows,
        )  # fmt: skip
