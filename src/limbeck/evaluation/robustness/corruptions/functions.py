"""The 15 corruptions: noise, blur, weather and digital artifacts.

Each takes images ``[n, channels, height, width]``, one generator per image, and the parameters of a severity. Those of
``cifar`` are the published ones of CIFAR-C, those of ``imagenet`` of ImageNet-C, in the order of the severities.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from limbeck.evaluation.robustness.corruptions import image_ops as ops
from limbeck.evaluation.robustness.corruptions.image_ops import Generators

__all__ = ["CIFAR_MAX_SIDE", "CORRUPTIONS"]

CIFAR_MAX_SIDE = 64
"""Images with a shorter side of at most this many pixels have the parameters of CIFAR-C, larger ones of ImageNet-C."""
CORRUPTIONS: dict[str, Callable[[Tensor, int, Generators], Tensor]] = {}
"""By name, functions of images, severity and generators, whose result is not clamped."""

_LUMA_WEIGHTS = (0.299, 0.587, 0.114)
_ICE_COLOR = (0.80, 0.88, 0.92)
_Parameters = tuple[Any, ...]


def _register(*, cifar: _Parameters, imagenet: _Parameters) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Adds a function to :data:`CORRUPTIONS` with its parameters for severities 1 to 5."""

    def register(fn: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def apply(images: Tensor, severity: int, rngs: Generators) -> Tensor:
            parameters = (cifar if min(images.shape[-2:]) <= CIFAR_MAX_SIDE else imagenet)[severity - 1]
            return fn(images, rngs, *(parameters if isinstance(parameters, tuple) else (parameters,)))

        CORRUPTIONS[fn.__name__] = apply
        return fn

    return register


@_register(cifar=(0.04, 0.06, 0.08, 0.09, 0.10), imagenet=(0.08, 0.12, 0.18, 0.26, 0.38))
def gaussian_noise(images: Tensor, rngs: Generators, sigma: float) -> Tensor:
    """Additive Gaussian noise."""
    return images + sigma * ops.draw_per_image(rngs, lambda rng: rng.standard_normal(images.shape[1:]))


@_register(cifar=(500, 250, 100, 75, 50), imagenet=(60, 25, 12, 5, 3))
def shot_noise(images: Tensor, rngs: Generators, photons: float) -> Tensor:
    """Poisson noise, with ``photons`` on average at the value 1."""
    exposed = [rng.poisson(image * photons) / photons for rng, image in zip(rngs, images.double().numpy(), strict=True)]
    return torch.from_numpy(np.stack(exposed)).float()


@_register(cifar=(0.01, 0.02, 0.03, 0.05, 0.07), imagenet=(0.03, 0.06, 0.09, 0.17, 0.27))
def impulse_noise(images: Tensor, rngs: Generators, fraction: float) -> Tensor:
    """A fraction of the values is black or white, with equal probability."""
    uniform = ops.draw_per_image(rngs, lambda rng: rng.random(images.shape[1:]))
    return images.masked_fill(uniform < fraction / 2, 0.0).masked_fill(uniform > 1 - fraction / 2, 1.0)


@_register(
    cifar=((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
    imagenet=((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
)
def defocus_blur(images: Tensor, rngs: Generators, radius: float, rim: float) -> Tensor:
    """Convolution with a disk with a soft rim."""
    return ops.filter_images(images, ops.disk_kernel(radius, rim))


@_register(
    cifar=((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
    imagenet=((0.7, 1, 2), (0.9, 2, 1), (1.0, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
)
def glass_blur(images: Tensor, rngs: Generators, sigma: float, max_offset: int, iterations: int) -> Tensor:
    """Local permutation of the pixels, between two slight blurs."""
    result = ops.gaussian_blur(images, sigma)
    height, width = images.shape[-2:]
    # Pixels near the border stay, so that no source is outside.
    rows, columns = torch.arange(max_offset, height - max_offset + 1), torch.arange(max_offset, width - max_offset + 1)
    batch_index, size = torch.arange(len(images))[:, None, None], (2, len(rows), len(columns))
    for _ in range(iterations):
        offsets = ops.draw_per_image(rngs, lambda rng: rng.integers(-max_offset, max_offset, size)).long()
        shuffled = result[batch_index, :, rows[:, None] + offsets[:, 0], columns + offsets[:, 1]].permute(0, 3, 1, 2)
        result = result.clone()
        result[:, :, max_offset : height - max_offset + 1, max_offset : width - max_offset + 1] = shuffled
    return ops.gaussian_blur(result, sigma)


@_register(
    cifar=((6, 1.0), (6, 1.5), (6, 2.0), (8, 2.0), (9, 2.5)),
    imagenet=((10, 3.0), (15, 5.0), (15, 8.0), (15, 12.0), (20, 15.0)),
)
def motion_blur(images: Tensor, rngs: Generators, radius: int, sigma: float) -> Tensor:
    """Blur along a random direction per image."""
    angle = ops.draw_per_image(rngs, lambda rng: np.asarray(rng.uniform(-45, 45)))
    return ops.directional_blur(images, angle, radius=radius, sigma=sigma)


@_register(
    cifar=((1.05, 0.01), (1.10, 0.01), (1.15, 0.01), (1.20, 0.01), (1.25, 0.01)),
    imagenet=((1.10, 0.01), (1.15, 0.01), (1.20, 0.02), (1.24, 0.02), (1.30, 0.03)),
)
def zoom_blur(images: Tensor, rngs: Generators, max_zoom: float, step: float) -> Tensor:
    """Mean of the image and of its center at increasing zoom."""
    factors = 1 + step * np.arange(round((max_zoom - 1) / step) + 1)
    return (images + sum(ops.zoom_center(images, float(factor)) for factor in factors)) / (len(factors) + 1)


@_register(
    cifar=(
        (0.10, 0.2, 1.00, 0.60, 8, 3, 0.95), (0.10, 0.2, 1.00, 0.50, 10, 4, 0.90), (0.15, 0.3, 1.75, 0.55, 10, 4, 0.90),
        (0.25, 0.3, 2.25, 0.60, 12, 6, 0.85), (0.30, 0.3, 1.25, 0.65, 14, 12, 0.80),
    ),
    imagenet=(
        (0.10, 0.3, 3.0, 0.50, 10, 4, 0.80), (0.20, 0.3, 2.0, 0.50, 12, 4, 0.70), (0.55, 0.3, 4.0, 0.90, 12, 8, 0.70),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65), (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    ),
)  # fmt: skip
def snow(
    images: Tensor, rngs: Generators, mean: float, std: float, zoom: float, threshold: float, radius: int, sigma: float,
    image_weight: float,
) -> Tensor:  # fmt: skip
    """Streaks of flakes over a whitened image."""
    size = (1, *images.shape[-2:])
    flakes = ops.zoom_center(ops.draw_per_image(rngs, lambda rng: rng.normal(mean, std, size)), zoom)
    flakes = flakes.masked_fill(flakes < threshold, 0.0).clamp(0, 1)
    angle = ops.draw_per_image(rngs, lambda rng: np.asarray(rng.uniform(-135, -45)))
    flakes = ops.directional_blur(flakes, angle, radius=radius, sigma=sigma)
    white = torch.maximum(images, 1.5 * _to_grayscale(images) + 0.5)
    return image_weight * images + (1 - image_weight) * white + flakes + flakes.rot90(2, (2, 3))


@_register(
    cifar=((1.0, 0.2), (1.0, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
    imagenet=((1.0, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
)
def frost(images: Tensor, rngs: Generators, image_weight: float, ice_weight: float) -> Tensor:
    """Ice over the image: ridges of random landscapes, where the published set has photographs."""
    size = images.shape[-2:]
    # A ridge is where a landscape crosses half its height.
    veins = (1 - (2 * ops.plasma_fractal(rngs, *size, decay=1.5) - 1).abs()) ** 3
    ground = ops.plasma_fractal(rngs, *size, decay=2.5)
    tint = torch.tensor(_ICE_COLOR if images.shape[1] == 3 else (sum(_ICE_COLOR) / 3,)).view(1, -1, 1, 1)
    return image_weight * images + ice_weight * (0.6 * veins + 0.4 * ground) * tint


@_register(
    cifar=((0.2, 3.0), (0.5, 3.0), (0.75, 2.5), (1.0, 2.0), (1.5, 1.75)),
    imagenet=((1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4)),
)
def fog(images: Tensor, rngs: Generators, density: float, decay: float) -> Tensor:
    """A bright random landscape over the image, rescaled to the original maximum."""
    max_value = images.amax((1, 2, 3), keepdim=True)
    foggy = images + density * ops.plasma_fractal(rngs, *images.shape[-2:], decay=decay)
    return foggy * max_value / (max_value + density)


@_register(cifar=(0.05, 0.10, 0.15, 0.20, 0.30), imagenet=(0.1, 0.2, 0.3, 0.4, 0.5))
def brightness(images: Tensor, rngs: Generators, offset: float) -> Tensor:
    """Increases the value of HSV (the largest channel) and keeps hue and saturation."""
    value = images.amax(1, keepdim=True)
    brightened = (value + offset).clamp(max=1)
    return torch.where(value > 0, images * brightened / value.clamp(min=1e-12), brightened)


@_register(cifar=(0.75, 0.5, 0.4, 0.3, 0.15), imagenet=(0.4, 0.3, 0.2, 0.1, 0.05))
def contrast(images: Tensor, rngs: Generators, factor: float) -> Tensor:
    """Scales the difference of each channel from its mean."""
    mean = images.mean((2, 3), keepdim=True)
    return mean + factor * (images - mean)


@_register(
    cifar=((0.0, 0.0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
    imagenet=((2.0, 0.7, 0.1), (2.0, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02)),
)
def elastic_transform(images: Tensor, rngs: Generators, strength: float, sigma: float, max_offset: float) -> Tensor:
    """A random affine map, then a smooth random displacement; all lengths are fractions of the shorter side."""
    side = min(images.shape[-2:])
    result = ops.grid_sample(images, ops.random_affine_grid(images, max_offset * side, rngs))
    if strength == 0:
        return result
    noise = ops.draw_per_image(rngs, lambda rng: rng.uniform(-1, 1, (2, *images.shape[-2:])))
    displacement = ops.gaussian_blur(noise, sigma * side, mode="reflect", truncate=3.0)
    return ops.grid_sample(result, ops.pixel_grid(images) + strength * side * displacement.permute(0, 2, 3, 1))


@_register(cifar=(0.95, 0.9, 0.85, 0.75, 0.65), imagenet=(0.6, 0.5, 0.4, 0.3, 0.25))
def pixelate(images: Tensor, rngs: Generators, scale: float) -> Tensor:
    """Downsamples and upsamples by area."""
    from PIL import Image

    height, width = images.shape[-2:]
    low_resolution, box = (max(1, int(width * scale)), max(1, int(height * scale))), Image.Resampling.BOX
    return _apply_per_image(images, lambda image: image.resize(low_resolution, box).resize((width, height), box))


@_register(cifar=(80, 65, 58, 50, 40), imagenet=(25, 18, 15, 10, 7))
def jpeg_compression(images: Tensor, rngs: Generators, quality: int) -> Tensor:
    """JPEG compression."""
    from PIL import Image

    def compress(image: Any) -> Any:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        return Image.open(file)

    return _apply_per_image(images, compress)


def _to_grayscale(images: Tensor) -> Tensor:
    if images.shape[1] == 1:
        return images
    return (images * torch.tensor(_LUMA_WEIGHTS).view(1, 3, 1, 1)).sum(1, keepdim=True)


def _apply_per_image(images: Tensor, fn: Callable[[Any], Any]) -> Tensor:
    """Applies ``fn`` to each image as an 8-bit PIL image."""
    from PIL import Image

    levels = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    is_grayscale = levels.shape[-1] == 1
    transformed = [np.asarray(fn(Image.fromarray(image[..., 0] if is_grayscale else image))) for image in levels]
    stacked = torch.from_numpy(np.stack(transformed)).float() / 255
    return stacked.unsqueeze(1) if is_grayscale else stacked.permute(0, 3, 1, 2).contiguous()
