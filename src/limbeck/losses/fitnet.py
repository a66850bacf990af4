"""FitNets: mean squared error of projected hidden features.

Romero et al., ICLR 2015, https://arxiv.org/abs/1412.6550. The regressor is a learned 1×1 convolution or a linear
layer, also between equal widths, since the order of channels is arbitrary. Maps of different size are average-pooled to
the smaller.
"""

from __future__ import annotations

from typing import ClassVar, final

from torch import Tensor

from limbeck.losses._bases import ProjectedFeatureLoss
from limbeck.losses._features import Projection, linear_projection, require_same_features
from limbeck.losses._ops import mean_squared_error, upcast


def fitnet_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over all elements of (student − teacher)², for features of one shape.

    Shapes: both ``[batch, ...]``, already projected to the same width and size.

    >>> import torch
    >>> fitnet_loss(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 4.0]]))
    tensor(2.5000)
    """
    require_same_features(student, teacher, loss="FitNetLoss")
    return mean_squared_error(upcast(student), upcast(teacher).detach())


@final
class FitNetLoss(ProjectedFeatureLoss):
    """:func:`fitnet_loss` of one layer of student and teacher, the student's through a learned projection."""

    paper: ClassVar = "https://arxiv.org/abs/1412.6550"
    fn: ClassVar = staticmethod(fitnet_loss)

    def make_projection(self, student: Tensor, teacher: Tensor) -> Projection:
        return linear_projection(student, teacher)
