"""Activation boundaries (AB): the sign of the teacher's pre-activations, by a squared hinge.

Heo et al., AAAI 2019, https://arxiv.org/abs/1811.03233. Use layers before the activation (after the BatchNorm) in
both networks. Where the teacher's neuron is active (t > 0) the student's must be above a margin μ, elsewhere below
−μ, by a squared
hinge: [μ − s]₊² or [μ + s]₊². The student's features pass a learned 1×1 convolution and a BatchNorm before.

The paper and its code sum over neurons, which depends on the map size; this is the mean over all elements.
The paper uses it in a first stage only, followed by distillation of responses.
"""

from __future__ import annotations

import math
from typing import ClassVar, final

from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import LossContext
from limbeck.core.protocols import Loss
from limbeck.losses._features import Connector, feature_pair, format_settings, project_pair
from limbeck.losses._ops import require_same_shape, upcast

__all__ = ["ABLoss", "ab_loss"]

_SHAPE_HINT = "the class ABLoss projects unequal channels and pools unequal maps; batch and tokens must be equal"


def ab_loss(student: Tensor, teacher: Tensor, *, margin: float = 1.0) -> Tensor:
    """Mean over all elements of [margin − student]₊² where the teacher is above zero, [margin + student]₊² elsewhere.

    Shapes: both ``[batch, ...]`` of pre-activations. Zero where each neuron of the student has the sign of the
    teacher's and at least the margin.

    >>> import torch
    >>> ab_loss(torch.tensor([[0.5, 0.5, 2.0]]), torch.tensor([[3.0, -3.0, 1.0]]))
    tensor(0.8333)
    """
    require_same_shape(student, teacher, name="features", hint=_SHAPE_HINT)
    _require_margin(margin)
    student = upcast(student)
    # A comparison has no gradient, so none reaches the teacher.
    # A product with ±1 in place of torch.where, which takes ten times as long on a CPU.
    sign = (teacher > 0).to(student.dtype).mul_(-2).add_(1)
    violation = (student * sign + margin).relu()
    return violation.square().sum() / max(violation.numel(), 1)


@final
class ABLoss(nn.Module, Loss):
    """:func:`ab_loss` of one layer of student and teacher, the student's through a learned projection with a BatchNorm.

    Args:
        layer: name of the layer, the same for student and teacher.
        margin: distance from zero that the student's neurons must have, above zero.
        teacher: name of the teacher; ``None``: the ensemble of all.

    >>> from limbeck.testing import make_context
    >>> context, loss = make_context(teacher_feature_shapes={"mid": (3, 4, 4)}), ABLoss("mid")
    >>> loss.prepare(context)
    >>> 1.5 < loss(context).item() < 2.5
    True
    """

    knowledge: ClassVar = "feature"
    paper: ClassVar = "https://arxiv.org/abs/1811.03233"

    def __init__(self, layer: str, *, margin: float = 1.0, teacher: str | None = None) -> None:
        super().__init__()
        _require_margin(margin)
        self.layer, self.margin, self.teacher = layer, margin, teacher
        self.projection: Connector | None = None

    def prepare(self, context: LossContext) -> None:
        """Build the projection for the features of ``context``."""
        self.projection = Connector(*feature_pair(self, context))

    def forward(self, context: LossContext) -> Tensor:
        """The loss of this context."""
        pair = project_pair(self.projection, *feature_pair(self, context), name="ABLoss")
        return ab_loss(*pair, margin=self.margin)

    def extra_repr(self) -> str:
        return format_settings(self, "layer", "margin")


def _require_margin(margin: float) -> None:
    if not 0 < margin < math.inf:
        raise LimbeckError(f"the margin of an activation boundary is a number above zero, and here it is {margin}")
