"""Features and attention of all levels of a feature pyramid (FPN).

Lin et al., CVPR 2017, https://arxiv.org/abs/1612.03144. The mean squared error of FitNets (Romero et al., ICLR 2015,
https://arxiv.org/abs/1412.6550), and the attention maps of Zagoruyko & Komodakis (ICLR 2017,
https://arxiv.org/abs/1612.03928), of every level; each level counts by its area, so the loss is the mean over all
positions of all levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, final

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import LossContext
from limbeck.core.protocols import Loss
from limbeck.losses._bases import format_settings
from limbeck.losses._features import (
    attention_map,
    level_pairs,
    linear_projection,
    match_size,
    require_layers,
    require_maps,
    require_prepared,
    require_same_features,
)
from limbeck.losses._ops import require_interval, upcast


def fpn_feature_loss(student_levels: Sequence[Tensor], teacher_levels: Sequence[Tensor]) -> Tensor:
    """Mean over batch and positions of all levels of the mean over channels of (student − teacher)².

    Shapes: for each level both ``[batch, channels, height, width]``, already projected to the same channels and size.

    >>> import torch
    >>> large, small = torch.zeros(1, 1, 1, 3), torch.zeros(1, 1, 1, 1)
    >>> fpn_feature_loss([large, small], [large, small + 4])  # 16 at one of four positions
    tensor(4.)
    """
    _require_levels(student_levels, teacher_levels)
    by_level = []
    for student, teacher in zip(student_levels, teacher_levels, strict=True):
        require_same_features(student, teacher, loss="FPNFeatureLoss")
        by_level.append((upcast(student) - upcast(teacher).detach()).square().mean(dim=1))
    return _mean_over_positions(by_level)


def fpn_attention_loss(
    student_levels: Sequence[Tensor], teacher_levels: Sequence[Tensor], *, power: float = 2.0
) -> Tensor:
    """Mean over batch and positions of all levels of the squared difference of the L2-normalized attention maps.

    Shapes: for each level ``[batch, channels, height, width]``; channels may differ, and the larger map is
    average-pooled to the smaller before its attention is taken. Zero where the maps are proportional.

    >>> import torch
    >>> one, other = torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[0.0, 1.0]]]])
    >>> fpn_attention_loss([one, one], [one, other])  # 1 at two of four positions
    tensor(0.5000)
    """
    _require_levels(student_levels, teacher_levels)
    by_level = []
    for student, teacher in zip(student_levels, teacher_levels, strict=True):
        student_map, teacher_map = match_size(upcast(student), upcast(teacher).detach())
        difference = attention_map(student_map, power=power) - attention_map(teacher_map, power=power)
        by_level.append(difference.square())
    return _mean_over_positions(by_level)


@final
class FPNFeatureLoss(nn.Module, Loss):
    """:func:`fpn_feature_loss` of several layers, the student's through a learned 1×1 convolution at each level.

    Args:
        layers: names of the layers, one for each level, the same for student and teacher.
        teacher: name of the teacher; ``None``: the ensemble of all.
    """

    knowledge: ClassVar = "feature"
    layer_settings: ClassVar = ("layers",)
    paper: ClassVar = "https://arxiv.org/abs/1412.6550"
    fn: ClassVar = staticmethod(fpn_feature_loss)

    def __init__(self, layers: Sequence[str], *, teacher: str | None = None) -> None:
        super().__init__()
        self.layers, self.teacher = require_layers(layers), teacher
        self.projections: nn.ModuleList | None = None

    def prepare(self, context: LossContext) -> None:
        """Build the projections for the features of ``context``."""
        pairs = level_pairs(context, self.layers, self.teacher)
        for pair in pairs:
            require_maps(*pair, method="FPNFeatureLoss")
        self.projections = nn.ModuleList(linear_projection(*pair) for pair in pairs)

    def forward(self, context: LossContext) -> Tensor:
        """The loss of this context; the larger of two maps is average-pooled to the smaller."""
        projections = require_prepared(self.projections, "FPNFeatureLoss")
        pairs = [
            match_size(upcast(project(upcast(student))), upcast(teacher))
            for project, (student, teacher) in zip(
                projections, level_pairs(context, self.layers, self.teacher), strict=True
            )
        ]
        return fpn_feature_loss([student for student, _ in pairs], [teacher for _, teacher in pairs])

    def extra_repr(self) -> str:
        return format_settings(self, "layers")


@final
@dataclass(frozen=True)
class FPNAttentionLoss(Loss):
    """:func:`fpn_attention_loss` of several layers of student and teacher.

    Args:
        layers: names of the layers, one for each level, the same for student and teacher.
        power: the exponent of the activations, at least 1 (below it, a zero after a ReLU has no finite gradient).
        teacher: name of the teacher; ``None``: the ensemble of all.
    """

    knowledge: ClassVar = "feature"
    layer_settings: ClassVar = ("layers",)
    paper: ClassVar = "https://arxiv.org/abs/1612.03928"
    fn: ClassVar = staticmethod(fpn_attention_loss)

    layers: Sequence[str]
    power: float = field(default=2.0, kw_only=True)
    teacher: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", require_layers(self.layers))
        require_interval("power", self.power, "[1, inf)")

    def __call__(self, context: LossContext) -> Tensor:
        pairs = level_pairs(context, self.layers, self.teacher)
        return fpn_attention_loss([pair[0] for pair in pairs], [pair[1] for pair in pairs], power=self.power)


def _require_levels(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> None:
    if len(student) != len(teacher) or not student:
        raise LimbeckError(
            f"the student must have as many levels as the teacher, got {len(student)} and {len(teacher)}: name the "
            "same layers"
        )
    for pair in zip(student, teacher, strict=True):
        require_maps(*pair, method="the loss of a feature pyramid")


def _mean_over_positions(by_level: Sequence[Tensor]) -> Tensor:
    """The mean of all values; zero, with a gradient of zero, without any."""
    count = sum(values.numel() for values in by_level)
    return torch.stack([values.sum() for values in by_level]).sum() / max(count, 1)
