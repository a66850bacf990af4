"""Knowledge review (ReviewKD): fused student stages against each teacher stage.

Chen et al., CVPR 2021, https://arxiv.org/abs/2104.09044. From the deepest stage to the shallowest, the student's map
goes through a 1×1 convolution to a common width and is fused with the output of the deeper stage by two attention
maps, from a 1×1 convolution and a sigmoid; a 3×3 convolution turns the result into the teacher's width at
that stage. The hierarchical context loss compares it with the teacher's map at full size and average-pooled to 4, 2 and
1, with the weights 1, ½, ¼, ⅛ divided by their sum, the mean squared difference each; the stages add up. Pooled sizes
that are not smaller than the map are skipped, as in the published code. The larger of two maps is average-pooled to the
smaller (that code resizes the student's). The usual weight is 1 to 8, warmed up over 20 epochs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Final, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import LossContext
from limbeck.core.protocols import Loss
from limbeck.losses._features import ChannelNorm, describe_shapes, match_size, require_maps, require_prepared
from limbeck.losses._ops import require_interval, require_same_shape, upcast

_POOL_SIZES: Final = (4, 2, 1)


def reviewkd_loss(student_features: Sequence[Tensor], teacher_features: Sequence[Tensor]) -> Tensor:
    """The hierarchical context loss of each stage, summed over stages.

    Shapes: for each stage, both ``[batch, channels, height, width]``, the student's already fused and of the teacher's
    width and size.

    >>> import torch
    >>> student, teacher = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]), torch.zeros(1, 1, 2, 2)
    >>> reviewkd_loss([student], [teacher])  # (7.5 + 6.25 / 2) / (1 + 1 / 2)
    tensor(7.0833)
    """
    if len(student_features) != len(teacher_features) or not student_features:
        raise LimbeckError(
            f"knowledge review needs as many stages of the student as of the teacher, got {len(student_features)} and "
            f"{len(teacher_features)}"
        )
    return torch.stack(list(map(_hierarchical_context_loss, student_features, teacher_features))).sum()


@final
class ReviewKDLoss(nn.Module, Loss):
    """:func:`reviewkd_loss` between several layers, the student's fused from deep to shallow by learned modules.

    Args:
        layers: names of the layers from shallow to deep, the same for student and teacher; each returns a map, or an
            embedding ``[batch, width]``, which is a map of one position.
        mid_channels: channels in which stages are fused; ``None``: the student's at the deepest, up to 512.
        teacher: name of the teacher; ``None``: the ensemble of all.
    """

    knowledge: ClassVar = "feature"
    layer_settings: ClassVar = ("layers",)
    paper: ClassVar = "https://arxiv.org/abs/2104.09044"
    fn: ClassVar = staticmethod(reviewkd_loss)

    def __init__(self, layers: Sequence[str], *, mid_channels: int | None = None, teacher: str | None = None) -> None:
        super().__init__()
        if isinstance(layers, str) or not layers:
            raise LimbeckError(f"layers must be a list of layer names, got {layers!r}")
        require_interval("mid_channels", 1 if mid_channels is None else mid_channels, "[1, inf)")
        self.layers, self.mid_channels, self.teacher = tuple(layers), mid_channels, teacher
        self.fusions: nn.ModuleList | None = None

    def prepare(self, context: LossContext) -> None:
        """Build the fusions for the features of ``context``."""
        pairs = self._map_pairs(context)
        for pair in pairs:
            require_maps(*pair, method="knowledge review")
        mid_channels = min(512, pairs[-1][0].shape[1]) if self.mid_channels is None else self.mid_channels
        deepest = len(pairs) - 1
        self.fusions = nn.ModuleList(
            _AttentionFusion(*pair, mid_channels, has_deeper=stage < deepest) for stage, pair in enumerate(pairs)
        )

    def forward(self, context: LossContext) -> Tensor:
        fusions = require_prepared(self.fusions, "ReviewKDLoss")
        pairs: list[tuple[Tensor, Tensor]] = []
        fused: Tensor | None = None
        for (student, teacher), fusion in reversed(list(zip(self._map_pairs(context), fusions, strict=True))):
            output, fused = fusion(upcast(student), fused)
            pairs.append(match_size(upcast(output), upcast(teacher)))
        student_maps, teacher_maps = zip(*pairs, strict=True)
        return reviewkd_loss(student_maps, teacher_maps)

    def _map_pairs(self, context: LossContext) -> list[tuple[Tensor, Tensor]]:
        student, teacher = context.pair(self.teacher)
        return [(_as_map(student.feature(name)), _as_map(teacher.feature(name))) for name in self.layers]

    def extra_repr(self) -> str:
        mid_channels = "" if self.mid_channels is None else f", mid_channels={self.mid_channels}"
        return f"layers={list(self.layers)}{mid_channels}" + (f", teacher={self.teacher!r}" if self.teacher else "")


@final
class _AttentionFusion(nn.Module):
    """One stage: fuses the student's map with the output of the deeper stage and projects it to the teacher's width."""

    def __init__(self, student: Tensor, teacher: Tensor, mid_channels: int, *, has_deeper: bool) -> None:
        super().__init__()
        self.description = describe_shapes(student, teacher)
        self.conv_in = nn.Conv2d(student.shape[1], mid_channels, 1, bias=False)
        self.norm_in = ChannelNorm(mid_channels)
        self.attention = nn.Conv2d(2 * mid_channels, 2, 1) if has_deeper else None
        self.conv_out = nn.Conv2d(mid_channels, teacher.shape[1], 3, padding=1, bias=False)
        self.norm_out = ChannelNorm(teacher.shape[1])
        self.to(upcast(student))

    def forward(self, features: Tensor, deeper: Tensor | None) -> tuple[Tensor, Tensor]:
        """The projected map, and the fused map for the next stage."""
        fused = self.norm_in(self.conv_in(features.to(self.conv_in.weight.dtype)))
        if self.attention is not None and deeper is not None:
            deeper = F.interpolate(deeper, fused.shape[2:], mode="nearest")
            weights = self.attention(torch.cat([fused, deeper], dim=1)).sigmoid()
            fused = fused * weights[:, :1] + deeper * weights[:, 1:]
        return self.norm_out(self.conv_out(fused)), fused

    def extra_repr(self) -> str:
        return self.description


def _hierarchical_context_loss(student: Tensor, teacher: Tensor) -> Tensor:
    require_maps(student, teacher, method="knowledge review")
    require_same_shape(student, teacher, name="maps", hint="the class ReviewKDLoss fuses and pools the student's first")
    # Pooling is linear, so the difference is pooled once in place of both maps.
    difference = upcast(student) - upcast(teacher).detach()
    if not difference.numel():
        return difference.sum()
    weight, weights, loss = 1.0, 1.0, difference.square().mean()
    for size in _POOL_SIZES:
        if size < min(difference.shape[2:]):
            weight /= 2
            weights += weight
            loss = loss + weight * F.adaptive_avg_pool2d(difference, (size, size)).square().mean()
    return loss / weights


def _as_map(features: Tensor) -> Tensor:
    """An embedding is a map of one position."""
    return features[:, :, None, None] if features.ndim == 2 else features
