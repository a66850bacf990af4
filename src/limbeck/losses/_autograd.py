"""Arithmetic of several losses whose gradient is written out, since autograd by itself takes more passes over memory.

On a CPU those passes are nearly all that a loss on features costs. Every backward pass here is made of operations that
have a gradient themselves; what the forward pass left for it is computed again where a second derivative is asked for,
as that has to know where it came from.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.losses._ops import mean_squared

__all__ = ["distance_of_maps", "pooled", "products", "square_map"]

_AT_ONCE: Final = 1 << 18  # elements squared at once on a CPU; more are parted by channels, and added in its cache
_PARTS: Final = 4
_SHORTEST: Final = 1e-12  # a shorter map is none; F.normalize divides by as much at least
_SLICES: Final = 4  # windows up to here are pooled faster as a sum of slices


def square_map(features: Tensor) -> Tensor:
    """Mean over channels (axis 1) of f², flattened to ``[batch, positions]`` and divided by its L2 norm.

    A map shorter than 1e-12 times the channels counts as zeros, without a gradient.

    >>> square_map(torch.tensor([[[3.0, 4.0], [3.0, 0.0]]]))
    tensor([[0.7474, 0.6644]])
    """
    unit: Tensor = _SquareMap.apply(features) if features.requires_grad else _unit_map(features)[0]
    return unit


def distance_of_maps(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean of the squared difference of two :func:`square_map`, of which the teacher's gets no gradient.

    >>> distance_of_maps(torch.tensor([[[3.0, 0.0]]]), torch.tensor([[[0.0, 1.0]]]))
    tensor(1.)
    """
    loss: Tensor = _DistanceOfMaps.apply(student, teacher)
    return loss


def pooled(features: Tensor, size: tuple[int, int]) -> Tensor:
    """``[batch, channels, height, width]`` at ``size`` by adaptive average pooling; untouched where it has it already.

    >>> pooled(torch.tensor([[[[1.0, 3.0], [5.0, 7.0]]]]), (1, 2))
    tensor([[[[3., 5.]]]])
    """
    whole = tuple(features.shape[2:])
    if whole == size:
        return features
    windows = tuple(large // max(small, 1) for large, small in zip(whole, size, strict=True))
    even = all(small * window == large for large, small, window in zip(whole, size, windows, strict=True))
    if not features.is_cpu or not even or not 1 < max(windows) <= _SLICES or not features.numel():
        return F.adaptive_avg_pool2d(features, size)
    means: Tensor = _Pooled.apply(features, *windows)
    return means


def products(rows: Tensor) -> Tensor:
    """F·Fᵀ of ``[..., rows, values]``, whose gradient is one product as well, where autograd takes two.

    >>> products(torch.tensor([[1.0, 0.0], [1.0, 2.0]]))
    tensor([[1., 1.],
            [1., 5.]])
    """
    made: Tensor = _Products.apply(rows)
    return made


class _SquareMap(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        unit, ctx.norm = _unit_map(features)
        ctx.save_for_backward(features, unit)
        return unit

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        features, unit = ctx.saved_tensors
        norm = _unit_map(features)[1] if torch.is_grad_enabled() else ctx.norm
        return _by_features(features, unit, gradients[0], 2 / norm)


class _DistanceOfMaps(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor) -> Tensor:
        unit, norm = _unit_map(student)
        ctx.teacher = _unit_map(teacher)[0]
        ctx.save_for_backward(student)
        ctx.made = unit, norm
        return mean_squared(unit, ctx.teacher)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (student,) = ctx.saved_tensors
        unit, norm = _unit_map(student) if torch.is_grad_enabled() else ctx.made
        scale = gradients[0] * (4 / max(unit.numel(), 1)) / norm
        return _by_features(student, unit, unit - ctx.teacher, scale), None


class _Pooled(torch.autograd.Function):
    """Means over windows of ``high`` by ``wide``."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, high: int, wide: int) -> Tensor:
        ctx.windows = high, wide
        rows = sum((features[:, :, at::high] for at in range(1, high)), start=features[:, :, ::high])
        both = sum((rows[..., at::wide] for at in range(1, wide)), start=rows[..., ::wide])
        return both * (1 / (high * wide))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        high, wide = ctx.windows
        each = gradients[0] * (1 / (high * wide))
        batch, channels, height, width = each.shape
        rows = each.unsqueeze(4).expand(-1, -1, -1, -1, wide).reshape(batch, channels, height, 1, width * wide)
        return rows.expand(-1, -1, -1, high, -1).reshape(batch, channels, height * high, width * wide), None, None


class _Products(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        return rows @ rows.mT

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (rows,) = ctx.saved_tensors
        both: Tensor = (gradients[0] + gradients[0].mT) @ rows
        return both


def _unit_map(features: Tensor) -> tuple[Tensor, Tensor]:
    """Sum over channels of f², of length 1, ``[batch, positions]``, and the length that it had, ``[batch, 1]``."""
    channels = features.shape[1]
    if features.numel() <= _AT_ONCE or not features.is_cpu or channels % _PARTS:
        squares = features.square()
    else:
        parts = features.chunk(_PARTS, dim=1)
        squares = parts[0].square()
        for part in parts[1:]:
            squares.addcmul_(part, part)
    sums = squares.sum(dim=1).flatten(1)
    norm = torch.linalg.vector_norm(sums, dim=1, keepdim=True)
    norm = F.threshold(norm, _SHORTEST * channels, torch.inf)
    return sums / norm, norm


def _by_features(features: Tensor, unit: Tensor, by_unit: Tensor, scale: Tensor) -> Tensor:
    """The gradient of the features by that of the map; ``scale`` ``[batch, 1]``, 2 over the norm."""
    along = (by_unit * unit).sum(dim=1, keepdim=True)
    by_position = torch.addcmul(by_unit, unit, along, value=-1) * scale
    return features * by_position.view(len(features), 1, *features.shape[2:])
