"""Operations of losses on features and relations: layouts, projections, pooling and pairwise distances."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TypeVar, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import LossContext
from limbeck.losses._ops import require_same_shape, upcast

M = TypeVar("M", bound=nn.Module)


def match_size(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Average-pool the larger of two ``[batch, channels, height, width]`` maps to the smaller; others are unchanged."""
    if student.ndim != 4 or teacher.ndim != 4 or student.shape[2:] == teacher.shape[2:]:
        return student, teacher
    size = (min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3]))
    return F.adaptive_avg_pool2d(student, size), F.adaptive_avg_pool2d(teacher, size)


def pool_patches(maps: Tensor, patch_size: int) -> Tensor:
    """Mean of each patch of ``patch_size``² pixels; those at the lower and the right edge may be smaller."""
    if patch_size == 1 or not maps.numel():
        return maps
    return F.avg_pool2d(maps, patch_size, ceil_mode=True)


def unit_pixels(maps: Tensor) -> Tensor:
    """The pixels of ``[batch, channels, height, width]`` at length 1, ``[batch, pixels, channels]``."""
    return F.normalize(maps.flatten(2).mT, dim=2)


def attention_map(features: Tensor, *, power: float = 2.0) -> Tensor:
    """Mean over channels (axis 1) of |f|^power, flattened to ``[batch, positions]`` and divided by its L2 norm.

    >>> attention_map(torch.tensor([[[3.0, 4.0], [3.0, 0.0]]]))
    tensor([[0.7474, 0.6644]])
    """
    powers = features.square() if power == 2 else features.abs().pow(power)
    return F.normalize(powers.mean(dim=1).flatten(1), dim=1)


def channels_first(features: Tensor) -> Tensor:
    """Swap the last two axes of ``[batch, tokens, width]``; the others have their channels at axis 1 already."""
    return features.transpose(1, 2) if features.ndim == 3 else features


def flatten_samples(student: Tensor, teacher: Tensor, *, method: str) -> tuple[Tensor, Tensor]:
    """Both as ``[batch, values]``, upcast, the teacher detached; an error where the batches differ."""
    if not student.ndim or not teacher.ndim or len(student) != len(teacher):
        raise LimbeckError(
            f"{method} relates the samples of one batch, and the student's features have the shape "
            f"{list(student.shape)} and the teacher's {list(teacher.shape)}: use layers that return [batch, ...]"
        )
    student, teacher = upcast(student), upcast(teacher).detach()
    return flatten_features(student), flatten_features(teacher)


def flatten_features(features: Tensor) -> Tensor:
    """``[batch, values]``."""
    return features.flatten(1) if features.ndim > 1 else features.unsqueeze(1)


def pairwise_relations(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Products, distances, and which samples are the same, each ``[batch, batch]``, of ``[batch, values]``.

    Products are of centered rows, and distances are computed from them without a ``[batch, batch, values]`` tensor.
    Rows closer than rounding have distance 0 and no gradient.

    >>> pairwise_relations(torch.tensor([[0.0, 0.0], [3.0, 4.0], [3.0, 4.0]]))[1]
    tensor([[0., 5., 5.],
            [5., 0., 0.],
            [5., 0., 0.]])
    """
    rows = rows - rows.mean(dim=0)
    gram = rows @ rows.mT
    squared_norms = gram.diagonal()
    norm_sums = squared_norms.unsqueeze(1) + squared_norms
    squared_distances = norm_sums - 2 * gram
    same = squared_distances <= 32 * torch.finfo(rows.dtype).eps * norm_sums
    return gram, squared_distances.masked_fill(same, 1.0).sqrt().masked_fill(same, 0.0), same


@final
class Projection(nn.Sequential):
    """Learned layers from the student's features to the teacher's, computed in the precision of their parameters.

    Without layers it is the identity. Its repr has a description, such as the widths.
    """

    def __init__(self, *layers: nn.Module | OrderedDict[str, nn.Module], description: str) -> None:
        super().__init__(*layers)  # type: ignore[arg-type]
        self.description = description

    def forward(self, features: Tensor) -> Tensor:
        # distiller.to(bfloat16) converts the layers as well; the loss upcasts their output.
        out: Tensor = super().forward(features.to(next(self.parameters(), features).dtype))  # type: ignore[no-untyped-call]
        return out

    def extra_repr(self) -> str:
        return self.description


def make_projection(student: Tensor, teacher: Tensor) -> Projection:
    """:func:`linear_projection`, or the identity between equal channels."""
    in_channels, out_channels = count_channels(student, teacher)
    if in_channels != out_channels:
        return linear_projection(student, teacher)
    return Projection(description=describe_shapes(student, teacher))


def linear_projection(student: Tensor, teacher: Tensor) -> Projection:
    """A learned linear layer or 1×1 convolution from the student's channels to the teacher's, at every position.

    ``[batch, channels, height, width]`` goes through a convolution, ``[batch, width]`` and ``[batch, tokens, width]``
    through a linear layer on the last axis.
    """
    layer = pointwise_layer(student, *count_channels(student, teacher))
    return Projection(OrderedDict(layer=layer), description=describe_shapes(student, teacher))


def make_connector(student: Tensor, teacher: Tensor) -> Projection:
    """A layer without bias to the teacher's channels, followed by a BatchNorm, for pre-activations."""
    in_channels, out_channels = count_channels(student, teacher)
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        layer=pointwise_layer(student, in_channels, out_channels, bias=False),
        norm=ChannelNorm(out_channels).to(upcast(student)),
    )
    return Projection(layers, description=describe_shapes(student, teacher))


