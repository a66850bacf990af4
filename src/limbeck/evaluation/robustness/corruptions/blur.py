"""Blur of a lens or a hand: out of focus, frosted glass, motion, and zooming while the shutter is open."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from limbeck.evaluation.robustness.corruptions.sampling import drawn, enlarged, filtered, is_small, smoothed, streaked

__all__ = ["defocus_blur", "glass_blur", "motion_blur", "zoom_blur"]

Draws = Sequence[np.random.Generator]


def defocus_blur(pictures: Tensor, severity: int, draws: Draws) -> Tensor:
    """Each point becomes a disc with a soft rim."""
    small = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))
    large = ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))
    radius, rim = (small if is_small(pictures) else large)[severity - 1]
    return filtered(pictures, _disc(radius, rim))


def glass_blur(pictures: Tensor, severity: int, draws: Draws) -> Tensor:
    """Each pixel takes the place of a near one, between two slight blurs."""
    small = ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2))
    large = ((0.7, 1, 2), (0.9, 2, 1), (1.0, 2, 3), (1.1, 3, 2), (1.5, 4, 2))
    sigma, reach, turns = (small if is_small(pictures) else large)[severity - 1]
    result = smoothed(pictures, sigma)
    height, width = pictures.shape[-2:]
    # Near the border every pixel stays, so that none is taken from outside.
    rows, columns = torch.arange(reach, height - reach + 1), torch.arange(reach, width - reach + 1)
    each = torch.arange(len(pictures))[:, None, None]
    for _ in range(turns):
        size = (2, len(rows), len(columns))
        down, right = drawn(draws, lambda one: one.integers(-reach, reach, size)).long().unbind(1)  # noqa: B023
        taken = result[each, :, rows[:, None] + down, columns + right].permute(0, 3, 1, 2)
        result = result.clone()
        result[:, :, reach : height - reach + 1, reach : width - reach + 1] = taken
    return smoothed(result, sigma)


def motion_blur(pictures: Tensor, severity: int, draws: Draws) -> Tensor:
    """A streak along a direction of its own for each picture."""
    small = ((6, 1.0), (6, 1.5), (6, 2.0), (8, 2.0), (9, 2.5))
    large = ((10, 3.0), (15, 5.0), (15, 8.0), (15, 12.0), (20, 15.0))
    radius, sigma = (small if is_small(pictures) else large)[severity - 1]
    angle = drawn(draws, lambda one: np.asarray(one.uniform(-45, 45)))
    return streaked(pictures, angle, radius=radius, sigma=sigma)


def zoom_blur(pictures: Tensor, severity: int, draws: Draws) -> Tensor:
    """The mean of the picture and of its middle, enlarged more and more."""
    small = ((1.05, 0.01), (1.10, 0.01), (1.15, 0.01), (1.20, 0.01), (1.25, 0.01))
    large = ((1.10, 0.01), (1.15, 0.01), (1.20, 0.02), (1.24, 0.02), (1.30, 0.03))
    most, step = (small if is_small(pictures) else large)[severity - 1]
    factors = 1 + step * np.arange(round((most - 1) / step) + 1)
    return (pictures + sum(enlarged(pictures, float(factor)) for factor in factors)) / (len(factors) + 1)


def _disc(radius: float, rim: float) -> NDArray[np.float64]:
    """A disc of ``radius`` pixels, blurred by a Gaussian of ``rim`` over 3 pixels (5 where it is large)."""
    from scipy.ndimage import correlate1d

    reach = int(np.ceil(radius)) + 2
    place = np.arange(-reach, reach + 1)
    disc = (np.square(place)[:, None] + np.square(place)[None, :] <= radius**2).astype(np.float64)
    half = np.arange(-1, 2) if radius <= 8 else np.arange(-2, 3)
    soft = np.exp(-np.square(half) / (2 * rim**2))
    for axis in (0, 1):
        disc = correlate1d(disc, soft / soft.sum(), axis=axis, mode="constant")
    result: NDArray[np.float64] = disc / disc.sum()
    return result
