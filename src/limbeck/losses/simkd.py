"""SimKD: the student reuses the teacher's classifier.

Chen et al., CVPR 2022, https://arxiv.org/abs/2203.14001. The student has no classifier of its own: a projector maps its
last features to the teacher's, trained by mean squared error, and at inference the teacher's classifier follows. The
projector is the paper's: 1×1, 3×3 and 1×1 convolutions, each with BatchNorm and ReLU, whose inner width is the
teacher's divided by ``factor``. It ends in a ReLU, so the teacher's features should as well.

The deployed model is student, projector and the teacher's classifier, so the projector is part of the student's cost;
its parameter count is in the repr of the loss.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise
from typing import ClassVar, final

from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import LossContext
from limbeck.losses._bases import ProjectedFeatureLoss
from limbeck.losses._features import Projection, match_size, require_prepared
from limbeck.losses._ops import mean_squared_error, require_interval, require_same_shape, upcast
from limbeck.utils.parametrizations import copy_module


def simkd_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over all elements of (student − teacher)², the larger map average-pooled to the smaller.

    Shapes: ``[batch, channels, height, width]`` or ``[batch, width]``, the student's already projected to the teacher's
    channels. Zero where they agree.

    >>> import torch
    >>> simkd_loss(torch.ones(1, 1, 2, 2), torch.tensor([[[[3.0]]]]))
    tensor(4.)
    """
    student, teacher = match_size(upcast(student), upcast(teacher).detach())
    hint = "the class SimKDLoss projects them and pools unequal maps"
    require_same_shape(student, teacher, name="features", hint=hint)
    return mean_squared_error(student, teacher)


@final
class SimKDLoss(ProjectedFeatureLoss):
    """:func:`simkd_loss` of one layer, the student's through a projector that is part of the deployed model.

    Args:
        layer: name of the layer, the same for student and teacher: the last features before the teacher's classifier,
            ``[batch, channels, height, width]`` before its pooling, or ``[batch, width]``.
        factor: the inner width is the teacher's width divided by this.

    The student's classifier gets no gradient from this loss. :meth:`make_head` builds its replacement, which
    :func:`limbeck.distiller.deployment_model` puts behind the student.
    """

    paper: ClassVar = "https://arxiv.org/abs/2203.14001"
    replaces_classifier: ClassVar = True
    compares_positions: ClassVar = False
    fn: ClassVar = staticmethod(simkd_loss)
    settings: ClassVar = ("layer", "factor")

    def __init__(self, layer: str, *, factor: int = 2, teacher: str | None = None) -> None:
        super().__init__(layer, teacher=teacher)
        require_interval("factor", factor, "[1, inf)")
        self.factor = factor
        self.out_channels = 0

    def make_projection(self, student: Tensor, teacher: Tensor) -> Projection:
        if student.ndim != teacher.ndim or student.ndim not in (2, 4):
            raise LimbeckError(
                "SimKDLoss compares maps [batch, channels, height, width] or vectors [batch, width], got "
                f"{list(student.shape)} and {list(teacher.shape)}: use the last layer before the pooling"
            )
        self.out_channels = teacher.shape[1]
        inner = max(self.out_channels // self.factor, 1)
        widths = (student.shape[1], inner, inner, self.out_channels)
        layers = _conv_blocks(widths, (1, 3, 1)) if student.ndim == 4 else _linear_blocks(widths[:2] + widths[3:])
        num_parameters = sum(parameter.numel() for layer in layers for parameter in layer.parameters())
        description = f"{num_parameters} parameters, deployed with the student"
        return Projection(*layers, description=description).to(upcast(student))

    def forward(self, context: LossContext) -> Tensor:
        projector = require_prepared(self.projection, "SimKDLoss")
        student, teacher = self.features(context)
        if not len(student):  # BatchNorm takes no empty batch; each parameter still gets its gradient of zero
            return sum((parameter.sum() * 0 for parameter in projector.parameters()), upcast(student).sum())
        if self.training and student.numel() == student.shape[1]:
            raise LimbeckError(
                "the projector of SimKDLoss normalizes over the batch, and features of shape "
                f"{list(student.shape)} have one value per channel: use batches of at least 2 samples"
            )
        return simkd_loss(projector(student), teacher)

    def make_head(self, classifier: nn.Module) -> nn.Sequential:
        """The layers after the student's features at inference: this projector, pooling, and a copy of ``classifier``.

        ``classifier`` is the teacher's last layer, which takes ``[batch, channels]``. The projector is shared, not
        copied: copy the head before training continues.
        """
        projector = require_prepared(self.projection, "SimKDLoss")
        is_conv = isinstance(next(projector.children()), nn.Conv2d)
        pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten(1)] if is_conv else []
        layers = OrderedDict(projector=projector, pool=nn.Sequential(*pool), classifier=copy_module(classifier))
        return nn.Sequential(layers)


def _conv_blocks(widths: tuple[int, ...], kernels: tuple[int, ...]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for (in_channels, out_channels), kernel in zip(pairwise(widths), kernels, strict=True):
        conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False)
        layers += [conv, nn.BatchNorm2d(out_channels), nn.ReLU()]
    return layers


def _linear_blocks(widths: tuple[int, ...]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for in_features, out_features in pairwise(widths):
        layers += [nn.Linear(in_features, out_features, bias=False), nn.BatchNorm1d(out_features), nn.ReLU()]
    return layers
