"""Quality focal loss against a teacher: binary cross-entropy, weighted by how far the probabilities are apart.

Li et al., Generalized Focal Loss, NeurIPS 2020, https://arxiv.org/abs/2006.04388, Eq. 2, with the teacher's
probability as the quality, as in CrossKD (Wang et al., CVPR 2024, https://arxiv.org/abs/2306.11369). With p and q the
sigmoid of the teacher's and of the student's logits, it is the mean over rows (the papers divide by the number of
positive rows) of the sum over classes of

    |p − q|^β · −(p · log q + (1 − p) · log(1 − q))

β is 2 for labels, and 1 here as in CrossKD. The gradient goes through the weight as well, as in the published code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from limbeck.losses._bases import LogitLoss
from limbeck.losses._logits import (
    TemperatureValue,
    prepare_logits,
    quality_focal_by_row,
    temperature_scaled_mean,
)
from limbeck.losses._ops import require_interval


def quality_focal_loss(
    student: Tensor, teacher: Tensor, *, beta: float = 1.0, temperature: TemperatureValue = 1.0
) -> Tensor:
    """Mean over rows of Σ |p − q|^beta · binary cross-entropy over classes, times ``temperature ** 2``.

    Shapes: both ``[rows, classes]`` logits of sigmoids; ``temperature`` a number or ``[rows]``. Zero where they agree.

    >>> import torch
    >>> quality_focal_loss(torch.tensor([[2.0]]), torch.tensor([[0.0]]))  # |0.5 − 0.881| · 1.127
    tensor(0.4291)
    """
    student, teacher = prepare_logits(student, teacher)
    return temperature_scaled_mean(quality_focal_by_row(student, teacher, beta, temperature), temperature)


@final
@dataclass(frozen=True)
class QualityFocalLoss(LogitLoss):
    """:func:`quality_focal_loss` of the student's and a teacher's logits, for heads with a sigmoid for each class.

    Args:
        beta: exponent of the weight, at least 1 (below it, the gradient is infinite where the two agree).
    """

    paper: ClassVar = "https://arxiv.org/abs/2006.04388"
    paper_temperature: ClassVar = 1.0
    uses_softmax: ClassVar = False
    has_sigmoids: ClassVar = True
    fn: ClassVar = staticmethod(quality_focal_loss)

    beta: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_interval("beta", self.beta, "[1, inf)")
