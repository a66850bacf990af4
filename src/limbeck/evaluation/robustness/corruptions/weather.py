"""Weather: snow, frost on the pane, fog, and too much light."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from limbeck.evaluation.robustness.corruptions.sampling import drawn, enlarged, is_small, plasma, streaked

__all__ = ["brightness", "fog", "frost", "snow"]

Draws = Sequence[np.random.Generator]
_LUMA = (0.299, 0.587, 0.114)
_ICE = (0.80, 0.88, 0.92)


def snow(pictures: Tensor, severity: int, draws: Draws) -> Tensor:
    """Flakes that fall in streaks, before a picture that is whitened."""
    small = (
        (0.10, 0.2, 1.00, 0.60, 8, 3, 0.95), (0.10, 0.2, 1.00, 0.50, 10, 4, 0.90), (0.15, 0.3, 1.75, 0.55, 10, 4, 0.90),
        (0.25, 0.3, 2.25, 0.60, 12, 6, 0.85), (0.30, 0.3, 1.25, 0.65, 14, 12, 0.80),
    )  # fmt: skip
    large = (
        (0.10, 0.3, 3.0, 0.50, 10, 4, 0.80), (0.20, 0.3, 2.0, 0.50, 12, 4, 0.70), (0.55, 0.3, 4.0, 0.90, 12, 8, 0.70),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65), (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    )  # fmt: skip
    mean, spread, zoom, least, radius, sigma, kept = (small if is_small(pictures) else large)[severity - 1]
    size = (1, *pictures.shape[-2:])
    flakes = enlarged(drawn(draws, lambda one: one.normal(mean, spread, size)), zoom)
    flakes = flakes.masked_fill(flakes < least, 0.0).clamp(0, 1)
    angle = drawn(draws, lambda one: np.asarray(one.uniform(-135, -45)))
    flakes = streaked(flakes, angle, radius=int(radius), sigma=sigma)
    white = torch.maximum(pictures, 1.5 * _grey(pictures) + 0.5)
    return kept * pictures + (1 - kept) * white + flakes + flakes.rot90(2, (2, 3))


def frost(pictures: Tensor, severity: int, draws: Draws) -> Tensor:
    """Ice before the picture: grown by ridges of random landscapes, where the published set has photographs."""
    small = ((1.0, 0.2), (1.0, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))
    large = ((1.0, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))
    kept, ice = (small if is_small(pictures) else large)[severity - 1]
    size = pictures.shape[-2:]
    # A ridge is where a landscape crosses half its height; veins of ice stand on a smooth, milky ground.
    veins = (1 - (2 * plasma(draws, *size, decay=1.5) - 1).abs()) ** 3
    ground = plasma(draws, *size, decay=2.5)
    tint = torch.tensor(_ICE if pictures.shape[1] == 3 else (sum(_ICE) / 3,)).view(1, -1, 1, 1)
    return kept * pictures + ice * (0.6 * veins + 0.4 * ground) * tint


def fog(pictures: Tensor, severity: int, draws: Draws) -> Tensor:
    """A bright landscape before the picture, and the whole brought back to the brightness it had at most."""
    small = ((0.2, 3.0), (0.5, 3.0), (0.75, 2.5), (1.0, 2.0), (1.5, 1.75))
    large = ((1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4))
    dense, decay = (small if is_small(pictures) else large)[severity - 1]
    most = pictures.amax((1, 2, 3), keepdim=True)
    return (pictures + dense * plasma(draws, *pictures.shape[-2:], decay=decay)) * most / (most + dense)


def brightness(pictures: Tensor, severity: int, draws: Draws) -> Tensor:
    """More of the value of HSV (the largest channel), hue and saturation as they were."""
    small, large = (0.05, 0.10, 0.15, 0.20, 0.30), (0.1, 0.2, 0.3, 0.4, 0.5)
    more = (small if is_small(pictures) else large)[severity - 1]
    value = pictures.amax(1, keepdim=True)
    lit = (value + more).clamp(max=1)
    return torch.where(value > 0, pictures * lit / value.clamp(min=1e-12), lit)


def _grey(pictures: Tensor) -> Tensor:
    if pictures.shape[1] == 1:
        return pictures
    return (pictures * torch.tensor(_LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
