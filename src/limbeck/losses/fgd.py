"""Focal and global distillation (FGD): features of foreground and background, with the teacher's attention.

Yang et al., CVPR 2022, https://arxiv.org/abs/2111.11837. With F the maps of one level of the feature pyramid, C·H·W,
the student's projected to the teacher's channels,

    A_S = H·W · softmax over positions of (mean over channels of |F|) / T
    A_C = C · softmax over channels of (mean over positions of |F|) / T
    S   = 1 / cells of the box at cells in a box (of several the smallest), 1 / background cells elsewhere
    focal  = Σ (α in boxes, β elsewhere) · S · A_S · A_C · (teacher − student)²  +  γ · (Σ |ΔA_S| + Σ |ΔA_C|)
    global = λ · Σ (R(teacher) − R(student))²,   R(F) = F + W2 · ReLU(LayerNorm(W1 · Σ softmax(Wk · F) · F))

summed over levels and divided by the batch. As in the published code, A_S and A_C in the first sum are the teacher's,
student and teacher have a block R each, both learned, and W2 starts at zero. A cell is in a box if it overlaps with it;
that code adds one row and one column to each box, which is not in the paper and not here.
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
from limbeck.losses._bases import format_settings
from limbeck.losses._boxes import require_boxes
from limbeck.losses._features import (
    level_pairs,
    make_projection,
    match_size,
    require_layers,
    require_maps,
    require_prepared,
    require_same_features,
)
from limbeck.losses._ops import require_interval, upcast

_EDGE: Final = 1e-3
"""A box that overlaps with a cell by less, in cells, is not in it: rounding of the scale."""


def foreground_weights(boxes: Tensor, is_box: Tensor, image_size: Tensor, map_size: tuple[int, int]) -> Tensor:
    """S in boxes: 1 / the number of cells of the smallest box around a cell, 0 outside of boxes.

    Args:
        boxes: ``[batch, k, 4]``, left, top, right, bottom in pixels.
        is_box: ``[batch, k]`` booleans, false in the padding.
        image_size: ``[batch, 2]``, height and width in pixels.
        map_size: height and width of the map.

    Returns:
        ``[batch, height, width]``.

    >>> boxes, is_box = torch.tensor([[[0.0, 0.0, 8.0, 8.0]]]), torch.tensor([[True]])
    >>> foreground_weights(boxes, is_box, torch.tensor([[8, 16]]), (1, 4))
    tensor([[[0.5000, 0.5000, 0.0000, 0.0000]]])
    """
    if not boxes.shape[1]:
        return boxes.new_zeros(len(boxes), *map_size)
    scale = boxes.new_tensor(map_size) / image_size.to(boxes)
    corners = boxes * scale.flip(1).repeat(1, 2)[:, None]
    first = (corners[..., :2] + _EDGE).floor()
    last = (corners[..., 2:] - _EDGE).ceil().maximum(first + 1)
    columns, rows = (
        (cells >= first[..., axis, None]) & (cells < last[..., axis, None])
        for axis, cells in enumerate(torch.arange(size, device=boxes.device) for size in reversed(map_size))
    )
    areas = rows.sum(dim=2) * columns.sum(dim=2)
    inverse_areas = is_box.to(boxes) / areas.clamp(min=1)
    weights = (rows * inverse_areas[..., None])[..., None] * columns[:, :, None]
    return weights.amax(dim=1)


def fgd_focal_loss(
    student: Tensor, teacher: Tensor, foreground: Tensor, is_labeled: Tensor | None = None, *,
    foreground_weight: float = 1e-3, background_weight: float = 5e-4, attention_weight: float = 1e-3,
    attention_temperature: float = 0.5,
) -> Tensor:  # fmt: skip
    """Weighted sum of squared differences of features and of absolute differences of attention, by image.

    Shapes: maps ``[batch, channels, height, width]`` of one shape; ``foreground`` ``[batch, height, width]``, see
    :func:`foreground_weights`; ``is_labeled`` ``[batch]`` booleans: images without annotations count in the attention
    only. Zero where student and teacher agree.

    >>> student, teacher = torch.zeros(1, 1, 1, 2), torch.ones(1, 1, 1, 2)
    >>> fgd_focal_loss(student, teacher, torch.tensor([[[1.0, 0.0]]]), foreground_weight=3.0, background_weight=1.0)
    tensor(4.)
    """
    require_maps(student, teacher, method="focal distillation")
    require_same_features(student, teacher, loss="FGDLoss")
    student, teacher = upcast(student), upcast(teacher).detach()
    student_spatial, student_channel = _attention(student, attention_temperature)
    teacher_spatial, teacher_channel = _attention(teacher, attention_temperature)
    is_background = foreground == 0
    background = is_background / is_background.flatten(1).sum(dim=1).clamp(min=1)[:, None, None]
    weights = foreground_weight * foreground + background_weight * background
    if is_labeled is not None:
        weights = weights * is_labeled[:, None, None]
    by_position = torch.einsum("bchw,bc->bhw", (teacher - student).square(), teacher_channel)
    features = (by_position * teacher_spatial * weights.to(by_position)).sum()
    attention = (teacher_spatial - student_spatial).abs().sum() + (teacher_channel - student_channel).abs().sum()
    return (features + attention_weight * attention) / max(len(student), 1)


def fgd_global_loss(student: Tensor, teacher: Tensor, *, global_weight: float = 5e-6) -> Tensor:
    """``global_weight`` times the sum of squared differences of both maps after their context blocks, by image.

    Shapes: ``[batch, channels, height, width]`` both. The teacher's has a gradient to its block.

    >>> fgd_global_loss(torch.zeros(2, 1, 1, 2), torch.ones(2, 1, 1, 2), global_weight=1.0)
    tensor(2.)
    """
    return global_weight * (upcast(student) - upcast(teacher)).square().sum() / max(len(student), 1)


@final
class FGDLoss(nn.Module, Loss):
    """The sum over levels of :func:`fgd_focal_loss` and :func:`fgd_global_loss`.

    The sums over positions make it large: with features of unit size it is of the order of 1. The defaults are those of
    the published code for RetinaNet; it has a tenth to a twentieth of them for two-stage detectors.

    Args:
        layers: names of the layers, one for each level, the same for student and teacher.
        foreground_weight: α, of features in boxes.
        background_weight: β, of features elsewhere.
        attention_weight: γ, of the attention maps.
        global_weight: λ, of the context blocks.
        attention_temperature: T, of the attention maps.
        teacher: name of the teacher; ``None``: the ensemble of all.

    Raises:
        LimbeckError: the task has no target boxes, or the features are no maps.
    """

    knowledge: ClassVar = "feature"
    layer_settings: ClassVar = ("layers",)
    paper: ClassVar = "https://arxiv.org/abs/2111.11837"
    fn: ClassVar = staticmethod(fgd_focal_loss)

    def __init__(
        self, layers: Sequence[str], *, foreground_weight: float = 1e-3, background_weight: float = 5e-4,
        attention_weight: float = 1e-3, global_weight: float = 5e-6, attention_temperature: float = 0.5,
        teacher: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.layers, self.teacher = require_layers(layers), teacher
        weights = {
            "foreground_weight": foreground_weight, "background_weight": background_weight,
            "attention_weight": attention_weight, "global_weight": global_weight,
        }  # fmt: skip
        for name, weight in weights.items():
            require_interval(name, weight, "[0, inf)")
        require_interval("attention_temperature", attention_temperature, "(0, inf)")
        self.foreground_weight, self.background_weight = foreground_weight, background_weight
        self.attention_weight, self.global_weight = attention_weight, global_weight
        self.attention_temperature = attention_temperature
        self.levels: nn.ModuleList | None = None

    def prepare(self, context: LossContext) -> None:
        """Build the projection and the context blocks of each level for the features of ``context``."""
        require_boxes(context, self.teacher)
        pairs = level_pairs(context, self.layers, self.teacher)
        for pair in pairs:
            require_maps(*pair, method="focal and global distillation")
        self.levels = nn.ModuleList(_Level(*pair) for pair in pairs)

    def forward(self, context: LossContext) -> Tensor:
        """The loss of this context; the larger of two maps is average-pooled to the smaller."""
        levels = require_prepared(self.levels, "FGDLoss")
        pairs = level_pairs(context, self.layers, self.teacher)
        targets = require_boxes(context, self.teacher)
        if len(targets.boxes) != len(pairs[0][0]):
            raise LimbeckError(
                f"boxes must be of the {len(pairs[0][0])} images of the features, got {len(targets.boxes)}: correct "
                "sample_targets(batch) of the task"
            )
        losses = []
        for level, (student, teacher) in zip(levels, pairs, strict=True):
            student, teacher, student_context, teacher_context = level(student, teacher)
            size = (student.shape[2], student.shape[3])
            foreground = foreground_weights(targets.boxes, targets.is_box, targets.image_size, size)
            focal = fgd_focal_loss(
                student, teacher, foreground, targets.is_labeled, foreground_weight=self.foreground_weight,
                background_weight=self.background_weight, attention_weight=self.attention_weight,
                attention_temperature=self.attention_temperature,
            )  # fmt: skip
            losses.append(focal + fgd_global_loss(student_context, teacher_context, global_weight=self.global_weight))
        return torch.stack(losses).sum()

    def extra_repr(self) -> str:
        return format_settings(
            self, "layers", "foreground_weight", "background_weight", "attention_weight", "global_weight",
            "attention_temperature",
        )  # fmt: skip


@final
class _Level(nn.Module):
    """The learned modules of one level."""

    def __init__(self, student: Tensor, teacher: Tensor) -> None:
        super().__init__()
        self.projection = make_projection(student, teacher)
        self.student_context, self.teacher_context = (_ContextBlock(teacher.shape[1]) for _ in range(2))
        self.to(upcast(student))

    def forward(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Both maps at one size, the student's projected, and both after their context blocks."""
        student, teacher = match_size(upcast(self.projection(upcast(student))), upcast(teacher).detach())
        return student, teacher, self.student_context(student), self.teacher_context(teacher)


