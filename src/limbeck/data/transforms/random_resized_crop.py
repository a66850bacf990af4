"""Random resized crop (Szegedy et al., CVPR 2015, https://arxiv.org/abs/1409.4842), as torchvision draws it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError
from limbeck.data.counter_rng import CounterRNG

__all__ = ["RandomResizedCrop", "random_resized_crop"]

_NUM_TRIES = 10


@final
@dataclass(frozen=True, slots=True)
class RandomResizedCrop:
    """See :func:`random_resized_crop`."""

    scale: tuple[float, float]
    ratio: tuple[float, float]

    def __call__(self, images: Tensor, rng: CounterRNG) -> Tensor:
        size = (images.shape[2], images.shape[3])
        outputs = [
            F.interpolate(images[i : i + 1, :, y : y + h, x : x + w], size, mode="bilinear", antialias=True)
            for i, (y, x, h, w) in enumerate(self.sample_boxes(size, rng))
        ]
        return torch.cat(outputs) if outputs else images

    def sample_boxes(self, size: tuple[int, int], rng: CounterRNG) -> list[list[int]]:
        """Top, left, height and width of each cut out of images of this height and width."""
        height, width = size
        uniform = rng.uniform(2 * _NUM_TRIES + 2).double()
        area = height * width * _interpolate(self.scale, uniform[:, :_NUM_TRIES])
        ratio = _interpolate(
            (math.log(self.ratio[0]), math.log(self.ratio[1])), uniform[:, _NUM_TRIES : 2 * _NUM_TRIES]
        ).exp()
        widths, heights = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
        fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
        first_fit = fits.int().argmax(dim=1, keepdim=True)  # the first try that fits
        # Where none does, the middle of the image, cut to the nearest shape that is allowed.
        shape = min(max(width / height, self.ratio[0]), self.ratio[1])
        fallback = (min(height, round(width / shape)), min(width, round(height * shape)))
        any_fits = fits.any(dim=1)
        h, w = (
            torch.where(any_fits, candidates.gather(1, first_fit).squeeze(1), float(default))
            for candidates, default in ((heights, fallback[0]), (widths, fallback[1]))
        )
        y, x = (
            torch.where(any_fits, (uniform[:, column] * (slack + 1)).floor(), (slack / 2).floor())
            for column, slack in ((-2, height - h), (-1, width - w))
        )
        return torch.stack([y, x, h, w], 1).long().tolist()


def random_resized_crop(
    scale: tuple[float, float] = (0.08, 1.0), ratio: tuple[float, float] = (3 / 4, 4 / 3)
) -> RandomResizedCrop:
    """Cut a share ``scale`` of the area out, of a width over height in ``ratio``, and bring it to the old size.

    Bilinear, with antialiasing where it shrinks. For images of 32 pixels, a scale from 0.25 or more is usual.

    >>> random_resized_crop((1.0, 1.0), (1.0, 1.0))(torch.ones(1, 1, 4, 4), CounterRNG.for_samples(
    ...     torch.tensor([0]), torch.tensor([0]), seed=0, transform_index=0)).sum()
    tensor(16.)
    """
    if not 0 < scale[0] <= scale[1] <= 1:
        raise LimbeckError(f"random_resized_crop's scale goes from a share above 0 to one of at most 1, not {scale}")
    if not 0 < ratio[0] <= ratio[1] < float("inf"):
        raise LimbeckError(
            f"random_resized_crop's ratio goes from a number above 0 to one at least as large, not {ratio}"
        )
    return RandomResizedCrop((scale[0], scale[1]), (ratio[0], ratio[1]))


def _interpolate(limits: tuple[float, float], uniform: Tensor) -> Tensor:
    return limits[0] + (limits[1] - limits[0]) * uniform
