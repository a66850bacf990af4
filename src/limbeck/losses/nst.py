"""Neuron selectivity transfer (NST): maximum mean discrepancy of channel maps.

Huang & Wang, 2017, https://arxiv.org/abs/1707.01219. Each channel of a sample, L2-normalized over the positions, is one
observation; the loss is the squared maximum mean discrepancy between the student's channels and the teacher's under
the kernel k(x, y) = (x · y)², the mean over pairs, then over the batch. The number and order of channels may differ.

With F the normalized [channels, positions], the mean of (x · y)² over two sets is the inner product of their FᵀF /
channels, so the loss is ‖FₛᵀFₛ/Cₛ − FₜᵀFₜ/Cₜ‖²; where there are many more positions than channels, it is computed from
the [channels, channels] products instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import LossContext
from limbeck.losses._bases import FeatureLoss
from limbeck.losses._features import channels_first, match_size
from limbeck.losses._ops import upcast
from limbeck.losses._sequences import pair_features


def nst_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared MMD of the two sets of channel maps under the squared dot product, mean over the batch.

    Shapes: ``[batch, channels, ...]`` with one or more axes of positions; channels may differ, and of two
    ``[batch, channels, height, width]`` the larger is average-pooled to the smaller. Zero where the channels are the
    same up to order and scale; from 0 to 2. The usual weight is 50.

    >>> import torch
    >>> nst_loss(torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, 3.0]]]))
    tensor(2.)
    """
    student, teacher = match_size(upcast(student), upcast(teacher).detach())
    if student.ndim < 3 or student.shape[:1] + student.shape[2:] != teacher.shape[:1] + teacher.shape[2:]:
        raise LimbeckError(
            f"neuron selectivity compares maps [batch, channels, ...] over the same positions, got "
            f"{list(student.shape)} and {list(teacher.shape)}: use layers whose batch and positions agree"
        )
    x, y = (F.normalize(features.flatten(2), dim=2) for features in (student, teacher))
    x_channels, y_channels, positions = x.shape[1], y.shape[1], x.shape[2]
    if positions * (x_channels + y_channels) <= x_channels**2 + y_channels**2 + x_channels * y_channels:
        total = (_second_moment(x) - _second_moment(y)).square().sum()
    else:
        total = _mean_kernel(x, x) + _mean_kernel(y, y) - 2 * _mean_kernel(x, y)
    return total / max(len(student), 1)


@final
@dataclass(frozen=True)
class NSTLoss(FeatureLoss):
    """:func:`nst_loss` of one layer of student and teacher, without a projection between unequal channels."""

    paper: ClassVar = "https://arxiv.org/abs/1707.01219"
    fn: ClassVar = staticmethod(nst_loss)

    def __call__(self, context: LossContext) -> Tensor:
        student, teacher = pair_features(context, self.layer, self.teacher).matched().without_padding()
        return nst_loss(channels_first(student), channels_first(teacher))


def _second_moment(maps: Tensor) -> Tensor:
    """FᵀF / channels, ``[batch, positions, positions]``."""
    return torch.bmm(maps.transpose(1, 2), maps) / maps.shape[1]


def _mean_kernel(x: Tensor, y: Tensor) -> Tensor:
    """Mean over pairs of channels of (x · y)², summed over the batch."""
    return torch.bmm(x, y.transpose(1, 2)).square().sum() / (x.shape[1] * y.shape[1])
