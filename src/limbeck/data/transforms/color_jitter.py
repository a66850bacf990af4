"""Color jitter, as ``torchvision.transforms.v2.ColorJitter``, for a whole batch at once.

Brightness, contrast and color in random order: Howard (2013, https://arxiv.org/abs/1312.5402). Hue is shifted in HSV
(Smith, SIGGRAPH 1978, https://doi.org/10.1145/800248.807361).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.data.counter_rng import CounterRNG

__all__ = ["ColorJitter", "adjust_color_", "adjust_hue", "color_jitter"]

_Range = tuple[float, float]
_BRIGHTNESS, _CONTRAST, _SATURATION, _HUE = range(4)


def adjust_color_(images: Tensor, operation: Tensor, factor: Tensor) -> Tensor:
    """Adjust brightness (0), contrast (1) or saturation (2) of each image by its factor, in place.

    Shapes: ``images`` ``[batch, 3 or 1, height, width]``, ``operation`` and ``factor`` ``[batch]``. Operation 3, and
    saturation of gray images, change nothing. In place, since fresh memory for each change would cost more than it.

    >>> adjust_color_(torch.full((1, 1, 1, 2), 0.5), torch.tensor([0]), torch.tensor([1.5])).flatten()
    tensor([0.7500, 0.7500])
    """
    is_color = images.shape[1] == 3
    factor = torch.where(operation < (_HUE if is_color else _SATURATION), factor, 1.0)
    if is_color:
        red, green, blue = images.unbind(1)
        gray = red.mul(0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114).unsqueeze(1)
    else:
        gray = images.clone()
    saturation_weight = torch.where(operation == _SATURATION, 1 - factor, 0.0)
    contrast_weight = torch.where(operation == _CONTRAST, 1 - factor, 0.0) * gray.flatten(1).mean(1)
    gray.mul_(saturation_weight.reshape(-1, 1, 1, 1)).add_(contrast_weight.reshape(-1, 1, 1, 1))
    return images.mul_(factor.reshape(-1, 1, 1, 1)).add_(gray).clamp_(0, 1)


def adjust_hue(images: Tensor, hue_factor: Tensor) -> Tensor:
    """Shift the hue of each image ``[batch, 3, height, width]`` by a fraction ``[batch]`` of the color circle.

    >>> red = torch.tensor([1.0, 0.0, 0.0]).reshape(1, 3, 1, 1)
    >>> adjust_hue(red, torch.tensor([1 / 3])).flatten().round(decimals=3)
    tensor([0., 1., 0.])
    """
    red, green, blue = images.unbind(1)
    # By channel and in place: several times as fast as amin, remainder and division of all channels.
    high = torch.maximum(torch.maximum(red, green), blue)
    chroma = torch.minimum(torch.minimum(red, green), blue).neg_().add_(high)
    scale = chroma.clamp(min=1e-30).reciprocal_()
    hue = torch.where(high == green, (blue - red).mul_(scale).add_(2), (red - green).mul_(scale).add_(4))
    hue = torch.where(high == red, (green - blue).mul_(scale), hue).add_(6 * hue_factor.reshape(-1, 1, 1))
    output = torch.empty_like(images)
    for channel, offset in enumerate((5, 3, 1)):
        position = hue + offset
        position.sub_((position / 6).floor_().mul_(6))
        torch.minimum(position, 4 - position, out=position)
        output[:, channel] = high - position.clamp_(0, 1).mul_(chroma)
    return output


@final
@dataclass(frozen=True, slots=True)
class ColorJitter:
    """See :func:`color_jitter`."""

    brightness: _Range
    contrast: _Range
    saturation: _Range
    hue: _Range

    def __call__(self, images: Tensor, rng: CounterRNG) -> Tensor:
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            raise LimbeckError(
                f"images must have 1 or 3 channels for color_jitter, got {list(images.shape[1:])}: remove color_jitter"
            )
        ranges = torch.tensor([self.brightness, self.contrast, self.saturation, self.hue])
        uniform = rng.uniform(8)
        factors = ranges[:, 0] + (ranges[:, 1] - ranges[:, 0]) * uniform[:, :4]
        adjusts_hue = images.shape[1] == 3 and self.hue != (0, 0)
        images = images.clone()
        for operation in uniform[:, 4:].argsort(dim=1, stable=True).unbind(1):
            factor = factors.gather(1, operation[:, None]).squeeze(1)
            adjust_color_(images, operation, factor)
            if adjusts_hue and len(rows := (operation == _HUE).nonzero().squeeze(1)):
                images[rows] = adjust_hue(images[rows], factor[rows])
        return images

    def transform_masks(self, masks: Tensor, rng: CounterRNG) -> Tensor:
        return masks

    def transform_boxes(self, boxes: Tensor, size: tuple[int, int], rng: CounterRNG) -> Tensor:
        return boxes


def color_jitter(
    brightness: float | _Range = 0.4,
    contrast: float | _Range = 0.4,
    saturation: float | _Range = 0.4,
    hue: float | _Range = 0.1,
) -> ColorJitter:
    """Scale brightness, contrast and saturation and shift the hue, in a new order for each image.

    Args:
        brightness: range of the factor; a number x is the range from max(0, 1 − x) to 1 + x.
        contrast: like ``brightness``.
        saturation: like ``brightness``; ignored for gray images.
        hue: range of the shift in turns of the color circle; a number x is the range from −x to x.

    >>> color_jitter(hue=0.0).brightness
    (0.6, 1.4)
    """
    ranges = [
        _to_range(name, value, center=1.0, low=0.0, high=math.inf)
        for name, value in (("brightness", brightness), ("contrast", contrast), ("saturation", saturation))
    ]
    ranges.append(_to_range("hue", hue, center=0.0, low=-0.5, high=0.5))
    if ranges == [(1.0, 1.0)] * 3 + [(0.0, 0.0)]:
        raise LimbeckError("color_jitter must change something: set brightness, contrast, saturation or hue above 0")
    return ColorJitter(*ranges)


def _to_range(name: str, value: float | _Range, *, center: float, low: float, high: float) -> _Range:
    if isinstance(value, int | float):
        # A negative factor would invert colors; a hue beyond its bounds is an error instead.
        limits = (max(center - value, 0.0) if center else -float(value), center + value)
    else:
        limits = (float(value[0]), float(value[1]))
    if not low <= limits[0] <= limits[1] <= high or limits[1] == math.inf:
        raise LimbeckError(f"color_jitter's {name} must be a range within [{low}, {high}], got {value}")
    return limits
