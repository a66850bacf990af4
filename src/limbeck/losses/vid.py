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

from limbeck.core.loss_context import LossContext
from limbeck.losses._bases import ProjectedFeatureLoss
from limbeck.losses._features import (
    Projection,
    count_channels,
    describe_shapes,
    pointwise_layer,
    require_channel_values,
    require_same_features,
)
from limbeck.losses._ops import require_interval, upcast

_MIN_VARIANCE: Final = 1e-5


def vid_loss(student: Tensor, teacher: Tensor, *, variance: Tensor) -> Tensor:
    """Mean over all elements of ½ · ((teacher − student)² / variance + log variance).

    Shapes: both ``[batch, channels, ...]``, the student's being the predicted mean; ``variance`` ``[channels]``, above
    zero.

    >>> import torch
    >>> vid_loss(torch.tensor([[1.0]]), torch.tensor([[3.0]]), variance=torch.tensor([2.0]))
    tensor(1.3466)
    """
    require_same_features(student, teacher, loss="VIDLoss")
    require_channel_values("variance", variance, student)
    error = (upcast(student) - upcast(teacher).detach()).square()
    # A variance is the same all over its channel, so the mean comes first and the division costs nothing.
    values = error.numel() // max(error.shape[1], 1)
    by_channel = error.sum(dim=[axis for axis in range(error.ndim) if axis != 1]) / max(values, 1)
    variance = upcast(variance)
    log_variance = variance.log() if values else variance * 0.0
    return 0.5 * (by_channel / variance + log_variance).mean()


@final
class VIDLoss(ProjectedFeatureLoss):
    """:func:`vid_loss` of one layer of student and teacher, with a learned mean and variance.

    Args:
        initial_variance: σ² of each channel at the beginning.
    """

    paper: ClassVar = "https://arxiv.org/abs/1904.05835"
    fn: ClassVar = staticmethod(vid_loss)
    settings: ClassVar = ("layer", "initial_variance")

    def __init__(self, layer: str, *, initial_variance: float = 5.0, teacher: str | None = None) -> None:
        super().__init__(layer, teacher=teacher)
        require_interval("initial_variance", initial_variance, f"({_MIN_VARIANCE:g}, inf)")
        self.initial_variance = initial_variance
        self.register_parameter("rho", None)

    def make_projection(self, student: Tensor, teacher: Tensor) -> Projection:
        """The predictor of the mean; sets the variances as well."""
        in_channels, channels = count_channels(student, teacher)
        projection = Projection(
            pointwise_layer(student, in_channels, channels, bias=False), nn.ReLU(),
            pointwise_layer(student, channels, channels, bias=False), nn.ReLU(),
            pointwise_layer(student, channels, channels, bias=False),
            description=describe_shapes(student, teacher),
        )  # fmt: skip
        rho = math.log(math.expm1(self.initial_variance - _MIN_VARIANCE))
        self.rho = nn.Parameter(torch.full((channels,), rho).to(upcast(student)))
        return projection

    @property
    def variance(self) -> Tensor:
        """σ² by channel, ``[channels]``."""
        return F.softplus(upcast(self.rho)) + _MIN_VARIANCE

    def compare(self, student: Tensor, teacher: Tensor, context: LossContext) -> Tensor:
        return vid_loss(student, teacher, variance=self.variance)
