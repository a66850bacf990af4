"""Noise of a sensor: Gaussian, shot (few photons) and impulse (dead and hot pixels)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from limbeck.evaluation.robustness.corruptions.sampling import draw_per_image, uses_cifar_severity

__all__ = ["gaussian_noise", "impulse_noise", "shot_noise"]

Generators = Sequence[np.random.Generator]


def gaussian_noise(images: Tensor, severity: int, rngs: Generators) -> Tensor:
    """Plus a normal number for each value."""
    small, large = (0.04, 0.06, 0.08, 0.09, 0.10), (0.08, 0.12, 0.18, 0.26, 0.38)
    sigma = (small if uses_cifar_severity(images) else large)[severity - 1]
    return images + sigma * draw_per_image(rngs, lambda rng: rng.standard_normal(images.shape[1:]))


def shot_noise(images: Tensor, severity: int, rngs: Generators) -> Tensor:
    """As many photons as a Poisson number says, where a full pixel has so many on average."""
    small, large = (500, 250, 100, 75, 50), (60, 25, 12, 5, 3)
    photons = (small if uses_cifar_severity(images) else large)[severity - 1]
    exposed = [rng.poisson(image * photons) / photons for rng, image in zip(rngs, images.double().numpy(), strict=True)]
    return torch.from_numpy(np.stack(exposed)).float()


def impulse_noise(images: Tensor, severity: int, rngs: Generators) -> Tensor:
    """A share of the values is black or white, each as often."""
    small, large = (0.01, 0.02, 0.03, 0.05, 0.07), (0.03, 0.06, 0.09, 0.17, 0.27)
    fraction = (small if uses_cifar_severity(images) else large)[severity - 1]
    uniform = draw_per_image(rngs, lambda rng: rng.random(images.shape[1:]))
    return images.masked_fill(uniform < fraction / 2, 0.0).masked_fill(uniform > 1 - fraction / 2, 1.0)
