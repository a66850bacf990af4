"""Color jitter, as ``torchvision.transforms.v2.ColorJitter`` does it, for a whole batch at once.

Howard (2013, https://arxiv.org/abs/1312.5402) varied brightness, contrast and color in random order; hue is shifted in
HSV (Smith, SIGGRAPH 1978, https://doi.org/10.1145/800248.807361).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.data.counter_rng import CounterRNG

__all__ = ["ColorJitter", "adjust_color", "adjust_hue", "color_jitter"]

_Range = tuple[float, float]
_BRIGHTNESS, _CONTRAST, _SATURATION, _HUE = range(4)


def adjust_color(images: Tensor, operation: Tensor, factor: Tensor) -> Tensor:
    """Brightness (0), contrast (1) or saturation (2) of each image, times its factor; 3 changes nothing.

    Shapes: ``images`` ``[batch, 3 or 1, height, width]``, ``operation`` and ``factor`` ``[batch]``. Each is a blend:
        with
    black, with the mean gray, with the image's own gray, and a gray image's saturation stays as it is.

    >>> adjust_color(torch.full((1, 1, 1, 2), 0.5), torch.tensor([0]), torch.tensor([1.5])).flatten()
    tensor([0.7500, 0.7500])
    """
    return _adjust_color_inplace(images.clone(), operation, factor)


def adjust_hue(images: Tensor, hue_factor: Tensor) -> Tensor:
    """The hue of each image ``[batch, 3, height, width]`` turned by a share of the circle ``[batch]``.

    >>> red = torch.tensor([1.0, 0.0, 0.0]).reshape(1, 3, 1, 1)
    >>> adjust_hue(red, torch.tensor([1 / 3])).flatten().round(decimals=3)
    tensor([0., 1., 0.])
    """
    red, green, blue = images.unbind(1)
    # Channel by channel and in place: several times as fast as amin, remainder and division over the whole.
    high = torch.maximum(torch.maximum(red, green), blue)
    chroma = torch.minimum(torch.minimum(red, green), blue).neg_().add_(high)
    scale = chroma.clamp(min=1e-30).reciprocal_()
    hue = torch.where(high == green, (blue - red).mul_(scale).add_(2), (red - green).mul_(scale).add_(4))
    hue = torch.where(high == red, (green - blue).mul_(scale), hue).add_(6 * hue_factor.reshape(-1, 1, 1))
    output = torch.empty_like(images)
    for channel, offset in enumerate((5, 3, 1)):
        # A channel is highest within a sixth of the circle about itself, and lowest in the third that lies opposite.
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
                f"color_jitter takes images of 1 or 3 channels, and these inputs are {list(images.shape[1:])}: "
                "leave it out"
            )
        ranges = torch.tensor([self.brightness, self.contrast, self.saturation, self.hue])
        uniform = rng.uniform(8)
        factors = ranges[:, 0] + (ranges[:, 1] - ranges[:, 0]) * uniform[:, :4]
        adjusts_hue = images.shape[1] == 3 and self.hue != (0, 0)
        images = images.clone()
        for operation in uniform[:, 4:].argsort(dim=1, stable=True).unbind(1):
            factor = factors.gather(1, operation[:, None]).squeeze(1)
            _adjust_color_inplace(images, operation, factor)
            if adjusts_hue and len(rows := (operation == _HUE).nonzero().squeeze(1)):
                images[rows] = adjust_hue(images[rows], factor[rows])
        return images


def color_jitter(
    brightness: float | tuple[float, float] = 0.4,
    contrast: float | tuple[float, float] = 0.4,
    saturation: float | tuple[float, float] = 0.4,
    hue: float | tuple[float, float] = 0.1,
) -> ColorJitter:
    """Brightness, contrast and saturation times a factor and hue turned, in a new order for each image.

    A number ``x`` draws the factor from max(0, 1 − x) to 1 + x, and the turn from −x to x, in turns of the color
    circle; a pair gives the ends. Grey images have no saturation and no hue, and keep what they have.

    >>> color_jitter(hue=0.0).brightness
    (0.6, 1.4)
    """
    ranges = [
        _to_range(name, value, center=1.0, low=0.0, high=float("inf"))
        for name, value in (("brightness", brightness), ("contrast", contrast), ("saturation", saturation))
    ]
    ranges.append(_to_range("hue", hue, center=0.0, low=-0.5, high=0.5))
    if ranges == [(1.0, 1.0)] * 3 + [(0.0, 0.0)]:
        raise LimbeckError("color_jitter has nothing to change: give brightness, contrast, saturation or hue above 0")
    return ColorJitter(*ranges)


def _adjust_color_inplace(images: Tensor, operation: Tensor, factor: Tensor) -> Tensor:
    """:func:`adjust_color` in place: a new batch for each change would cost more than the change, in fresh memory."""
    is_color = images.shape[1] == 3
    factor = torch.where(operation < (_HUE if is_color else _SATURATION), factor, 1.0)
    if is_color:
        red, green, blue = images.unbind(1)
        gray = red.mul(0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114).unsqueeze(1)
    else:
        gray = images.clone()
    complement = 1 - factor
    saturation_weight, contrast_weight = (
        torch.where(operation == _SATURATION, complement, 0.0),
        torch.where(operation == _CONTRAST, complement, 0.0),
    )
    contrast_weight = contrast_weight * gray.flatten(1).mean(1)
    gray.mul_(saturation_weight.reshape(-1, 1, 1, 1)).add_(contrast_weight.reshape(-1, 1, 1, 1))
    return images.mul_(factor.reshape(-1, 1, 1, 1)).add_(gray).clamp_(0, 1)


def _to_range(name: str, value: float | tuple[float, float], *, center: float, low: float, high: float) -> _Range:
    if isinstance(value, int | float):
        # Below zero a factor would turn colors round; a hue beyond its bounds is refused instead.
        limits = (max(center - value, 0.0), center + value) if center else (-float(value), float(value))
        if value < 0:
            raise LimbeckError(f"color_jitter's {name} is 0 or more, not {value}")
    else:
        limits = (float(value[0]), float(value[1]))
    if not low <= limits[0] <= limits[1] <= high or limits[1] == float("inf"):
        bounds = "from 0 up" if high > 1 else f"from {low} to {high}"
        raise LimbeckError(f"color_jitter's {name} goes from a number to one at least as large, {bounds}, not {value}")
    return limits