def count_channels(student: Tensor, teacher: Tensor) -> tuple[int, int]:
    """The channels of both; an error where no linear layer maps one to the other."""
    if student.ndim != teacher.ndim or student.ndim not in (2, 3, 4):
        raise LimbeckError(
            f"features of shapes {list(student.shape)} and {list(teacher.shape)} cannot be compared: use layers "
            "that both return [batch, width], [batch, tokens, width] or [batch, channels, height, width]"
        )
    return channels_first(student).shape[1], channels_first(teacher).shape[1]


def pointwise_layer(
    reference: Tensor, in_channels: int, out_channels: int, *, bias: bool = True
) -> nn.Conv2d | nn.Linear:
    """A linear layer at every position of features of the rank, precision and device of ``reference``."""
    layer = (
        nn.Conv2d(in_channels, out_channels, 1, bias=bias)
        if reference.ndim == 4
        else nn.Linear(in_channels, out_channels, bias=bias)
    )
    return layer.to(upcast(reference))


@final
class ChannelNorm(nn.BatchNorm1d):
    """BatchNorm over the channels of features of any layout.

    It uses the running statistics where a channel has fewer than two values.
    """

    def forward(self, features: Tensor) -> Tensor:
        maps = channels_first(features)
        out = F.batch_norm(
            maps, self.running_mean, self.running_var, self.weight, self.bias,
            training=self.training and maps.numel() >= 2 * maps.shape[1], momentum=0.1, eps=self.eps,
        )  # fmt: skip
        return channels_first(out)


def describe_shapes(student: Tensor, teacher: Tensor) -> str:
    """Widths and pooling between two features, for a repr.

    >>> describe_shapes(torch.zeros(1, 8, 4, 4), torch.zeros(1, 6, 2, 2))
    '8 → 6, maps 4×4 and 2×2 pooled to 2×2'
    """
    widths = f"{channels_first(student).shape[1]} → {channels_first(teacher).shape[1]}"
    if student.ndim != 4 or student.shape[2:] == teacher.shape[2:]:
        return widths
    sizes = [tuple(features.shape[2:]) for features in (student, teacher)]
    pooled = map(min, *sizes)
    return widths + ", maps {}×{} and {}×{} pooled to {}×{}".format(*sizes[0], *sizes[1], *pooled)


def require_layers(layers: Sequence[str]) -> tuple[str, ...]:
    """``layers``; an error where they are no list of different names."""
    if isinstance(layers, str) or not layers or len(set(layers)) < len(layers):
        raise LimbeckError(f"layers must be a list of different layer names, got {layers!r}")
    return tuple(layers)


def level_pairs(context: LossContext, layers: Sequence[str], teacher: str | None) -> list[tuple[Tensor, Tensor]]:
    """The features of student and teacher at each of ``layers``."""
    student, teacher_outputs = context.pair(teacher)
    return [(student.feature(name), teacher_outputs.feature(name)) for name in layers]


def require_maps(student: Tensor, teacher: Tensor, *, method: str) -> None:
    """Raise an error where features are not ``[batch, channels, height, width]``."""
    for owner, features in (("student", student), ("teacher", teacher)):
        if features.ndim != 4:
            raise LimbeckError(
                f"{method} compares [batch, channels, height, width]; the {owner}'s features have the shape "
                f"{list(features.shape)}: use a convolutional layer"
            )


def require_same_features(student: Tensor, teacher: Tensor, *, loss: str) -> None:
    """Raise an error where the shapes differ."""
    hint = f"the class {loss} projects unequal channels and pools unequal maps; batch and tokens must be equal"
    require_same_shape(student, teacher, name="features", hint=hint)


def require_channel_values(name: str, values: Tensor, features: Tensor) -> None:
    """Raise an error where ``values`` are not ``[channels]`` of ``[batch, channels, ...]``."""
    if features.ndim < 2 or values.shape != features.shape[1:2]:
        raise LimbeckError(
            f"the {name} of features {list(features.shape)} must be one number for each channel, [channels], got "
            f"{list(values.shape)}"
        )


def require_prepared(module: M | None, loss_name: str) -> M:
    """``module``, or an error where ``prepare`` has not built it."""
    if module is None:
        raise LimbeckError(f"{loss_name} is not prepared: call distiller.prepare(batch) before building the optimizer")
    return module
