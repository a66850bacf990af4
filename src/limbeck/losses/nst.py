"""Neuron selectivity transfer (NST): maximum mean discrepancy of channel maps.

Huang & Wang, 2017, https://arxiv.org/abs/1707.01219. Each channel of a sample, L2-normalized over the positions, is one
observation; the loss is the squared maximum mean discrepancy between the student's channels and the teacher's under
the kernel k(x, y) = (x · y)², the mean over pairs, then over the batch. Channels are a set: their number and order
are free.

Widely used code multiplies every pair of channels elementwise, [channels, channels, positions] for each sample. With F
the normalized [channels, positions], the mean of (x · y)² over two sets is also the inner product of their FᵀF /
channels, so the loss is ‖FₛᵀFₛ/Cₛ − FₜᵀFₜ/Cₜ‖², with nothing larger than [positions, positions]; where there are many
more positions than channels, it is taken from the [channels, channels] products instead. Both are equal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import LossContext
from limbeck.core.protocols import Loss
from limbeck.losses._features import channels_first, feature_pair, match_size
from limbeck.losses._ops import upcast

__all__ = ["NSTLoss", "nst_loss"]


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
            f"neuron selectivity compares maps [batch, channels, ...] over the same positions, and here are "
            f"{list(student.shape)} and {list(teacher.shape)}: tap layers whose batch and positions agree"
        )
    student_maps, teacher_maps = (F.normalize(features.flatten(2), dim=2) for features in (student, teacher))
    student_channels, teacher_channels, positions = student_maps.shape[1], teacher_maps.shape[1], student_maps.shape[2]
    if (
        positions * (student_channels + teacher_channels)
        <= student_channels**2 + teacher_channels**2 + student_channels * teacher_channels
    ):
        total = (_second_moment(student_maps) - _second_moment(teacher_maps)).square().sum()
    else:
        total = (
            _mean_kernel(student_maps, student_maps)
            + _mean_kernel(teacher_maps, teacher_maps)
            - 2 * _mean_kernel(student_maps, teacher_maps)
        )
    return total / max(len(student), 1)


@final
@dataclass(frozen=True, slots=True)
class NSTLoss(Loss):
    """:func:`nst_loss` of one layer of student and teacher.

    Args:
        layer: name of the layer, the same for student and teacher.
        teacher: name of the teacher; ``None``: the ensemble of all.

    Nothing is learned: unequal channels are compared as they are.

    >>> from limbeck.testing import make_context
    >>> round(NSTLoss("mid")(make_context(teacher_feature_shapes={"mid": (12, 4, 4)})).item(), 4)
    0.2006
    """

    knowledge: ClassVar = "feature"
    paper: ClassVar = "https://arxiv.org/abs/1707.01219"

    layer: str
    teacher: str | None = None

    def __call__(self, context: LossContext) -> Tensor:
        return nst_loss(*map(channels_first, feature_pair(self, context)))


def _second_moment(maps: Tensor) -> Tensor:
    """FᵀF / channels, ``[batch, positions, positions]``."""
    return torch.bmm(maps.transpose(1, 2), maps) / maps.shape[1]


def _mean_kernel(x: Tensor, y: Tensor) -> Tensor:
    """Mean over pairs of channels of (x · y)², summed over the batch."""
    return torch.bmm(x, y.transpose(1, 2)).square().sum() / (x.shape[1] * y.shape[1])
