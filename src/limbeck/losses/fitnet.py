"""FitNets: mean squared error of projected hidden features.

Romero et al., ICLR 2015, https://arxiv.org/abs/1412.6550. The regressor is a learned 1×1 convolution or a linear
layer, also between equal widths, since the order of channels is arbitrary. Maps of different size are average-pooled to
the smaller.
"""

from __future__ import annotations

from typing import ClassVar, final

from torch import Tensor, nn

from limbeck.core.loss_context import LossContext
from limbeck.core.protocols import Loss
from limbeck.losses._features import Projection, feature_pair, format_settings, match_size, require_prepared
from limbeck.losses._ops import mean_squared_error, require_same_shape, upcast

__all__ = ["FitNetLoss", "fitnet_loss"]

_SHAPE_HINT = (
    "the class FitNetLoss projects unequal widths and pools unequal maps, and batch and tokens "
    "have to be "
    "equal in number"
)


def fitnet_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over all elements of (student − teacher)², for features of one shape.

    Shapes: both ``[batch, ...]``, already projected to the same width and size.

    >>> import torch
    >>> fitnet_loss(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 4.0]]))
    tensor(2.5000)
    """
    require_same_shape(student, teacher, name="features", hint=_SHAPE_HINT)
    return mean_squared_error(upcast(student), upcast(teacher).detach())


@final
class FitNetLoss(nn.Module, Loss):
    """:func:`fitnet_loss` of one layer of student and teacher, the student's through a learned projection.

    Args:
        layer: name of the layer, the same for student and teacher.
        teacher: name of the teacher; ``None``: the ensemble of all.
    """

    knowledge: ClassVar = "feature"
    paper: ClassVar = "https://arxiv.org/abs/1412.6550"

    def __init__(self, layer: str, *, teacher: str | None = None) -> None:
        super().__init__()
        self.layer, self.teacher = layer, teacher
        self.projection: Projection | None = None

    def prepare(self, context: LossContext) -> None:
        """Build the projection for the features of ``context``."""
        self.projection = Projection(*feature_pair(self, context))

    def forward(self, context: LossContext) -> Tensor:
        """The loss of this context."""
        student, teacher = feature_pair(self, context)
        projected = require_prepared(self.projection, "FitNetLoss")(upcast(student))
        return fitnet_loss(*match_size(upcast(projected), upcast(teacher)))

    def extra_repr(self) -> str:
        return format_settings(self, "layer")
