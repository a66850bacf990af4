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

__all__ = [
    "CIFAR_MAX_SIDE",
    "directional_blur",
    "draw_per_image",
    "filter_images",
    "gaussian_blur",
    "plasma_fractal",
    "uses_cifar_severity",
    "zoom_center",
]

CIFAR_MAX_SIDE = 64
"""The shorter side up to which a picture is corrupted as those of CIFAR-C are, and above as those of ImageNet-C."""


def uses_cifar_severity(images: Tensor) -> bool:
    """Whether the numbers of CIFAR-C hold for these pictures, and not those of ImageNet-C."""
    return min(images.shape[-2:]) <= CIFAR_MAX_SIDE


def draw_per_image(rngs: Sequence[np.random.Generator], draw: Callable[[np.random.Generator], NDArray[Any]]) -> Tensor:
    """``draw`` once for each picture, ``[n, ...]`` float32."""
    return torch.from_numpy(np.stack([draw(rng) for rng in rngs])).float()


def gaussian_blur(images: Tensor, sigma: float, *, mode: str = "nearest", truncate: float = 4.0) -> Tensor:
    """A Gaussian blur over height and width, the border repeated."""
    from scipy.ndimage import gaussian_filter

    sigmas = (0.0,) * (images.ndim - 2) + (sigma, sigma)
    return torch.from_numpy(gaussian_filter(images.numpy(), sigma=sigmas, mode=mode, truncate=truncate))


def filter_images(images: Tensor, kernel: NDArray[np.float64]) -> Tensor:
    """Each channel under ``kernel`` (odd sides), the border mirrored."""
    channels, sides = images.shape[1], [side // 2 for side in kernel.shape]
    padded = _pad_reflect(images, *sides)
    weight = torch.from_numpy(kernel).float().expand(channels, 1, *kernel.shape)
    return F.conv2d(padded, weight.contiguous(), groups=channels)


def zoom_center(images: Tensor, factor: float) -> Tensor:
    """The middle of the pictures, ``factor`` times as large, cut to the size they had."""
    height, width = images.shape[-2:]
    crop_size = [math.ceil(side / factor) for side in (height, width)]
    cropped = _center_crop(images, *crop_size)
    zoomed_size = [max(side, round(cut * factor)) for side, cut in zip((height, width), crop_size, strict=True)]
    return _center_crop(F.interpolate(cropped, size=zoomed_size, mode="bilinear", align_corners=True), height, width)


def directional_blur(images: Tensor, angle: Tensor, *, radius: int, sigma: float) -> Tensor:
    """Motion blur as ImageMagick's: half a Gaussian of ``2 · radius + 1`` pixels along ``angle`` (``[n]`` degrees)."""
    height, width = images.shape[-2:]
    count = 2 * radius + 1
    weights = np.exp(-np.square(np.arange(count)) / (2 * sigma**2))
    radians = torch.deg2rad(angle)
    row_step, column_step = radians.cos(), radians.sin()
    batch_index = torch.arange(len(images))[:, None, None]
    result = torch.zeros_like(images)
    for i, weight in enumerate((weights / weights.sum()).tolist()):
        rows = (torch.arange(height) + (i * row_step - 0.5).ceil().long()[:, None]).clamp(0, height - 1)
        columns = (torch.arange(width) + (i * column_step - 0.5).ceil().long()[:, None]).clamp(0, width - 1)
        # Indexing apart from a slice puts the channels last.
        result += weight * images[batch_index, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    return result


def plasma_fractal(rngs: Sequence[np.random.Generator], height: int, width: int, *, decay: float) -> Tensor:
    """Random landscapes ``[n, 1, height, width]`` from 0 to 1, by diamonds and squares (Fournier et al., 1982).

    The larger ``decay``, the smoother: roughness falls by its square each time the step is halved.
    """
    size = 2 ** math.ceil(math.log2(max(height, width, 2)))
    heights = torch.zeros(len(rngs), size, size)
    roughness, step = 1.0, size
    while step >= 2:
        half = step // 2
        corners = heights[:, ::step, ::step]
        middle = (corners + corners.roll(-1, 1) + corners.roll(-1, 2) + corners.roll((-1, -1), (1, 2))) / 4
        heights[:, half::step, half::step] = middle + _uniform_noise(rngs, middle.shape[1:], roughness)
        centre = heights[:, half::step, half::step]
        across = (corners + corners.roll(-1, 2) + centre + centre.roll(1, 1)) / 4
        downward = (corners + corners.roll(-1, 1) + centre + centre.roll(1, 2)) / 4
        heights[:, ::step, half::step] = across + _uniform_noise(rngs, across.shape[1:], roughness)
        heights[:, half::step, ::step] = downward + _uniform_noise(rngs, downward.shape[1:], roughness)
        step, roughness = half, roughness / decay**2
    heights = heights - heights.amin((1, 2), keepdim=True)
    heights = heights / heights.amax((1, 2), keepdim=True).clamp(min=1e-12)
    return heights[:, None, :height, :width]


def _uniform_noise(rngs: Sequence[np.random.Generator], shape: Sequence[int], roughness: float) -> Tensor:
    return draw_per_image(rngs, lambda rng: rng.uniform(-roughness, roughness, tuple(shape)))


def _center_crop(images: Tensor, height: int, width: int) -> Tensor:
    top, left = (images.shape[-2] - height) // 2, (images.shape[-1] - width) // 2
    return images[..., top : top + height, left : left + width]


def _pad_reflect(images: Tensor, pad_height: int, pad_width: int) -> Tensor:
    """Padded by mirroring at the outermost pixel, as often as a small picture needs."""
    padded = images.numpy()
    return torch.from_numpy(
        np.pad(padded, ((0, 0), (0, 0), (pad_height, pad_height), (pad_width, pad_width)), mode="reflect")
    )
