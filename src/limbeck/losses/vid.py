"""Variational information distillation (VID): Gaussian likelihood of the teacher's features.

Ahn et al., CVPR 2019, https://arxiv.org/abs/1904.05835. The mutual information of the two is bounded from below by the
likelihood of the teacher's features t under a Gaussian whose mean μ(s) is predicted from the student's and whose
variance σ² is one number for each channel; the loss is the mean over all elements of ½ · ((t − μ)² / σ² + log σ²), the
constant ½ log 2π left out. σ² = softplus(ρ) + 1e−5, with ρ learned, begins at 5. μ is three 1×1 convolutions (or linear
layers) without bias, with ReLUs and the teacher's width inside, as in the published code.

Because of log σ² the loss can be negative, and it is not zero where the two agree.
"""

from __future__ import annotations

import math
from typing import ClassVar, Final, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import LossContext
from limbeck.core.protocols import Loss
from limbeck.losses._features import (
    DescribedSequential,
    channels_first,
    describe_shapes,
    feature_pair,
    format_settings,
    pointwise_layer,
    project_pair,
    require_comparable,
)
from limbeck.losses._ops import require_same_shape, upcast

__all__ = ["VIDLoss", "vid_loss"]

_MIN_VARIANCE: Final = 1e-5
_SHAPE_HINT = "the class VIDLoss predicts the teacher's channels and pools unequal maps; batch and tokens must be equal"


def vid_loss(student: Tensor, teacher: Tensor, *, variance: Tensor) -> Tensor:
    """Mean over all elements of ½ · ((teacher − student)² / variance + log variance).

    Shapes: both ``[batch, channels, ...]``, the student's being the predicted mean; ``variance`` ``[channels]``, above
    zero.

    >>> import torch
    >>> vid_loss(torch.tensor([[1.0]]), torch.tensor([[3.0]]), variance=torch.tensor([2.0]))
    tensor(1.3466)
    """
    require_same_shape(student, teacher, name="features", hint=_SHAPE_HINT)
    if student.ndim < 2 or variance.shape != student.shape[1:2]:
        raise LimbeckError(
            f"the variance of features {list(student.shape)} is one number for each channel, [channels], and here its "
            f"shape is {list(variance.shape)}"
        )
    error = (upcast(student) - upcast(teacher).detach()).square()
    # A variance is the same all over its channel, so the mean comes first and the division costs nothing.
    values = error.numel() // max(error.shape[1], 1)
    by_channel = error.sum(dim=[axis for axis in range(error.ndim) if axis != 1]) / max(values, 1)
    variance = upcast(variance)
    log_variance = variance.log() if values else variance * 0.0
    return 0.5 * (by_channel / variance + log_variance).mean()


@final
class VIDLoss(nn.Module, Loss):
    """:func:`vid_loss` of one layer of student and teacher, with a learned mean and variance.

    Args:
        layer: name of the layer, the same for student and teacher.
        initial_variance: σ² of each channel at the beginning.
        teacher: name of the teacher; ``None``: the ensemble of all.

    >>> from limbeck.testing import make_context
    >>> context, loss = make_context(teacher_feature_shapes={"mid": (6, 4, 4)}), VIDLoss("mid")
    >>> loss.prepare(context)
    >>> loss.variance.detach()
    tensor([5.0000, 5.0000, 5.0000, 5.0000, 5.0000, 5.0000])
    """

    knowledge: ClassVar = "feature"
    paper: ClassVar = "https://arxiv.org/abs/1904.05835"

    def __init__(self, layer: str, *, initial_variance: float = 5.0, teacher: str | None = None) -> None:
        super().__init__()
        if not _MIN_VARIANCE < initial_variance < math.inf:
            raise LimbeckError(
                f"the variance begins above {_MIN_VARIANCE:g}, its least, and here it is {initial_variance}"
            )
        self.layer, self.teacher, self.initial_variance = layer, teacher, initial_variance
        self.mean_predictor: DescribedSequential | None = None
        self.register_parameter("rho", None)

    def prepare(self, context: LossContext) -> None:
        """Build the predictor of the teacher's features for those of ``context``."""
        student, teacher = feature_pair(self, context)
        require_comparable(student, teacher)
        in_channels, out_channels = (channels_first(features).shape[1] for features in (student, teacher))
        self.mean_predictor = DescribedSequential(
            pointwise_layer(student, in_channels, out_channels, bias=False), nn.ReLU(),
            pointwise_layer(student, out_channels, out_channels, bias=False), nn.ReLU(),
            pointwise_layer(student, out_channels, out_channels, bias=False),
            description=describe_shapes(student, teacher),
        )  # fmt: skip
        rho = math.log(math.expm1(self.initial_variance - _MIN_VARIANCE))
        self.rho = nn.Parameter(torch.full((out_channels,), rho).to(upcast(student)))

    @property
    def variance(self) -> Tensor:
        """σ² by channel, ``[channels]``."""
        return F.softplus(upcast(self.rho)) + _MIN_VARIANCE

    def forward(self, context: LossContext) -> Tensor:
        """The loss of this context."""
        pair = project_pair(self.mean_predictor, *feature_pair(self, context), name="VIDLoss")
        return vid_loss(*pair, variance=self.variance)

    def extra_repr(self) -> str:
        return format_settings(self, "layer", "initial_variance")
