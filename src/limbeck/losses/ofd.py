"""Overhaul of feature distillation (OFD): partial L2 distance of pre-activations.

Heo et al., ICCV 2019, https://arxiv.org/abs/1904.01866. Use layers before the activation (after the BatchNorm) in
both networks. The teacher's features pass a margin ReLU, t = max(t, m), with m ≤ 0 by channel: the mean of its
negative responses. The student's pass a learned 1×1 convolution and a BatchNorm. The distance is the squared
difference, and 0 where the student is below a target that is not positive, since both are inactive there.

The published code sums over channels and positions, which depends on the map size; this is the mean over all
elements. The paper halves the weight from layer to layer towards the input.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, final

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import LossContext
from limbeck.core.protocols import Loss
from limbeck.losses._features import Connector, channels_first, feature_pair, project_pair
from limbeck.losses._ops import mean_squared_error, require_same_shape, upcast

__all__ = ["OFDLoss", "batch_norm_margin", "ofd_loss"]

_SHAPE_HINT = "the class OFDLoss projects unequal channels and pools unequal maps; batch and tokens must be equal"


def ofd_loss(student: Tensor, teacher: Tensor, *, margin: Tensor) -> Tensor:
    """Mean over all elements of (student − target)², where the target is positive or the student above it.

    The target is max(teacher, margin); an element counts where target > 0 or student > target.

    Shapes: both ``[batch, channels, ...]`` of pre-activations; ``margin`` ``[channels]``, zero or below.

    >>> import torch
    >>> ofd_loss(torch.tensor([[1.0, -3.0]]), torch.tensor([[2.0, -9.0]]), margin=torch.tensor([-0.5, -0.5]))
    tensor(0.5000)
    """
    require_same_shape(student, teacher, name="features", hint=_SHAPE_HINT)
    if student.ndim < 2 or margin.shape != student.shape[1:2]:
        raise LimbeckError(
            f"the margin of features {list(student.shape)} is one number for each channel, [channels], and here its "
            f"shape is {list(margin.shape)}"
        )
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
class OFDLoss(nn.Module, Loss):
    """:func:`ofd_loss` of one layer of student and teacher, the student's through a learned projection with a
    BatchNorm.

    Args:
        layer: name of the layer, the same for student and teacher.
        margin: one number for each of the teacher's channels (:func:`batch_norm_margin`); ``None`` measures the mean of
            its negative responses, once, on the batch that shapes the projection.
        teacher: name of the teacher; ``None``: the ensemble of all.

    >>> from limbeck.testing import make_context
    >>> context, loss = make_context(teacher_feature_shapes={"mid": (3, 4, 4)}), OFDLoss("mid")
    >>> loss.prepare(context)
    >>> loss.margin
    tensor([-0.8604, -0.8250, -0.8943])
    """

    knowledge: ClassVar = "feature"
    paper: ClassVar = "https://arxiv.org/abs/1904.01866"

    margin: Tensor | None

    def __init__(self, layer: str, *, margin: Sequence[float] | None = None, teacher: str | None = None) -> None:
        super().__init__()
        if margin is not None and not all(-math.inf < value <= 0 for value in margin):
            raise LimbeckError(f"a margin is a number not above zero for each channel, and here they are {margin}")
        self.layer, self.teacher, self.initial_margin = layer, teacher, margin
        self.projection: Connector | None = None
        self.register_buffer("margin", None)

    def prepare(self, context: LossContext) -> None:
        """Build the projection for the features of ``context``, and measure the margin where none was given."""
        student, teacher = map(upcast, feature_pair(self, context))
        self.projection = Connector(student, teacher)
        measured = _negative_mean(channels_first(teacher))
        if self.initial_margin is not None and len(self.initial_margin) != len(measured):
            raise LimbeckError(
                f"OFDLoss was given {len(self.initial_margin)} margins, and the teacher has {len(measured)} "
                "channels at "
                f"{self.layer!r}: give one for each"
            )
        self.margin = measured if self.initial_margin is None else measured.new_tensor(list(self.initial_margin))

    def forward(self, context: LossContext) -> Tensor:
        """The loss of this context."""
        pair = project_pair(self.projection, *feature_pair(self, context), name="OFDLoss")
        assert self.margin is not None
        return ofd_loss(*pair, margin=self.margin)

    def extra_repr(self) -> str:
        margin = "" if self.initial_margin is None else f", margin={list(self.initial_margin)}"
        return f"layer={self.layer!r}{margin}" + (f", teacher={self.teacher!r}" if self.teacher else "")


def _negative_mean(features: Tensor) -> Tensor:
    """Mean of what is below zero, by channel; 0 where nothing is, since a margin then changes nothing."""
    dims = [axis for axis in range(features.ndim) if axis != 1]
    below = features.detach().clamp(max=0.0)
    return below.sum(dim=dims) / (below < 0).sum(dim=dims).clamp(min=1)
