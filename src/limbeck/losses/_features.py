"""Operations of losses on features and relations: layouts, projections, pooling and pairwise distances."""

from __future__ import annotations

from typing import Any, TypeVar, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import LossContext
from limbeck.losses._ops import upcast

__all__ = [
    "Connector",
    "DescribedSequential",
    "IdentityProjection",
    "Projection",
    "apply_batch_norm",
    "attention_map",
    "channels_first",
    "describe_shapes",
    "feature_pair",
    "flatten_samples",
    "format_settings",
    "make_projection",
    "match_size",
    "pairwise_relations",
    "pointwise_layer",
    "project_pair",
    "require_comparable",
    "require_maps",
    "require_prepared",
]  # fmt: skip

M = TypeVar("M", bound=nn.Module)


def feature_pair(loss: Any, context: LossContext) -> tuple[Tensor, Tensor]:
    """The student's and the teacher's features at ``loss.layer``."""
    student, teacher = context.pair(loss.teacher)
    return student.feature(loss.layer), teacher.feature(loss.layer)


def project_pair(projection: nn.Module | None, student: Tensor, teacher: Tensor, *, name: str) -> tuple[Tensor, Tensor]:
    """The projected student's and the teacher's features: upcast, pooled to one size, channels at axis 1."""
    projection = require_prepared(projection, name)
    student, teacher = match_size(upcast(projection(upcast(student))), upcast(teacher))
    return channels_first(student), channels_first(teacher)


def format_settings(loss: Any, *names: str) -> str:
    """``name=value`` of each attribute for a repr, and the teacher where the loss names one."""
    values = {name: getattr(loss, name) for name in names}
    if loss.teacher:
        values["teacher"] = loss.teacher
    return ", ".join(
        f"{name}={value:g}" if isinstance(value, float) else f"{name}={value!r}" for name, value in values.items()
    )


