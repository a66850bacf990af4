"""Pearson knowledge distillation (PKD): standardized feature channels.

Cao et al., NeurIPS 2022, https://arxiv.org/abs/2207.02039. Each channel is standardized over batch and positions, with
the unbiased standard deviation plus 1e−6 as in the published code; the loss is half the mean squared difference. That
is (n − 1)/n · (1 − r), with n the values of a channel and r their Pearson correlation, where no channel is constant.

The statistics are those of the batch: on several processes each takes those of its local batch, unless the objective
gathers this term (``gather_distributed: true`` in a recipe).
"""

from __future__ import annotations

from typing import ClassVar, final

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import LossContext
from limbeck.core.protocols import Loss
from limbeck.losses._features import (
    IdentityProjection,
    Projection,
    feature_pair,
    format_settings,
    make_projection,
    project_pair,
)
from limbeck.losses._ops import mean_squared_error, require_same_shape, upcast

__all__ = ["PKDLoss", "pkd_loss"]

_SHAPE_HINT = "the class PKDLoss projects unequal channels and pools unequal maps, and the batch has to be equal"


def pkd_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Half the mean squared difference of the two, each channel standardized over batch and positions.

    Shapes: both ``[batch, channels, ...]``. Zero where each channel is the teacher's, scaled and shifted; zero as well
    where a channel has fewer than two values, which have no deviation. A constant channel becomes zero and gets no
    gradient.

    >>> import torch
    >>> pkd_loss(torch.tensor([[1.0], [2.0]]), torch.tensor([[4.0], [0.0]]))
    tensor(1.0000)
    """
    require_same_shape(student, teacher, name="features", hint=_SHAPE_HINT)
    if student.ndim < 2:
        raise LimbeckError(f"features are [batch, channels, ...], and these have the shape {list(student.shape)}")
    student, teacher = upcast(student), upcast(teacher).detach()
    if student.numel() < 2 * student.shape[1]:
        return student.sum() * 0.0
    return mean_squared_error(_standardize(student), _standardize(teacher)) / 2


@final
class PKDLoss(nn.Module, Loss):
    """:func:`pkd_loss` of one layer of student and teacher, through a learned projection where their channels differ.

    Args:
        layer: name of the layer, the same for student and teacher.
        teacher: name of the teacher; ``None``: the ensemble of all.

    >>> from limbeck.testing import make_context
    >>> context, loss = make_context(), PKDLoss("mid")
    >>> loss.prepare(context)
    >>> round(loss(context).item(), 4)
    1.0214
    """

    knowledge: ClassVar = "feature"
    paper: ClassVar = "https://arxiv.org/abs/2207.02039"

    def __init__(self, layer: str, *, teacher: str | None = None) -> None:
        super().__init__()
        self.layer, self.teacher = layer, teacher
        self.projection: Projection | IdentityProjection | None = None

    def prepare(self, context: LossContext) -> None:
        """Build the projection for the features of ``context``; none is learned between equal channels."""
        self.projection = make_projection(*feature_pair(self, context))

    def forward(self, context: LossContext) -> Tensor:
        """The loss of this context."""
        pair = project_pair(self.projection, *feature_pair(self, context), name="PKDLoss")
        return pkd_loss(*pair)

    def extra_repr(self) -> str:
        return format_settings(self, "layer")


def _standardize(features: Tensor) -> Tensor:
    # Means over positions, then over the batch: in one go over both they take three times as long.
    dims = list(range(2, features.ndim))
    values = features.numel() // features.shape[1]
    mean = _sum_over_batch(features, dims) / values
    centered = features - mean
    variance = _sum_over_batch(centered.square(), dims) / (values - 1)
    # What is left of a constant channel is the rounding of its mean, which must not be blown up to deviations of 1.
    varies = variance > (16 * torch.finfo(features.dtype).eps * mean) ** 2
    deviation = torch.where(varies, variance, 1.0).sqrt() + 1e-6
    return centered * torch.where(varies, 1 / deviation, 0.0)


def _sum_over_batch(features: Tensor, dims: list[int]) -> Tensor:
    """Sum over batch and positions, ``[1, channels, 1, ...]``."""
    by_sample = features.sum(dim=dims, keepdim=True) if dims else features
    return by_sample.sum(dim=0, keepdim=True)
