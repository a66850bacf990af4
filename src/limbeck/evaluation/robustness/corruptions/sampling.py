"""What several corruptions are made of: draws by picture, filters, cutting out and enlarging, and random landscapes.

Pictures here are ``[n, channels, height, width]`` float32 in 0..1, and each has a generator of its own, so that what is
drawn for it hangs neither on its neighbours nor on the size of the batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

__all__ = ["SMALL", "drawn", "enlarged", "filtered", "is_small", "plasma", "smoothed", "streaked"]

SMALL = 64
"""The shorter side up to which a picture is corrupted as those of CIFAR-C are, and above as those of ImageNet-C."""


def is_small(pictures: Tensor) -> bool:
    """Whether the numbers of CIFAR-C hold for these pictures, and not those of ImageNet-C."""
    return min(pictures.shape[-2:]) <= SMALL


def drawn(draws: Sequence[np.random.Generator], draw: Callable[[np.random.Generator], NDArray[Any]]) -> Tensor:
    """``draw`` once for each picture, ``[n, ...]`` float32."""
    return torch.from_numpy(np.stack([draw(one) for one in draws])).float()


def smoothed(pictures: Tensor, sigma: float, *, mode: str = "nearest", truncate: float = 4.0) -> Tensor:
    """A Gaussian blur over height and width, the border repeated."""
    from scipy.ndimage import gaussian_filter

    spread = (0.0,) * (pictures.ndim - 2) + (sigma, sigma)
    return torch.from_numpy(gaussian_filter(pictures.numpy(), sigma=spread, mode=mode, truncate=truncate))


def filtered(pictures: Tensor, kernel: NDArray[np.float64]) -> Tensor:
    """Each channel under ``kernel`` (odd sides), the border mirrored."""
    channels, sides = pictures.shape[1], [side // 2 for side in kernel.shape]
    padded = _mirrored(pictures, *sides)
    weight = torch.from_numpy(kernel).float().expand(channels, 1, *kernel.shape)
    return F.conv2d(padded, weight.contiguous(), groups=channels)


def enlarged(pictures: Tensor, factor: float) -> Tensor:
    """The middle of the pictures, ``factor`` times as large, cut to the size they had."""
    height, width = pictures.shape[-2:]
    inner = [math.ceil(side / factor) for side in (height, width)]
    middle = _middle(pictures, *inner)
    grown = [max(side, round(cut * factor)) for side, cut in zip((height, width), inner, strict=True)]
    return _middle(F.interpolate(middle, size=grown, mode="bilinear", align_corners=True), height, width)


def streaked(pictures: Tensor, angle: Tensor, *, radius: int, sigma: float) -> Tensor:
    """Motion blur as ImageMagick's: half a Gaussian of ``2 · radius + 1`` pixels along ``angle`` (``[n]`` degrees)."""
    height, width = pictures.shape[-2:]
    count = 2 * radius + 1
    weights = np.exp(-np.square(np.arange(count)) / (2 * sigma**2))
    turn = torch.deg2rad(angle)
    down, right = turn.cos(), turn.sin()
    each = torch.arange(len(pictures))[:, None, None]
    result = torch.zeros_like(pictures)
    for i, weight in enumerate((weights / weights.sum()).tolist()):
        rows = (torch.arange(height) + (i * down - 0.5).ceil().long()[:, None]).clamp(0, height - 1)
        columns = (torch.arange(width) + (i * right - 0.5).ceil().long()[:, None]).clamp(0, width - 1)
        # Indexing apart from a slice puts the channels last.
        result += weight * pictures[each, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    return result


def plasma(draws: Sequence[np.random.Generator], height: int, width: int, *, decay: float) -> Tensor:
    """Random landscapes ``[n, 1, height, width]`` from 0 to 1, by diamonds and squares (Fournier et al., 1982).

    The larger ``decay``, the smoother: roughness falls by its square each time the step is halved.
    """
    size = 2 ** math.ceil(math.log2(max(height, width, 2)))
    land = torch.zeros(len(draws), size, size)
    rough, step = 1.0, size
    while step >= 2:
        half = step // 2
        corners = land[:, ::step, ::step]
        middle = (corners + corners.roll(-1, 1) + corners.roll(-1, 2) + corners.roll((-1, -1), (1, 2))) / 4
        land[:, half::step, half::step] = middle + _wobble(draws, middle.shape[1:], rough)
        centre = land[:, half::step, half::step]
        across = (corners + corners.roll(-1, 2) + centre + centre.roll(1, 1)) / 4
        downward = (corners + corners.roll(-1, 1) + centre + centre.roll(1, 2)) / 4
        land[:, ::step, half::step] = across + _wobble(draws, across.shape[1:], rough)
        land[:, half::step, ::step] = downward + _wobble(draws, downward.shape[1:], rough)
        step, rough = half, rough / decay**2
    land = land - land.amin((1, 2), keepdim=True)
    land = land / land.amax((1, 2), keepdim=True).clamp(min=1e-12)
    return land[:, None, :height, :width]


def _wobble(draws: Sequence[np.random.Generator], shape: Sequence[int], rough: float) -> Tensor:
    return drawn(draws, lambda one: one.uniform(-rough, rough, tuple(shape)))


def _middle(pictures: Tensor, height: int, width: int) -> Tensor:
    top, left = (pictures.shape[-2] - height) // 2, (pictures.shape[-1] - width) // 2
    return pictures[..., top : top + height, left : left + width]


def _mirrored(pictures: Tensor, high: int, wide: int) -> Tensor:
    """Padded by mirroring at the outermost pixel, as often as a small picture needs."""
    padded = pictures.numpy()
    return torch.from_numpy(np.pad(padded, ((0, 0), (0, 0), (high, high), (wide, wide)), mode="reflect"))
