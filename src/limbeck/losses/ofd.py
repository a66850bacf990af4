"""Overhaul of feature distillation (OFD): partial L2 distance of pre-activations.

Heo et al., ICCV 2019, https://arxiv.org/abs/1904.01866. Use layers before the activation (after the BatchNorm) in
both networks. The teacher's features pass a margin ReLU, t = max(t, m), with m ≤ 0 by channel: the mean of its
negative responses. The student's pass a learned 1×1 convolution and a BatchNorm. The distance is the squared
difference, and 0 where the student is below a target that is not positive, since both are inactive there; the loss is
the mean over all elements (the published code's is the sum over channels and positions). The paper halves the weight
from layer to layer towards the input.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, final

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import LossContext
from limbeck.losses._bases import ProjectedFeatureLoss
from limbeck.losses._features import (
    Projection,
    channels_first,
    make_connector,
    require_channel_values,
    require_same_features,
)
from limbeck.losses._ops import mean_squared_error, upcast


def ofd_loss(student: Tensor, teacher: Tensor, *, margin: Tensor) -> Tensor:
    """Mean over all elements of (student − target)², where the target is positive or the student above it.

    The target is max(teacher, margin); an element counts where target > 0 or student > target.

    Shapes: both ``[batch, channels, ...]`` of pre-activations; ``margin`` ``[channels]``, zero or below.

    >>> import torch
    >>> ofd_loss(torch.tensor([[1.0, -3.0]]), torch.tensor([[2.0, -9.0]]), margin=torch.tensor([-0.5, -0.5]))
    tensor(0.5000)
    """
    require_same_features(student, teacher, loss="OFDLoss")
    require_channel_values("margin", margin, student)
    student, teacher = upcast(student), upcast(teacher).detach()
    target = torch.maximum(teacher, margin.detach().to(teacher).reshape(-1, *[1] * (teacher.ndim - 2)))
    return mean_squared_error(torch.where((target > 0) | (student > target), student, target), target)


def batch_norm_margin(weight: Tensor, bias: Tensor) -> Tensor:
    """The mean of the negative responses behind a BatchNorm, from its ``weight`` and ``bias`` (``[channels]`` each).

    A channel of a BatchNorm is taken for normal with mean b = bias and deviation s = |weight|, so that the mean of what
    is below zero is b − s · φ(b/s) / Φ(−b/s); −3s where less than 0.1 % is below zero, as in the published code.

    >>> import torch
    >>> batch_norm_margin(torch.tensor([1.0, 1.0]), torch.tensor([0.0, 4.0]))
    tensor([-0.7979, -3.0000])
    """
    scale, bias = upcast(weight).detach().abs().clamp(min=1e-12), upcast(bias).detach()
    ratio = bias / scale
    below = torch.special.ndtr(-ratio)
    density = torch.exp(-ratio.square() / 2) / math.sqrt(2 * math.pi)
    return torch.where(below > 1e-3, bias - scale * density / below.clamp(min=1e-3), -3 * scale)


@final
class OFDLoss(ProjectedFeatureLoss):
    """:func:`ofd_loss` of one layer, the student's through a learned projection with a BatchNorm.

    Args:
        margin: one number for each of the teacher's channels (:func:`batch_norm_margin`); ``None`` measures the mean of
            its negative responses, once, on the batch that shapes the projection.
    """

    paper: ClassVar = "https://arxiv.org/abs/1904.01866"
    fn: ClassVar = staticmethod(ofd_loss)

    margin: Tensor

    def __init__(self, layer: str, *, margin: Sequence[float] | None = None, teacher: str | None = None) -> None:
        super().__init__(layer, teacher=teacher)
        if margin is not None and not all(-math.inf < value <= 0 for value in margin):
            raise LimbeckError(f"margin must be one number per channel, zero or below, got {margin}")
        self.initial_margin = margin
        self.register_buffer("margin", None)

    def make_projection(self, student: Tensor, teacher: Tensor) -> Projection:
        """A layer without bias and a BatchNorm; measures the margin where none was given."""
        measured = _negative_mean(channels_first(upcast(teacher)))
        if self.initial_margin is not None and len(self.initial_margin) != len(measured):
            raise LimbeckError(
                f"margin must be one number per channel, got {len(self.initial_margin)} for the {len(measured)} "
                f"channels of {self.layer!r}"
            )
        self.margin = measured if self.initial_margin is None else measured.new_tensor(list(self.initial_margin))
        return make_connector(student, teacher)

    def compare(self, student: Tensor, teacher: Tensor, context: LossContext) -> Tensor:
        return ofd_loss(student, teacher, margin=self.margin)

    def extra_repr(self) -> str:
        margin = "" if self.initial_margin is None else f", margin={list(self.initial_margin)}"
        return super().extra_repr() + margin


def _negative_mean(features: Tensor) -> Tensor:
    """Mean of what is below zero, by channel; 0 where nothing is, since a margin then changes nothing."""
    dims = [axis for axis in range(features.ndim) if axis != 1]
    below = features.detach().clamp(max=0.0)
    return below.sum(dim=dims) / (below < 0).sum(dim=dims).clamp(min=1)