def match_size(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Average-pool the larger of two ``[batch, channels, height, width]`` maps to the smaller; others are unchanged."""
    if student.ndim != 4 or teacher.ndim != 4 or student.shape[2:] == teacher.shape[2:]:
        return student, teacher
    size = (min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3]))
    return F.adaptive_avg_pool2d(student, size), F.adaptive_avg_pool2d(teacher, size)


def attention_map(features: Tensor, *, power: float = 2.0) -> Tensor:
    """Mean over channels (axis 1) of |f|^power, flattened to ``[batch, positions]`` and divided by its L2 norm.

    >>> attention_map(torch.tensor([[[3.0, 4.0], [3.0, 0.0]]]))
    tensor([[0.7474, 0.6644]])
    """
    powers = features.square() if power == 2 else features.abs().pow(power)
    return F.normalize(powers.mean(dim=1).flatten(1), dim=1)


def channels_first(features: Tensor) -> Tensor:
    """``[batch, tokens, width]`` has its channels last; the others have them at axis 1 already."""
    return features.transpose(1, 2) if features.ndim == 3 else features


def require_maps(student: Tensor, teacher: Tensor, *, method: str) -> None:
    """Raise an error where features are not ``[batch, channels, height, width]``."""
    for owner, features in (("student", student), ("teacher", teacher)):
        if features.ndim != 4:
            raise LimbeckError(
                f"{method} compares [batch, channels, height, width]; the {owner}'s features have the shape "
                f"{list(features.shape)}: tap a convolutional layer"
            )


def require_comparable(student: Tensor, teacher: Tensor) -> None:
    """Raise an error where no linear projection can compare the features."""
    if student.ndim != teacher.ndim or student.ndim not in (2, 3, 4):
        raise LimbeckError(
            f"features of shapes {list(student.shape)} and {list(teacher.shape)} cannot be compared: tap layers "
            "that both give [batch, width], [batch, tokens, width] or [batch, channels, height, width]"
        )


def require_prepared(module: M | None, loss_name: str) -> M:
    """``module``, or an error where ``prepare`` has not built it."""
    if module is None:
        raise LimbeckError(
            f"{loss_name} has no projection yet: call distiller.prepare(batch) before building the optimizer"
        )
    return module


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


def apply_batch_norm(norm: nn.BatchNorm1d | nn.BatchNorm2d, features: Tensor) -> Tensor:
    """``norm(features)``, by its running statistics where a channel has fewer than two values."""
    if features.numel() < 2 * features.shape[1]:
        return F.batch_norm(features, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
    out: Tensor = norm(features)
    return out


def describe_shapes(student: Tensor, teacher: Tensor) -> str:
    """Widths and pooling between two features, for a repr.

    >>> import torch
    >>> describe_shapes(torch.zeros(1, 8, 4, 4), torch.zeros(1, 6, 2, 2))
    '8 → 6, maps 4×4 and 2×2 pooled to 2×2'
    """
    widths = "{} → {}".format(*(channels_first(features).shape[1] for features in (student, teacher)))
    if student.ndim != 4 or student.shape[2:] == teacher.shape[2:]:
        return widths
    student_size, teacher_size = (tuple(features.shape[2:]) for features in (student, teacher))
    pooled_size = (min(student_size[0], teacher_size[0]), min(student_size[1], teacher_size[1]))
    return widths + ", maps {}×{} and {}×{} pooled to {}×{}".format(*student_size, *teacher_size, *pooled_size)


def make_projection(student: Tensor, teacher: Tensor) -> Projection | IdentityProjection:
    """A :class:`Projection`, or an :class:`IdentityProjection` between equal widths."""
    require_comparable(student, teacher)
    equal = channels_first(student).shape[1] == channels_first(teacher).shape[1]
    return IdentityProjection(student, teacher) if equal else Projection(student, teacher)


def flatten_samples(student: Tensor, teacher: Tensor, *, method: str) -> tuple[Tensor, Tensor]:
    """Both as ``[batch, values]``, upcast, the teacher detached; an error where the batches differ."""
    if not student.ndim or not teacher.ndim or len(student) != len(teacher):
        raise LimbeckError(
            f"{method} relates the samples of one batch, and the student's features have the shape "
            f"{list(student.shape)} and the teacher's {list(teacher.shape)}: tap layers that give [batch, ...]"
        )
    return _flatten_features(upcast(student)), _flatten_features(upcast(teacher).detach())


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
class Projection(nn.Module):
    """A learned linear projection from the student's width to the teacher's, at every position.

    ``[batch, channels, height, width]`` goes through a 1×1 convolution (channels are axis 1), ``[batch, width]`` and
    ``[batch, tokens, width]`` through a linear layer on the last axis.
    """

    def __init__(self, student: Tensor, teacher: Tensor) -> None:
        super().__init__()
        require_comparable(student, teacher)
        axis = 1 if student.ndim == 4 else -1
        self.widths, self.description = (student.shape[axis], teacher.shape[axis]), describe_shapes(student, teacher)
        self.layer = pointwise_layer(student, *self.widths)

    def forward(self, features: Tensor) -> Tensor:
        """The student's features in the teacher's width."""
        # distiller.to(bfloat16) converts the layer as well; the loss upcasts its output.
        projected: Tensor = self.layer(features.to(next(self.layer.parameters()).dtype))
        return projected

    def extra_repr(self) -> str:
        return self.description


@final
class IdentityProjection(nn.Module):
    """The identity, between features of equal width."""

    def __init__(self, student: Tensor, teacher: Tensor) -> None:
        super().__init__()
        self.description = describe_shapes(student, teacher)

    def forward(self, features: Tensor) -> Tensor:
        """``features``."""
        return features

    def extra_repr(self) -> str:
        return self.description


@final
class Connector(nn.Module):
    """A :class:`Projection` without bias, followed by a BatchNorm, to the teacher's pre-activations."""

    def __init__(self, student: Tensor, teacher: Tensor) -> None:
        super().__init__()
        require_comparable(student, teacher)
        in_channels, out_channels = channels_first(student).shape[1], channels_first(teacher).shape[1]
        self.description = describe_shapes(student, teacher)
        self.layer = pointwise_layer(student, in_channels, out_channels, bias=False)
        norm_class = nn.BatchNorm2d if student.ndim == 4 else nn.BatchNorm1d
        self.norm = norm_class(out_channels).to(upcast(student))

    def forward(self, features: Tensor) -> Tensor:
        """The student's features in the teacher's width, each channel normalized."""
        projected = apply_batch_norm(self.norm, channels_first(self.layer(features.to(self.norm.weight.dtype))))
        return channels_first(projected)  # of [batch, channels, tokens]: back to the layout of the input

    def extra_repr(self) -> str:
        return self.description


@final
class DescribedSequential(nn.Sequential):
    """A sequential module, in its own precision, with a description in its repr."""

    def __init__(self, *layers: nn.Module, description: str) -> None:
        super().__init__(*layers)
        self.description = description

    def forward(self, features: Tensor) -> Tensor:
        """The output of the last layer."""
        # distiller.to(bfloat16) converts the layers as well; the loss upcasts their output.
        out: Tensor = super().forward(features.to(next(self.parameters()).dtype))  # type: ignore[no-untyped-call]
        return out

    def extra_repr(self) -> str:
        return self.description


def _flatten_features(features: Tensor) -> Tensor:
    return features.flatten(1) if features.ndim > 1 else features.unsqueeze(1)
