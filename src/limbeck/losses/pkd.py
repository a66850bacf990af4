"""Pearson knowledge distillation (PKD): standardized feature channels.

Cao et al., NeurIPS 2022, https://arxiv.org/abs/2207.02039. Each channel is standardized over batch and positions, with
the unbiased standard deviation plus 1e−6 as in the published code; the loss is half the mean squared difference. That
is (n − 1)/n · (1 − r), with n the values of a channel and r their Pearson correlation. On several processes the
statistics are those of the local batch, unless the objective gathers it (``gather_distributed: true`` in a recipe).
"""

from __future__ import annotations

from typing import ClassVar, final

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.losses._bases import ProjectedFeatureLoss
from limbeck.losses._features import require_same_features
from limbeck.losses._ops import mean_squared_error, upcast


def pkd_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Half the mean squared difference of the two, each channel standardized over batch and positions.

    Shapes: both ``[batch, channels, ...]``. Zero where each channel is the teacher's, scaled and shifted, and where a
    channel has fewer than two values. A constant channel becomes zero and gets no gradient.

    >>> import torch
    >>> pkd_loss(torch.tensor([[1.0], [2.0]]), torch.tensor([[4.0], [0.0]]))
    tensor(1.0000)
    """
    require_same_features(student, teacher, loss="PKDLoss")
    if student.ndim < 2:
        raise LimbeckError(f"features must be [batch, channels, ...], got {list(student.shape)}")
    student, teacher = upcast(student), upcast(teacher).detach()
    if student.numel() < 2 * student.shape[1]:
        return student.sum() * 0.0
    return mean_squared_error(_standardize(student), _standardize(teacher)) / 2


@final
class PKDLoss(ProjectedFeatureLoss):
    """:func:`pkd_loss` of one layer, the student's through a learned projection where channels differ."""

    paper: ClassVar = "https://arxiv.org/abs/2207.02039"
    fn: ClassVar = staticmethod(pkd_loss)


def _standardize(features: Tensor) -> Tensor:
    dims = list(range(2, features.ndim))
    values = features.numel() // features.shape[1]
    mean = _sum_over_batch(features, dims) / values
    centered = features - mean
    variance = _sum_over_batch(centered.square(), dims) / (values - 1)
    # What is left of a constant channel is the rounding of its mean, which must not become deviations of 1.
    varies = variance > (16 * torch.finfo(features.dtype).eps * mean) ** 2
    deviation = torch.where(varies, variance, 1.0).sqrt() + 1e-6
    return centered * torch.where(varies, 1 / deviation, 0.0)


def _sum_over_batch(features: Tensor, dims: list[int]) -> Tensor:
    """Sum over positions, then over the batch, ``[1, channels, 1, ...]``: three times as fast as over both at once."""
    by_sample = features.sum(dim=dims, keepdim=True) if dims else features
    return by_sample.sum(dim=0, keepdim=True)
