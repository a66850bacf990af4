"""Image operations of the corruptions: filters, crops, sampling grids and random numbers.

Images are ``[n, channels, height, width]`` float32 in 0..1. Each image has its own generator, so that its random
numbers do not depend on the batch.
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

Generators = Sequence[np.random.Generator]


def draw_per_image(rngs: Generators, draw: Callable[[np.random.Generator], NDArray[Any]]) -> Tensor:
    """Calls ``draw`` with the generator of each image and stacks the results, ``[n, ...]`` float32."""
    return torch.from_numpy(np.stack([draw(rng) for rng in rngs])).float()


def gaussian_blur(images: Tensor, sigma: float, *, mode: str = "nearest", truncate: float = 4.0) -> Tensor:
    """Gaussian blur over height and width."""
    from scipy.ndimage import gaussian_filter

    blurred = gaussian_filter(images.numpy(), sigma=sigma, mode=mode, truncate=truncate, axes=(-2, -1))
    return torch.from_numpy(blurred)


def filter2d(images: Tensor, kernel: NDArray[np.float64]) -> Tensor:
    """Convolves each channel with ``kernel`` (odd sides), with reflect padding also where it exceeds the image."""
    channels, (pad_height, pad_width) = images.shape[1], (side // 2 for side in kernel.shape)
    padding = ((0, 0), (0, 0), (pad_height, pad_height), (pad_width, pad_width))
    padded = torch.from_numpy(np.pad(images.numpy(), padding, mode="reflect"))
    weight = torch.from_numpy(kernel).float().expand(channels, 1, *kernel.shape)
    return F.conv2d(padded, weight.contiguous(), groups=channels)


def disk_kernel(radius: float, alias_blur: float) -> NDArray[np.float64]:
    """A disk of ``radius`` pixels, anti-aliased by a Gaussian of σ ``alias_blur`` over 3 pixels (5 if radius > 8)."""
    from scipy.ndimage import correlate1d

    extent = int(np.ceil(radius)) + 2
    offsets = np.arange(-extent, extent + 1)
    disk = (np.square(offsets)[:, None] + np.square(offsets)[None, :] <= radius**2).astype(np.float64)
    blur_offsets = np.arange(-1, 2) if radius <= 8 else np.arange(-2, 3)
    blur_kernel = np.exp(-np.square(blur_offsets) / (2 * alias_blur**2))
    for axis in (0, 1):
        disk = correlate1d(disk, blur_kernel / blur_kernel.sum(), axis=axis, mode="constant")
    result: NDArray[np.float64] = disk / disk.sum()
    return result


def zoom_center(images: Tensor, factor: float) -> Tensor:
    """The center of the images, enlarged by ``factor`` and cropped to the original size."""
    height, width = images.shape[-2:]
    crop_size = [math.ceil(side / factor) for side in (height, width)]
    cropped = _center_crop(images, *crop_size)
    zoomed_size = [
        max(side, round(crop_side * factor)) for side, crop_side in zip((height, width), crop_size, strict=True)
    ]
    return _center_crop(F.interpolate(cropped, size=zoomed_size, mode="bilinear", align_corners=True), height, width)


def directional_blur(images: Tensor, angle: Tensor, *, radius: int, sigma: float) -> Tensor:
    """Motion blur as in ImageMagick: half a Gaussian of ``2 · radius + 1`` pixels along ``angle`` (``[n]`` degrees)."""
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
        # Advanced indexing with a slice between the index tensors puts the channels last.
        result += weight * images[batch_index, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    return result


def plasma_fractal(rngs: Generators, height: int, width: int, *, decay: float) -> Tensor:
    """Random height maps ``[n, 1, height, width]`` in 0..1, by the diamond-square algorithm (Fournier et al., 1982).

    The noise amplitude is divided by ``decay²`` each time the step is halved.
    """
    size = 2 ** math.ceil(math.log2(max(height, width, 2)))
    heights = torch.zeros(len(rngs), size, size)
    amplitude, step = 1.0, size
    while step >= 2:
        half = step // 2
        corners = heights[:, ::step, ::step]
        middle = (corners + corners.roll(-1, 1) + corners.roll(-1, 2) + corners.roll((-1, -1), (1, 2))) / 4
        heights[:, half::step, half::step] = middle + _uniform_noise(rngs, middle.shape[1:], amplitude)
        center = heights[:, half::step, half::step]
        horizontal = (corners + corners.roll(-1, 2) + center + center.roll(1, 1)) / 4
        vertical = (corners + corners.roll(-1, 1) + center + center.roll(1, 2)) / 4
        heights[:, ::step, half::step] = horizontal + _uniform_noise(rngs, horizontal.shape[1:], amplitude)
        heights[:, half::step, ::step] = vertical + _uniform_noise(rngs, vertical.shape[1:], amplitude)
        step, amplitude = half, amplitude / decay**2
    heights = heights - heights.amin((1, 2), keepdim=True)
    heights = heights / heights.amax((1, 2), keepdim=True).clamp(min=1e-12)
    return heights[:, None, :height, :width]


def pixel_grid(images: Tensor) -> Tensor:
    """The identity grid: pixel coordinates, ``[1, height, width, (x, y)]``."""
    height, width = images.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([x, y], dim=2)[None].float()


def random_affine_grid(images: Tensor, max_offset: float, rngs: Generators) -> Tensor:
    """Grid ``[n, height, width, (x, y)]`` of source pixels under an affine map that moves three points at random."""
    height, width = images.shape[-2:]
    center, third = np.array([width // 2, height // 2]), min(height, width) // 3
    points = center + third * np.array([[1, 1], [1, -1], [-1, -1]])
    moved_points = points + np.stack([rng.uniform(-max_offset, max_offset, (3, 2)) for rng in rngs])
    ones = np.ones((len(moved_points), 3, 1))
    # The inverse map: x' = (x, y, 1) · inverse.
    inverse = np.linalg.solve(np.concatenate([moved_points, ones], axis=2), np.broadcast_to(points, moved_points.shape))
    grid = torch.cat([pixel_grid(images), torch.ones(1, height, width, 1)], dim=3)
    return torch.einsum("nhwk,nkc->nhwc", grid.expand(len(moved_points), -1, -1, -1), torch.from_numpy(inverse).float())


def remap(images: Tensor, coordinates: Tensor) -> Tensor:
    """``F.grid_sample`` at ``coordinates`` in pixels, bilinear, with reflection at the border."""
    height, width = images.shape[-2:]
    grid = 2 * coordinates / torch.tensor([max(width - 1, 1), max(height - 1, 1)]) - 1
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=True)


def _uniform_noise(rngs: Generators, shape: Sequence[int], amplitude: float) -> Tensor:
    return draw_per_image(rngs, lambda rng: rng.uniform(-amplitude, amplitude, tuple(shape)))


def _center_crop(images: Tensor, height: int, width: int) -> Tensor:
    top, left = (images.shape[-2] - height) // 2, (images.shape[-1] - width) // 2
    return images[..., top : top + height, left : left + width]
