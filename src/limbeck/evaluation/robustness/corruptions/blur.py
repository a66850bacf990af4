"""Blur of a lens or a hand: out of focus, frosted glass, motion, and zooming while the shutter is open."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from limbeck.evaluation.robustness.corruptions.sampling import (
    directional_blur,
    draw_per_image,
    filter_images,
    gaussian_blur,
    uses_cifar_severity,
    zoom_center,
)

__all__ = ["defocus_blur", "glass_blur", "motion_blur", "zoom_blur"]

Generators = Sequence[np.random.Generator]


def defocus_blur(images: Tensor, severity: int, rngs: Generators) -> Tensor:
    """Each point becomes a disc with a soft rim."""
    small = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))
    large = ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))
    radius, rim = (small if uses_cifar_severity(images) else large)[severity - 1]
    return filter_images(images, _disk_kernel(radius, rim))


def glass_blur(images: Tensor, severity: int, rngs: Generators) -> Tensor:
    """Each pixel takes the place of a near one, between two slight blurs."""
    small = ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2))
    large = ((0.7, 1, 2), (0.9, 2, 1), (1.0, 2, 3), (1.1, 3, 2), (1.5, 4, 2))
    sigma, max_offset, iterations = (small if uses_cifar_severity(images) else large)[severity - 1]
    result = gaussian_blur(images, sigma)
    height, width = images.shape[-2:]
    # Near the border every pixel stays, so that none is taken from outside.
    rows, columns = torch.arange(max_offset, height - max_offset + 1), torch.arange(max_offset, width - max_offset + 1)
    batch_index = torch.arange(len(images))[:, None, None]
    for _ in range(iterations):
        size = (2, len(rows), len(columns))
        row_offset, column_offset = (
            draw_per_image(rngs, lambda rng: rng.integers(-max_offset, max_offset, size)).long().unbind(1)  # noqa: B023
        )
        shuffled = result[batch_index, :, rows[:, None] + row_offset, columns + column_offset].permute(0, 3, 1, 2)
        result = result.clone()
        result[:, :, max_offset : height - max_offset + 1, max_offset : width - max_offset + 1] = shuffled
    return gaussian_blur(result, sigma)


def motion_blur(images: Tensor, severity: int, rngs: Generators) -> Tensor:
    """A streak along a direction of its own for each picture."""
    small = ((6, 1.0), (6, 1.5), (6, 2.0), (8, 2.0), (9, 2.5))
    large = ((10, 3.0), (15, 5.0), (15, 8.0), (15, 12.0), (20, 15.0))
    radius, sigma = (small if uses_cifar_severity(images) else large)[severity - 1]
    angle = draw_per_image(rngs, lambda rng: np.asarray(rng.uniform(-45, 45)))
    return directional_blur(images, angle, radius=radius, sigma=sigma)


def zoom_blur(images: Tensor, severity: int, rngs: Generators) -> Tensor:
    """The mean of the picture and of its middle, enlarged more and more."""
    small = ((1.05, 0.01), (1.10, 0.01), (1.15, 0.01), (1.20, 0.01), (1.25, 0.01))
    large = ((1.10, 0.01), (1.15, 0.01), (1.20, 0.02), (1.24, 0.02), (1.30, 0.03))
    max_zoom, step = (small if uses_cifar_severity(images) else large)[severity - 1]
    factors = 1 + step * np.arange(round((max_zoom - 1) / step) + 1)
    return (images + sum(zoom_center(images, float(factor)) for factor in factors)) / (len(factors) + 1)


def _disk_kernel(radius: float, rim: float) -> NDArray[np.float64]:
    """A disc of ``radius`` pixels, blurred by a Gaussian of ``rim`` over 3 pixels (5 where it is large)."""
    from scipy.ndimage import correlate1d

    extent = int(np.ceil(radius)) + 2
    offsets = np.arange(-extent, extent + 1)
    disk = (np.square(offsets)[:, None] + np.square(offsets)[None, :] <= radius**2).astype(np.float64)
    blur_offsets = np.arange(-1, 2) if radius <= 8 else np.arange(-2, 3)
    blur_kernel = np.exp(-np.square(blur_offsets) / (2 * rim**2))
    for axis in (0, 1):
        disk = correlate1d(disk, blur_kernel / blur_kernel.sum(), axis=axis, mode="constant")
    result: NDArray[np.float64] = disk / disk.sum()
    return result
