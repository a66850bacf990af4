"""Activation boundaries (AB): the sign of the teacher's pre-activations, by a squared hinge.

Heo et al., AAAI 2019, https://arxiv.org/abs/1811.03233. Use layers before the activation (after the BatchNorm) in
both networks. Where the teacher's neuron is active (t > 0) the student's must be above a margin μ, elsewhere below −μ,
by a squared hinge: [μ − s]₊² or [μ + s]₊², mean over all elements (the paper's is the sum over neurons). The student's
features pass a learned 1×1 convolution and a BatchNorm before.
"""

from __future__ import annotations

from typing import ClassVar, final

from torch import Tensor

from limbeck.core.loss_context import LossContext
from limbeck.losses._bases import ProjectedFeatureLoss
from limbeck.losses._features import Projection, make_connector, require_same_features
from limbeck.losses._ops import require_interval, upcast


def ab_loss(student: Tensor, teacher: Tensor, *, margin: float = 1.0) -> Tensor:
    """Mean over all elements of [margin − student]₊² where the teacher is above zero, [margin + student]₊² elsewhere.

    Shapes: both ``[batch, ...]`` of pre-activations. Zero where each neuron of the student has the sign of the
    teacher's and at least the margin.

    >>> import torch
    >>> ab_loss(torch.tensor([[0.5, 0.5, 2.0]]), torch.tensor([[3.0, -3.0, 1.0]]))
    tensor(0.8333)
    """
    require_same_features(student, teacher, loss="ABLoss")
    require_interval("margin", margin, "(0, inf)")
    student = upcast(student)
    # A product with ±1, since torch.where takes ten times as long on a CPU.
    sign = (teacher > 0).to(student.dtype).mul_(-2).add_(1)
    violation = (student * sign + margin).relu()
    return violation.square().sum() / max(violation.numel(), 1)


@final
class ABLoss(ProjectedFeatureLoss):
    """:func:`ab_loss` of one layer of student and teacher, the student's through a learned projection with a BatchNorm.

    Args:
        margin: distance from zero that the student's neurons must have, above zero.
    """

    paper: ClassVar = "https://arxiv.org/abs/1811.03233"
    fn: ClassVar = staticmethod(ab_loss)
    settings: ClassVar = ("layer", "margin")

    def __init__(self, layer: str, *, margin: float = 1.0, teacher: str | None = None) -> None:
        super().__init__(layer, teacher=teacher)
        require_interval("margin", margin, "(0, inf)")
        self.margin = margin

    def make_projection(self, student: Tensor, teacher: Tensor) -> Projection:
        return make_connector(student, teacher)

    def compare(self, student: Tensor, teacher: Tensor, context: LossContext) -> Tensor:
        return ab_loss(student, teacher, margin=self.margin)
