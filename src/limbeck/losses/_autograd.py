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

from limbeck.losses._ops import mean_squared_error

__all__ = ["adaptive_avg_pool", "attention_map", "attention_map_distance", "gram_matrix"]

_CHUNK_THRESHOLD: Final = (
    1 << 18
)  # elements squared at once on a CPU; more are parted by channels, and added in its cache
_NUM_CHUNKS: Final = 4
_MIN_NORM: Final = 1e-12  # a shorter map is none; F.normalize divides by as much at least
_MAX_SLICED_WINDOW: Final = 4  # windows up to here are pooled faster as a sum of slices


def attention_map(features: Tensor) -> Tensor:
    """Mean over channels (axis 1) of f², flattened to ``[batch, positions]`` and divided by its L2 norm.

    A map shorter than 1e-12 times the channels counts as zeros, without a gradient.

    >>> attention_map(torch.tensor([[[3.0, 4.0], [3.0, 0.0]]]))
    tensor([[0.7474, 0.6644]])
    """
    unit: Tensor = _AttentionMap.apply(features) if features.requires_grad else _normalized_map(features)[0]
    return unit


def attention_map_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean of the squared difference of two :func:`attention_map`, of which the teacher's gets no gradient.

    >>> attention_map_distance(torch.tensor([[[3.0, 0.0]]]), torch.tensor([[[0.0, 1.0]]]))
    tensor(1.)
    """
    loss: Tensor = _AttentionMapDistance.apply(student, teacher)
    return loss


def adaptive_avg_pool(features: Tensor, size: tuple[int, int]) -> Tensor:
    """``[batch, channels, height, width]`` at ``size`` by adaptive average pooling; untouched where it has it already.

    >>> adaptive_avg_pool(torch.tensor([[[[1.0, 3.0], [5.0, 7.0]]]]), (1, 2))
    tensor([[[[3., 5.]]]])
    """
    input_size = tuple(features.shape[2:])
    if input_size == size:
        return features
    windows = tuple(large // max(small, 1) for large, small in zip(input_size, size, strict=True))
    is_divisible = all(small * window == large for large, small, window in zip(input_size, size, windows, strict=True))
    if not features.is_cpu or not is_divisible or not 1 < max(windows) <= _MAX_SLICED_WINDOW or not features.numel():
        return F.adaptive_avg_pool2d(features, size)
    means: Tensor = _AvgPool.apply(features, *windows)
    return means


def gram_matrix(rows: Tensor) -> Tensor:
    """F·Fᵀ of ``[..., rows, values]``, whose gradient is one product as well, where autograd takes two.

    >>> gram_matrix(torch.tensor([[1.0, 0.0], [1.0, 2.0]]))
    tensor([[1., 1.],
            [1., 5.]])
    """
    gram: Tensor = _GramMatrix.apply(rows)
    return gram


class _AttentionMap(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        unit, ctx.norm = _normalized_map(features)
        ctx.save_for_backward(features, unit)
        return unit

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        features, unit = ctx.saved_tensors
        norm = _normalized_map(features)[1] if torch.is_grad_enabled() else ctx.norm
        return _feature_gradient(features, unit, gradients[0], 2 / norm)


class _AttentionMapDistance(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor) -> Tensor:
        unit, norm = _normalized_map(student)
        ctx.teacher = _normalized_map(teacher)[0]
        ctx.save_for_backward(student)
        ctx.transform = unit, norm
        return mean_squared_error(unit, ctx.teacher)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (student,) = ctx.saved_tensors
        unit, norm = _normalized_map(student) if torch.is_grad_enabled() else ctx.transform
        scale = gradients[0] * (4 / max(unit.numel(), 1)) / norm
        return _feature_gradient(student, unit, unit - ctx.teacher, scale), None


class _AvgPool(torch.autograd.Function):
    """Means over windows of ``high`` by ``wide``."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, kernel_height: int, kernel_width: int) -> Tensor:
        ctx.windows = kernel_height, kernel_width
        rows = sum(
            (features[:, :, offset::kernel_height] for offset in range(1, kernel_height)),
            start=features[:, :, ::kernel_height],
        )
        window_sums = sum(
            (rows[..., offset::kernel_width] for offset in range(1, kernel_width)), start=rows[..., ::kernel_width]
        )
        return window_sums * (1 / (kernel_height * kernel_width))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        kernel_height, kernel_width = ctx.windows
        grad_input = gradients[0] * (1 / (kernel_height * kernel_width))
        batch, channels, height, width = grad_input.shape
        rows = (
            grad_input.unsqueeze(4)
            .expand(-1, -1, -1, -1, kernel_width)
            .reshape(batch, channels, height, 1, width * kernel_width)
        )
        return (
            rows.expand(-1, -1, -1, kernel_height, -1).reshape(
                batch, channels, height * kernel_height, width * kernel_width
            ),
            None,
            None,
        )


class _GramMatrix(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        return rows @ rows.mT

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (rows,) = ctx.saved_tensors
        grad_rows: Tensor = (gradients[0] + gradients[0].mT) @ rows
        return grad_rows


def _normalized_map(features: Tensor) -> tuple[Tensor, Tensor]:
    """Sum over channels of f², of length 1, ``[batch, positions]``, and the length that it had, ``[batch, 1]``."""
    channels = features.shape[1]
    if features.numel() <= _CHUNK_THRESHOLD or not features.is_cpu or channels % _NUM_CHUNKS:
        squares = features.square()
    else:
        chunks = features.chunk(_NUM_CHUNKS, dim=1)
        squares = chunks[0].square()
        for chunk in chunks[1:]:
            squares.addcmul_(chunk, chunk)
    sums = squares.sum(dim=1).flatten(1)
    norm = torch.linalg.vector_norm(sums, dim=1, keepdim=True)
    norm = F.threshold(norm, _MIN_NORM * channels, torch.inf)
    return sums / norm, norm


def _feature_gradient(features: Tensor, unit: Tensor, grad_unit: Tensor, scale: Tensor) -> Tensor:
    """The gradient of the features by that of the map; ``scale`` ``[batch, 1]``, 2 over the norm."""
    dot = (grad_unit * unit).sum(dim=1, keepdim=True)
    grad_map = torch.addcmul(grad_unit, unit, dot, value=-1) * scale
    return features * grad_map.view(len(features), 1, *features.shape[2:])
