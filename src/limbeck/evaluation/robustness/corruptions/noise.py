"""Noise of a sensor: Gaussian, shot (few photons) and impulse (dead and hot pixels)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from limbeck.evaluation.robustness.corruptions.sampling import drawn, is_small

__all__ = ["gaussian_noise", "impulse_noise", "shot_noise"]

Draws = Sequence[np.random.Generator]


def gaussian_noise(pictures: Tensor, severity: int, draws: Draws) -> Tensor:
    """Plus a normal number for each value."""
    small, large = (0.04, 0.06, 0.08, 0.09, 0.10), (0.08, 0.12, 0.18, 0.26, 0.38)
    sigma = (small if is_small(pictures) else large)[severity - 1]
    return pictures + sigma * drawn(draws, lambda one: one.standard_normal(pictures.shape[1:]))


def shot_noise(pictures: Tensor, severity: int, draws: Draws) -> Tensor:
    """As many photons as a Poisson number says, where a full pixel has so many on average."""
    small, large = (500, 250, 100, 75, 50), (60, 25, 12, 5, 3)
    photons = (small if is_small(pictures) else large)[severity - 1]
    lit = [
        one.poisson(picture * photons) / photons for one, picture in zip(draws, pictures.double().numpy(), strict=True)
    ]
    return torch.from_numpy(np.stack(lit)).float()


def impulse_noise(pictures: Tensor, severity: int, draws: Draws) -> Tensor:
    """A share of the values is black or white, each as often."""
    small, large = (0.01, 0.02, 0.03, 0.05, 0.07), (0.03, 0.06, 0.09, 0.17, 0.27)
    share = (small if is_small(pictures) else large)[severity - 1]
    dice = drawn(draws, lambda one: one.random(pictures.shape[1:]))
    return pictures.masked_fill(dice < share / 2, 0.0).masked_fill(dice > 1 - share / 2, 1.0)
