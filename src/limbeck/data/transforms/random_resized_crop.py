"""Random resized crop (Szegedy et al., CVPR 2015, https://arxiv.org/abs/1409.4842), as torchvision draws it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError
from limbeck.data.counter_rng import Draws

__all__ = ["ResizedCrop", "resized_crop"]

_TRIES = 10


@final
@dataclass(frozen=True, slots=True)
class ResizedCrop:
    """See :func:`resized_crop`."""

    scale: tuple[float, float]
    ratio: tuple[float, float]

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        size = (images.shape[2], images.shape[3])
        shown = [
            F.interpolate(images[i : i + 1, :, y : y + h, x : x + w], size, mode="bilinear", antialias=True)
            for i, (y, x, h, w) in enumerate(self.boxes(size, draws))
        ]
        return torch.cat(shown) if shown else images

    def boxes(self, size: tuple[int, int], draws: Draws) -> list[list[int]]:
        """Top, left, height and width of each cut out of pictures of this height and width."""
        height, width = size
        numbers = draws.uniform(2 * _TRIES + 2).double()
        area = height * width * _between(self.scale, numbers[:, :_TRIES])
        ratio = _between((math.log(self.ratio[0]), math.log(self.ratio[1])), numbers[:, _TRIES : 2 * _TRIES]).exp()
        wide, high = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
        fits = (wide > 0) & (wide <= width) & (high > 0) & (high <= height)
        first = fits.int().argmax(dim=1, keepdim=True)  # the first try that fits
        # Where none does, the middle of the picture, cut to the nearest shape that is allowed.
        shape = min(max(width / height, self.ratio[0]), self.ratio[1])
        usual = (min(height, round(width / shape)), min(width, round(height * shape)))
        found = fits.any(dim=1)
        h, w = (
            torch.where(found, tried.gather(1, first).squeeze(1), float(otherwise))
            for tried, otherwise in ((high, usual[0]), (wide, usual[1]))
        )
        y, x = (
            torch.where(found, (numbers[:, column] * (spare + 1)).floor(), (spare / 2).floor())
            for column, spare in ((-2, height - h), (-1, width - w))
        )
        return torch.stack([y, x, h, w], 1).long().tolist()


def resized_crop(scale: tuple[float, float] = (0.08, 1.0), ratio: tuple[float, float] = (3 / 4, 4 / 3)) -> ResizedCrop:
    """Cut a share ``scale`` of the area out, of a width over height in ``ratio``, and bring it to the old size.

    Bilinear, with antialiasing where it shrinks. For pictures of 32 pixels, a scale from 0.25 or more is usual.

    >>> resized_crop((1.0, 1.0), (1.0, 1.0))(torch.ones(1, 1, 4, 4), Draws.of(
    ...     torch.tensor([0]), torch.tensor([0]), seed=0, place=0)).sum()
    tensor(16.)
    """
    if not 0 < scale[0] <= scale[1] <= 1:
        raise LimbeckError(f"resized_crop's scale goes from a share above 0 to one of at most 1, not {scale}")
    if not 0 < ratio[0] <= ratio[1] < float("inf"):
        raise LimbeckError(f"resized_crop's ratio goes from a number above 0 to one at least as large, not {ratio}")
    return ResizedCrop((scale[0], scale[1]), (ratio[0], ratio[1]))


def _between(ends: tuple[float, float], numbers: Tensor) -> Tensor:
    return ends[0] + (ends[1] - ends[0]) * numbers
