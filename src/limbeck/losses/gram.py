"""Gram matrices of channels.

Gatys et al., CVPR 2016, https://arxiv.org/abs/1508.06576, and, between the layers of one network, Yim et al., CVPR
2017. The Gram matrix of a sample is F·Fᵀ / positions, with F the features as [channels, positions]; the loss is the
mean of the squared difference over batch and channel pairs. Positions may differ between the two networks, since they
are summed away; channels may not, so the class learns a projection where they do.
"""

from __future__ import annotations

from typing import ClassVar, final

from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import LossContext
from limbeck.core.protocols import Loss
from limbeck.losses._features import (
    IdentityProjection,
    Projection,
    channels_first,
    feature_pair,
    format_settings,
    make_projection,
    require_prepared,
)
from limbeck.losses._ops import mean_squared_error, upcast

__all__ = ["GramLoss", "gram_loss"]


def gram_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over batch and channel pairs of the squared difference of F·Fᵀ / positions.

    Shapes: ``[batch, channels, ...]`` of any rank and of equal channels; the positions may differ.

    >>> import torch
    >>> gram_loss(torch.tensor([[[1.0, 1.0]]]), torch.tensor([[[2.0]]]))
    tensor(9.)
    """
    if student.shape[:2] != teacher.shape[:2]:
        raise LimbeckError(
            f"Gram matrices of {list(student.shape)} and {list(teacher.shape)} have different sizes: batch and "
            "channels must agree (the class GramLoss learns a projection)"
        )
    return mean_squared_error(_channel_gram(upcast(student)), _channel_gram(upcast(teacher).detach()))


@final
class GramLoss(nn.Module, Loss):
    """:func:`gram_loss` of one layer of student and teacher, through a learned projection where their channels differ.

    Args:
        layer: name of the layer, the same for student and teacher.
        teacher: name of the teacher; ``None``: the ensemble of all.
    """

    knowledge: ClassVar = "relation"
    paper: ClassVar = "https://arxiv.org/abs/1508.06576"

    def __init__(self, layer: str, *, teacher: str | None = None) -> None:
        super().__init__()
        self.layer, self.teacher = layer, teacher
        self.projection: Projection | IdentityProjection | None = None

    def prepare(self, context: LossContext) -> None:
        """Build the projection for the features of ``context``; none is learned between equal channels."""
        self.projection = make_projection(*feature_pair(self, context))

    def forward(self, context: LossContext) -> Tensor:
        """The loss of this context."""
        student, teacher = feature_pair(self, context)
        projected = require_prepared(self.projection, "GramLoss")(upcast(student))
        return gram_loss(channels_first(projected), channels_first(teacher))

    def extra_repr(self) -> str:
        return format_settings(self, "layer")


def _channel_gram(features: Tensor) -> Tensor:
    rows = features.flatten(2) if features.ndim > 2 else features.unsqueeze(2)
    return rows @ rows.mT / rows.shape[2]
