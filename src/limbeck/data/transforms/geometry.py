"""Geometric transforms of a whole batch, with masks and boxes: crop, flip, resized crop, scale jitter, affine maps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError
from limbeck.data.counter_rng import CounterRNG
from limbeck.data.mask_store import UNLABELED

__all__ = [
    "Affine",
    "HorizontalFlip",
    "RandomCrop",
    "RandomResizedCrop",
    "ScaleJitter",
    "affine",
    "horizontal_flip",
    "random_crop",
    "random_resized_crop",
    "scale_jitter",
]

_NUM_TRIES = 10
_MAX_SCALE = 10


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
                f"random_crop's padding must be at most {min(height, width) - 1} to reflect a {height}×{width} image, "
                f"got {self.padding}: decrease it, or use padding_mode constant"
            )
        padded = F.pad(images, (self.padding,) * 4, mode=self.padding_mode)
        offsets = self._sample_offsets(rng).tolist()
        return torch.stack([padded[i, :, y : y + height, x : x + width] for i, (y, x) in enumerate(offsets)])

    def _sample_offsets(self, rng: CounterRNG) -> Tensor:
        """``[batch, 2]``, top and left of each crop in the padded image."""
        return (rng.uniform(2) * (2 * self.padding + 1)).long()

    def transform_masks(self, masks: Tensor, rng: CounterRNG) -> Tensor:
        return _decode_masks(self(_encode_masks(masks), rng))

    def transform_boxes(self, boxes: Tensor, size: tuple[int, int], rng: CounterRNG) -> Tensor:
        return boxes + (self.padding - self._sample_offsets(rng)).flip(1).repeat(1, 2)[:, None]


@final
@dataclass(frozen=True, slots=True)
class HorizontalFlip:
    """See :func:`horizontal_flip`."""

    p: float

    def __call__(self, images: Tensor, rng: CounterRNG) -> Tensor:
        return torch.where(rng.uniform(1).reshape(-1, 1, 1, 1) < self.p, images.flip(3), images)

    def transform_masks(self, masks: Tensor, rng: CounterRNG) -> Tensor:
        return self(masks[:, None], rng)[:, 0]

    def transform_boxes(self, boxes: Tensor, size: tuple[int, int], rng: CounterRNG) -> Tensor:
        left, top, right, bottom = boxes.unbind(2)
        flipped = torch.stack([size[1] - right, top, size[1] - left, bottom], dim=2)
        return torch.where(rng.uniform(1).reshape(-1, 1, 1) < self.p, flipped, boxes)


@final
@dataclass(frozen=True, slots=True)
class Affine:
    """See :func:`affine`."""

    degrees: float
    scale: tuple[float, float]
    translate: float
    padding_mode: Literal["zeros", "border", "reflection"]

    def __call__(self, images: Tensor, rng: CounterRNG) -> Tensor:
        return self._warp(images, rng, mode="bilinear")

    def transform_masks(self, masks: Tensor, rng: CounterRNG) -> Tensor:
        return _decode_masks(self._warp(_encode_masks(masks), rng, mode="nearest"))

    def transform_boxes(self, boxes: Tensor, size: tuple[int, int], rng: CounterRNG) -> Tensor:
        matrix, offset = self._sample_inverse_maps(size, rng)
        half_size = torch.tensor([size[1], size[0]]) / 2
        left, top, right, bottom = boxes.unbind(2)
        corners = torch.stack([left, top, right, top, left, bottom, right, bottom], dim=2).reshape(*left.shape, 4, 2)
        relative = corners / half_size - 1 - offset.reshape(-1, 1, 1, 2)
        moved = (torch.linalg.inv(matrix)[:, None, None] @ relative.unsqueeze(4)).squeeze(4)
        corners = (moved + 1) * half_size
        return torch.cat([corners.amin(dim=2), corners.amax(dim=2)], dim=2)

    def _warp(self, images: Tensor, rng: CounterRNG, *, mode: str) -> Tensor:
        matrix, offset = self._sample_inverse_maps((images.shape[2], images.shape[3]), rng)
        grid = F.affine_grid(torch.cat([matrix, offset], 2), list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, mode=mode, padding_mode=self.padding_mode, align_corners=False)

    def _sample_inverse_maps(self, size: tuple[int, int], rng: CounterRNG) -> tuple[Tensor, Tensor]:
        """From positions in the output to those in the input, in units of half the width and height, from the center.

        Returns:
            Matrices ``[batch, 2, 2]`` and offsets ``[batch, 2, 1]``.
        """
        max_angle = math.radians(self.degrees)
        low = torch.tensor([-max_angle, self.scale[0], -self.translate, -self.translate])
        high = torch.tensor([max_angle, self.scale[1], self.translate, self.translate])
        angle, scale, shift_x, shift_y = rng.uniform_between(low, high).unbind(1)
        cos, sin, aspect = angle.cos() / scale, angle.sin() / scale, size[0] / size[1]
        matrix = torch.stack([torch.stack([cos, sin * aspect], 1), torch.stack([-sin / aspect, cos], 1)], 1)
        return matrix, -(matrix @ torch.stack([2 * shift_x, 2 * shift_y], 1).unsqueeze(2))


@final
@dataclass(frozen=True, slots=True)
class RandomResizedCrop:
    """See :func:`random_resized_crop`."""

    scale: tuple[float, float]
    ratio: tuple[float, float]

    def __call__(self, images: Tensor, rng: CounterRNG) -> Tensor:
        return self._crop(images, rng, mode="bilinear", antialias=True)

    def transform_masks(self, masks: Tensor, rng: CounterRNG) -> Tensor:
        return _decode_masks(self._crop(_encode_masks(masks), rng, mode="nearest-exact"))

    def transform_boxes(self, boxes: Tensor, size: tuple[int, int], rng: CounterRNG) -> Tensor:
        top, left, height, width = torch.tensor(self.sample_boxes(size, rng)).reshape(-1, 4).unbind(1)
        origin = torch.stack([left, top, left, top], dim=1)[:, None]
        scale = torch.stack([size[1] / width, size[0] / height], dim=1).repeat(1, 2)[:, None]
        return (boxes - origin) * scale

    def _crop(self, images: Tensor, rng: CounterRNG, *, mode: str, antialias: bool = False) -> Tensor:
        size = (images.shape[2], images.shape[3])
        outputs = [
            F.interpolate(images[i : i + 1, :, y : y + h, x : x + w], size, mode=mode, antialias=antialias)
            for i, (y, x, h, w) in enumerate(self.sample_boxes(size, rng))
        ]
        return torch.cat(outputs) if outputs else images

    def sample_boxes(self, size: tuple[int, int], rng: CounterRNG) -> list[list[int]]:
        """Top, left, height and width of each crop of images of ``size`` (height, width)."""
        height, width = size
        uniform = rng.uniform(2 * _NUM_TRIES + 2).double()
        area_draws, ratio_draws = uniform[:, :_NUM_TRIES], uniform[:, _NUM_TRIES : 2 * _NUM_TRIES]
        area = height * width * (self.scale[0] + (self.scale[1] - self.scale[0]) * area_draws)
        log_low, log_high = math.log(self.ratio[0]), math.log(self.ratio[1])
        ratio = (log_low + (log_high - log_low) * ratio_draws).exp()
        widths, heights = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
        fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
        first_fit, any_fits = fits.int().argmax(dim=1, keepdim=True), fits.any(dim=1)
        # Without a fit: the center of the image, of the nearest allowed shape.
        shape = min(max(width / height, self.ratio[0]), self.ratio[1])
        fallback = (min(height, round(width / shape)), min(width, round(height * shape)))
        h, w = (
            torch.where(any_fits, candidates.gather(1, first_fit).squeeze(1), float(default))
            for candidates, default in zip((heights, widths), fallback, strict=True)
        )
        y, x = (
            torch.where(any_fits, (uniform[:, column] * (slack + 1)).floor(), (slack / 2).floor())
            for column, slack in ((-2, height - h), (-1, width - w))
        )
        return torch.stack([y, x, h, w], 1).long().tolist()


@final
@dataclass(frozen=True, slots=True)
class ScaleJitter:
    """See :func:`scale_jitter`."""

    scale: tuple[float, float]

    def __call__(self, images: Tensor, rng: CounterRNG) -> Tensor:
        return self._place(images, rng, mode="bilinear", antialias=True)

    def transform_masks(self, masks: Tensor, rng: CounterRNG) -> Tensor:
        return _decode_masks(self._place(_encode_masks(masks), rng, mode="nearest-exact"))

    def transform_boxes(self, boxes: Tensor, size: tuple[int, int], rng: CounterRNG) -> Tensor:
        top, left, height, width = torch.tensor(self._sample(size, rng)).reshape(-1, 4).unbind(1)
        scale = torch.stack([width / size[1], height / size[0]], dim=1).repeat(1, 2)[:, None]
        return boxes * scale + torch.stack([left, top], dim=1).repeat(1, 2)[:, None]

    def _place(self, images: Tensor, rng: CounterRNG, *, mode: str, antialias: bool = False) -> Tensor:
        height, width = images.shape[2:]
        outputs = torch.zeros_like(images)
        for i, (top, left, h, w) in enumerate(self._sample((height, width), rng)):
            scaled = F.interpolate(images[i : i + 1], (h, w), mode=mode, antialias=antialias)
            visible = scaled[:, :, max(-top, 0) : height - top, max(-left, 0) : width - left]
            y, x = max(top, 0), max(left, 0)
            outputs[i : i + 1, :, y : y + visible.shape[2], x : x + visible.shape[3]] = visible
        return outputs

    def _sample(self, size: tuple[int, int], rng: CounterRNG) -> list[list[int]]:
        """Top, left, height and width of each scaled image in the output; top and left are negative where it is cut."""
        draws = rng.uniform(3).double()
        factor = self.scale[0] + (self.scale[1] - self.scale[0]) * draws[:, :1]
        scaled = (torch.tensor(size, dtype=torch.float64) * factor).round().clamp(min=1)
        slack = torch.tensor(size, dtype=torch.float64) - scaled
        offset = (draws[:, 1:] * (slack.abs() + 1)).floor().minimum(slack.abs()) * slack.sign()
        return torch.cat([offset, scaled], dim=1).long().tolist()


def random_crop(padding: int = 4, padding_mode: Literal["constant", "reflect"] = "constant") -> RandomCrop:
    """Pad by ``padding`` pixels on each side, and crop the original size at a random position."""
    if padding < 1:
        raise LimbeckError(f"random_crop's padding must be at least 1, got {padding}")
    _check_choice("random_crop's padding_mode", padding_mode, ("constant", "reflect"))
    return RandomCrop(padding, padding_mode)


def horizontal_flip(p: float = 0.5) -> HorizontalFlip:
    """Mirror left and right with probability ``p``."""
    if not 0 <= p <= 1:
        raise LimbeckError(f"horizontal_flip's p must be from 0 to 1, got {p}")
    return HorizontalFlip(p)


def affine(
    degrees: float = 15.0,
    scale: tuple[float, float] = (0.9, 1.1),
    translate: float = 0.1,
    padding_mode: Literal["zeros", "border", "reflection"] = "zeros",
) -> Affine:
    """Rotate by up to ±``degrees``, zoom by ``scale``, shift by up to ±``translate`` of the size; bilinear.

    >>> affine(degrees=0.0, scale=(1.0, 1.0), translate=0.0)(torch.ones(1, 1, 4, 4), CounterRNG.for_samples(
    ...     torch.tensor([0]), torch.tensor([0]), seed=0, transform_index=0)).sum()
    tensor(16.)
    """
    if not 0 < scale[0] <= scale[1]:
        raise LimbeckError(f"affine's scale must be (low, high) with 0 < low <= high, got {scale}")
    if degrees < 0 or not 0 <= translate <= 1:
        raise LimbeckError(
            f"affine's degrees must be at least 0 and translate from 0 to 1, got {degrees} and {translate}"
        )
    _check_choice("affine's padding_mode", padding_mode, ("zeros", "border", "reflection"))
    return Affine(degrees, (scale[0], scale[1]), translate, padding_mode)


def random_resized_crop(
    scale: tuple[float, float] = (0.08, 1.0), ratio: tuple[float, float] = (3 / 4, 4 / 3)
) -> RandomResizedCrop:
    """Crop a fraction ``scale`` of the area with width over height in ``ratio``, and resize it to the original size.

    The distribution is that of torchvision (Szegedy et al., CVPR 2015, https://arxiv.org/abs/1409.4842); bilinear with
    antialiasing. For images of 32 pixels, a scale from at least 0.25 is usual.

    >>> random_resized_crop((1.0, 1.0), (1.0, 1.0))(torch.ones(1, 1, 4, 4), CounterRNG.for_samples(
    ...     torch.tensor([0]), torch.tensor([0]), seed=0, transform_index=0)).sum()
    tensor(16.)
    """
    if not 0 < scale[0] <= scale[1] <= 1:
        raise LimbeckError(f"random_resized_crop's scale must be (low, high) with 0 < low <= high <= 1, got {scale}")
    if not 0 < ratio[0] <= ratio[1] < float("inf"):
        raise LimbeckError(f"random_resized_crop's ratio must be (low, high) with 0 < low <= high, got {ratio}")
    return RandomResizedCrop((scale[0], scale[1]), (ratio[0], ratio[1]))


def scale_jitter(scale: tuple[float, float] = (0.5, 2.0)) -> ScaleJitter:
    """Resize by a factor in ``scale``, and crop or pad with black to the original size at a random position.

    Large-scale jitter (Ghiasi et al., CVPR 2021, https://arxiv.org/abs/2012.07177) has a scale of 0.1 to 2; bilinear
    with antialiasing.

    >>> scale_jitter((0.5, 0.5))(torch.ones(1, 1, 4, 4), CounterRNG.for_samples(
    ...     torch.tensor([0]), torch.tensor([0]), seed=0, transform_index=0)).sum()
    tensor(4.)
    """
    if not 0 < scale[0] <= scale[1] <= _MAX_SCALE:
        raise LimbeckError(
            f"scale_jitter's scale must be (low, high) with 0 < low <= high <= {_MAX_SCALE}, got {scale}"
        )
    return ScaleJitter((scale[0], scale[1]))


def _encode_masks(masks: Tensor) -> Tensor:
    """Masks as images of one channel, in which 0, the value outside an image, is no class."""
    return (masks - UNLABELED).float()[:, None]


def _decode_masks(images: Tensor) -> Tensor:
    return images[:, 0].round().long() + UNLABELED


def _check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise LimbeckError(f"{name} must be {' or '.join(allowed)}, got {value!r}")
