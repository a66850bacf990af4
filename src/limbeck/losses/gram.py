"""Gram matrices of channels.

Gatys et al., CVPR 2016, https://arxiv.org/abs/1508.06576, and, between the layers of one network, Yim et al., CVPR
2017. The Gram matrix of a sample is F·Fᵀ / positions, with F the features as [channels, positions]; the loss is the
mean of the squared difference over batch and channel pairs. Positions are summed over, so they may differ.
"""

from __future__ import annotations

from typing import ClassVar, final

from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import LossContext
from limbeck.losses._bases import ProjectedFeatureLoss
from limbeck.losses._features import channels_first
from limbeck.losses._ops import mean_squared_error, upcast
from limbeck.losses._sequences import pair_features, weigh_valid


def gram_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over batch and channel pairs of the squared difference of F·Fᵀ / positions.

    Shapes: ``[batch, channels, ...]`` of any rank and of equal channels; the positions may differ.

    >>> import torch
    >>> gram_loss(torch.tensor([[[1.0, 1.0]]]), torch.tensor([[[2.0]]]))
    tensor(9.)
    """
    if student.shape[:2] != teacher.shape[:2]:
        raise LimbeckError(
            f"Gram matrices need equal batch and channels, got {list(student.shape)} and {list(teacher.shape)}; "
            "the class GramLoss learns a projection"
        )
    return mean_squared_error(_channel_gram(upcast(student)), _channel_gram(upcast(teacher).detach()))


@final
class GramLoss(ProjectedFeatureLoss):
    """:func:`gram_loss` of one layer, the student's through a learned projection where channels differ."""

    knowledge: ClassVar = "relation"
    paper: ClassVar = "https://arxiv.org/abs/1508.06576"
    compares_positions: ClassVar = False
    fn: ClassVar = staticmethod(gram_loss)

    def forward(self, context: LossContext) -> Tensor:
        """The loss of this context, of maps at their own size."""
        pair = pair_features(context, self.layer, self.teacher)
        student = weigh_valid(self.project(pair.student), pair.student_mask, power=0.5)
        teacher = weigh_valid(pair.teacher, pair.teacher_mask, power=0.5)
        return gram_loss(channels_first(student), channels_first(teacher))


def _channel_gram(features: Tensor) -> Tensor:
    rows = features.flatten(2) if features.ndim > 2 else features.unsqueeze(2)
    return rows @ rows.mT / rows.shape[2]