@final
class _ContextBlock(nn.Module):
    """R(F) of a map (Cao et al., GCNet, 2019, https://arxiv.org/abs/1904.11492); the identity at the beginning."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(channels // 2, 1)
        self.attention = nn.Conv2d(channels, 1, 1)
        self.transform = nn.Sequential(
            nn.Linear(channels, inner), nn.LayerNorm(inner), nn.ReLU(), nn.Linear(inner, channels)
        )
        last = self.transform[-1]
        for parameter in last.parameters():
            nn.init.zeros_(parameter)

    def forward(self, features: Tensor) -> Tensor:
        maps = features.to(self.attention.weight.dtype)
        probabilities = self.attention(maps).flatten(1).softmax(dim=1)
        context = torch.einsum("bcn,bn->bc", maps.flatten(2), probabilities)
        return features + upcast(self.transform(context))[:, :, None, None]


def _attention(features: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """A_S ``[batch, height, width]`` and A_C ``[batch, channels]``."""
    batch, channels, height, width = features.shape
    magnitude = features.abs()
    spatial = F.softmax(magnitude.mean(dim=1).flatten(1) / temperature, dim=1) * (height * width)
    channel = F.softmax(magnitude.mean(dim=(2, 3)) / temperature, dim=1) * channels
    return spatial.reshape(batch, height, width), channel
