"""Weather: snow, frost on the pane, fog, and too much light."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from limbeck.evaluation.robustness.corruptions.sampling import (
    directional_blur,
    draw_per_image,
    plasma_fractal,
    uses_cifar_severity,
    zoom_center,
)

__all__ = ["brightness", "fog", "frost", "snow"]

Generators = Sequence[np.random.Generator]
_LUMA_WEIGHTS = (0.299, 0.587, 0.114)
_ICE_COLOR = (0.80, 0.88, 0.92)


def snow(images: Tensor, severity: int, rngs: Generators) -> Tensor:
    """Flakes that fall in streaks, before a picture that is whitened."""
    small = (
        (0.10, 0.2, 1.00, 0.60, 8, 3, 0.95), (0.10, 0.2, 1.00, 0.50, 10, 4, 0.90), (0.15, 0.3, 1.75, 0.55, 10, 4, 0.90),
        (0.25, 0.3, 2.25, 0.60, 12, 6, 0.85), (0.30, 0.3, 1.25, 0.65, 14, 12, 0.80),
    )  # fmt: skip
    large = (
        (0.10, 0.3, 3.0, 0.50, 10, 4, 0.80), (0.20, 0.3, 2.0, 0.50, 12, 4, 0.70), (0.55, 0.3, 4.0, 0.90, 12, 8, 0.70),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65), (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    )  # fmt: skip
    mean, std, zoom, threshold, radius, sigma, image_weight = (small if uses_cifar_severity(images) else large)[
        severity - 1
    ]
    size = (1, *images.shape[-2:])
    flakes = zoom_center(draw_per_image(rngs, lambda rng: rng.normal(mean, std, size)), zoom)
    flakes = flakes.masked_fill(flakes < threshold, 0.0).clamp(0, 1)
    angle = draw_per_image(rngs, lambda rng: np.asarray(rng.uniform(-135, -45)))
    flakes = directional_blur(flakes, angle, radius=int(radius), sigma=sigma)
    white = torch.maximum(images, 1.5 * _to_grayscale(images) + 0.5)
    return image_weight * images + (1 - image_weight) * white + flakes + flakes.rot90(2, (2, 3))


def frost(images: Tensor, severity: int, rngs: Generators) -> Tensor:
    """Ice before the picture: grown by ridges of random landscapes, where the published set has photographs."""
    small = ((1.0, 0.2), (1.0, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))
    large = ((1.0, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))
    image_weight, ice_weight = (small if uses_cifar_severity(images) else large)[severity - 1]
    size = images.shape[-2:]
    # A ridge is where a landscape crosses half its height; veins of ice stand on a smooth, milky ground.
    veins = (1 - (2 * plasma_fractal(rngs, *size, decay=1.5) - 1).abs()) ** 3
    ground = plasma_fractal(rngs, *size, decay=2.5)
    tint = torch.tensor(_ICE_COLOR if images.shape[1] == 3 else (sum(_ICE_COLOR) / 3,)).view(1, -1, 1, 1)
    return image_weight * images + ice_weight * (0.6 * veins + 0.4 * ground) * tint


def fog(images: Tensor, severity: int, rngs: Generators) -> Tensor:
    """A bright landscape before the picture, and the whole brought back to the brightness it had at most."""
    small = ((0.2, 3.0), (0.5, 3.0), (0.75, 2.5), (1.0, 2.0), (1.5, 1.75))
    large = ((1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4))
    density, decay = (small if uses_cifar_severity(images) else large)[severity - 1]
    max_value = images.amax((1, 2, 3), keepdim=True)
    return (
        (images + density * plasma_fractal(rngs, *images.shape[-2:], decay=decay)) * max_value / (max_value + density)
    )


def brightness(images: Tensor, severity: int, rngs: Generators) -> Tensor:
    """More of the value of HSV (the largest channel), hue and saturation as they were."""
    small, large = (0.05, 0.10, 0.15, 0.20, 0.30), (0.1, 0.2, 0.3, 0.4, 0.5)
    offset = (small if uses_cifar_severity(images) else large)[severity - 1]
    value = images.amax(1, keepdim=True)
    brightened = (value + offset).clamp(max=1)
    return torch.where(value > 0, images * brightened / value.clamp(min=1e-12), brightened)


def _to_grayscale(images: Tensor) -> Tensor:
    if images.shape[1] == 1:
        return images
    return (images * torch.tensor(_LUMA_WEIGHTS).view(1, 3, 1, 1)).sum(1, keepdim=True)
