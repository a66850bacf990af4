"""Moving an image about: cut out, mirrored, turned, zoomed and shifted, each for a whole batch at once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError
from limbeck.data.counter_rng import CounterRNG

__all__ = ["Affine", "HorizontalFlip", "RandomCrop", "affine", "horizontal_flip", "random_crop"]


@final
@dataclass(frozen=True, slots=True)
class RandomCrop:
    """See :func:`random_crop`."""

    padding: int
    padding_mode: Literal["constant", "reflect"]

    def __call__(self, images: Tensor, rng: CounterRNG) -> Tensor:
        height, width = images.shape[2:]
        if self.padding_mode == "reflect" and self.padding >= min(height, width):
            raise LimbeckError(
                f"random_crop cannot reflect {self.padding} pixels of a {height}×{width} image: pad by at most "
                f"{min(height, width) - 1}, or take the padding_mode constant"
            )
        padded = F.pad(images, (self.padding,) * 4, mode=self.padding_mode)
        offsets = (rng.uniform(2) * (2 * self.padding + 1)).long().tolist()
        return torch.stack([padded[i, :, y : y + height, x : x + width] for i, (y, x) in enumerate(offsets)])


@final
@dataclass(frozen=True, slots=True)
class HorizontalFlip:
    """See :func:`horizontal_flip`."""

    p: float

    def __call__(self, images: Tensor, rng: CounterRNG) -> Tensor:
        flipped = rng.uniform(1).reshape(-1, 1, 1, 1) < self.p
        return torch.where(flipped, images.flip(3), images)


@final
@dataclass(frozen=True, slots=True)
class Affine:
    """See :func:`affine`."""

    degrees: float
    scale: tuple[float, float]
    translate: float
    padding_mode: Literal["zeros", "border", "reflection"]

    def __call__(self, images: Tensor, rng: CounterRNG) -> Tensor:
        max_angle = math.radians(self.degrees)
        low = torch.tensor([-max_angle, self.scale[0], -self.translate, -self.translate])
        high = torch.tensor([max_angle, self.scale[1], self.translate, self.translate])
        angle, scale, shift_x, shift_y = rng.uniform_between(low, high).unbind(1)
        # affine_grid asks where each output pixel comes from, in units of half the width and height: the inverse map.
        cos, sin, aspect = angle.cos() / scale, angle.sin() / scale, images.shape[2] / images.shape[3]
        matrix = torch.stack([torch.stack([cos, sin * aspect], 1), torch.stack([-sin / aspect, cos], 1)], 1)
        offset = -(matrix @ torch.stack([2 * shift_x, 2 * shift_y], 1).unsqueeze(2))
        grid = F.affine_grid(torch.cat([matrix, offset], 2), list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, mode="bilinear", padding_mode=self.padding_mode, align_corners=False)


def random_crop(padding: int = 4, padding_mode: Literal["constant", "reflect"] = "constant") -> RandomCrop:
    """Pad by ``padding`` pixels on each side and cut the old size out at a random place."""
    if padding < 1:
        raise LimbeckError(f"random_crop pads by at least 1 pixel, not {padding}")
    _require_choice(padding_mode, ("constant", "reflect"), name="random_crop's padding_mode")
    return RandomCrop(padding, padding_mode)


def horizontal_flip(p: float = 0.5) -> HorizontalFlip:
    """Mirror left and right with this probability."""
    if not 0 <= p <= 1:
        raise LimbeckError(f"horizontal_flip's p is a probability from 0 to 1, not {p}")
    return HorizontalFlip(p)


def affine(
    degrees: float = 15.0,
    scale: tuple[float, float] = (0.9, 1.1),
    translate: float = 0.1,
    padding_mode: Literal["zeros", "border", "reflection"] = "zeros",
) -> Affine:
    """Turn by up to ``degrees`` either way, zoom by ``scale``, shift by up to ``translate`` of the size; bilinear.

    >>> affine(degrees=0.0, scale=(1.0, 1.0), translate=0.0)(torch.ones(1, 1, 4, 4), CounterRNG.for_samples(
    ...     torch.tensor([0]), torch.tensor([0]), seed=0, transform_index=0)).sum()
    tensor(16.)
    """
    if not 0 < scale[0] <= scale[1]:
        raise LimbeckError(f"a zoom goes from a number above zero to one at least as large, not {scale}")
    if degrees < 0 or not 0 <= translate <= 1:
        raise LimbeckError(f"degrees are 0 or more and translate a share from 0 to 1, not {degrees} and {translate}")
    _require_choice(padding_mode, ("zeros", "border", "reflection"), name="affine's padding_mode")
    return Affine(degrees, (scale[0], scale[1]), translate, padding_mode)


def _require_choice(value: str, allowed: tuple[str, ...], *, name: str) -> None:
    if value not in allowed:
        raise LimbeckError(f"{name} is one of {', '.join(allowed)}, not {value!r}")
