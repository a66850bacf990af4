"""The 15 common corruptions in 5 severities (Hendrycks & Dietterich, 2019, https://arxiv.org/abs/1903.12261).

Severities are those of CIFAR-C for images with a shorter side of up to 64 pixels, and of ImageNet-C for larger images.
Lengths are in pixels, so blurs affect images below 32×32 more. Differences from the published sets:

- frost is procedural, since the published photographs cannot be redistributed;
- random numbers depend on seed, corruption and image, and are the same for all severities;
- images are rounded to 8 bits, and not saved as JPEG as in ImageNet-C.

Results are therefore comparable between limbeck runs only, not with published numbers.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError, suggest_names
from limbeck.core.task import EvaluableTask
from limbeck.data.counter_rng import derive_seed
from limbeck.data.split import Split
from limbeck.evaluation.checks import require_pixels, statistics_under_perturbations
from limbeck.evaluation.robustness import image_ops as ops

__all__ = ["CORRUPTIONS", "CORRUPTION_NOTE", "SEVERITIES", "corrupt", "corruption_statistics"]

CORRUPTIONS: dict[str, Callable[..., Tensor]] = {}
"""By name, a function of images ``[n, channels, height, width]``, one generator per image, and its parameters."""
SEVERITIES = (1, 2, 3, 4, 5)
CORRUPTION_NOTE = (
    "frost is procedural, not photographed; the other 14 follow the published severities with random draws of limbeck"
)
_PARAMETERS = yaml.safe_load(Path(__file__).with_name("corruption_severities.yaml").read_text(encoding="utf-8"))
_CIFAR_MAX_SIDE = 64
_LUMA_WEIGHTS = (0.299, 0.587, 0.114)
_ICE_COLOR = (0.80, 0.88, 0.92)


def corrupt(images: Tensor, name: str, severity: int, *, seed: int = 0, sample_ids: Tensor | None = None) -> Tensor:
    """Applies the corruption ``name`` to ``images``.

    Args:
        images: ``[n, 1 or 3, height, width]`` in 0..1.
        name: one of :data:`CORRUPTIONS`.
        severity: from 1 to 5.
        seed: seed of the random numbers.
        sample_ids: ``[n]`` ids that seed the random numbers, so that a sample is corrupted equally in any batch;
            ``None``: the index in the batch.

    Returns:
        The same shape, float32 in 0..1, rounded to 8 bits.

    Raises:
        LimbeckError: the corruption or severity is unknown, or the images are not in 0..1.

    >>> round(float(corrupt(torch.full((1, 1, 8, 8), 0.4), "brightness", 5).mean()), 2)
    0.7
    """
    if name not in CORRUPTIONS:
        raise LimbeckError(f"unknown corruption {name!r}; use one of {suggest_names(name, CORRUPTIONS)}")
    if severity not in SEVERITIES:
        raise LimbeckError(f"severity must be from 1 to 5, got {severity}")
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise LimbeckError(f"images must be [n, 1 or 3, height, width], got {list(images.shape)}")
    require_pixels(images)
    ids = range(len(images)) if sample_ids is None else sample_ids.tolist()
    rngs = [np.random.default_rng(derive_seed(seed, zlib.crc32(name.encode()), sample_id)) for sample_id in ids]
    if not rngs:
        return images.float()
    image_set = "cifar" if min(images.shape[-2:]) <= _CIFAR_MAX_SIDE else "imagenet"
    parameters = _PARAMETERS[name][image_set][severity - 1]
    corrupted_images = CORRUPTIONS[name](images.detach().cpu().float().contiguous(), rngs, *parameters)
    return (corrupted_images.clamp(0, 1) * 255).round().div(255).to(images.device)


def corruption_statistics(
    networks: Mapping[str, nn.Module], split: Split, task: EvaluableTask, *,
    corruptions: Sequence[str] = tuple(_PARAMETERS), severities: Sequence[int] = SEVERITIES, seed: int = 0,
    batch_size: int = 256,
) -> dict[str, dict[str, Tensor]]:  # fmt: skip
    """What each labeled sample of ``split`` adds to the primary metric of ``task``, under each corruption.

    Networks take images in 0..1 and include the normalization; all get the same corrupted images. Masks are not
    transformed, although elastic transforms and blurs shift pixels slightly.

    Returns:
        By network and corruption, ``[severities, labeled, k]`` statistics: of a classifier, 1 for a correct prediction.
    """

    def perturb(pixels: Tensor, sample_ids: Tensor) -> Iterator[Tensor]:
        for name, severity in product(corruptions, severities):
            yield corrupt(pixels, name, severity, seed=seed, sample_ids=sample_ids)

    statistics = statistics_under_perturbations(networks, split, task, perturb, batch_size=batch_size)
    return {
        name: dict(zip(corruptions, torch.split(rows, len(severities)), strict=True))
        for name, rows in statistics.items()
    }


def _register(fn: Callable[..., Tensor]) -> Callable[..., Tensor]:
    CORRUPTIONS[fn.__name__] = fn
    return fn


@_register
def gaussian_noise(images: Tensor, rngs: ops.Generators, sigma: float) -> Tensor:
    """Additive Gaussian noise."""
    return images + sigma * ops.draw_per_image(rngs, lambda rng: rng.standard_normal(images.shape[1:]))


@_register
def shot_noise(images: Tensor, rngs: ops.Generators, photons: float) -> Tensor:
    """Poisson noise, with a mean of ``photons`` for a pixel value of 1."""
    noisy = [rng.poisson(image * photons) / photons for rng, image in zip(rngs, images.double().numpy(), strict=True)]
    return torch.from_numpy(np.stack(noisy)).float()


@_register
def impulse_noise(images: Tensor, rngs: ops.Generators, fraction: float) -> Tensor:
    """A fraction of the values is black or white, with equal probability."""
    uniform = ops.draw_per_image(rngs, lambda rng: rng.random(images.shape[1:]))
    return images.masked_fill(uniform < fraction / 2, 0.0).masked_fill(uniform > 1 - fraction / 2, 1.0)


@_register
def defocus_blur(images: Tensor, rngs: ops.Generators, radius: float, alias_blur: float) -> Tensor:
    """Convolution with an anti-aliased disk."""
    return ops.filter2d(images, ops.disk_kernel(radius, alias_blur))


@_register
def glass_blur(images: Tensor, rngs: ops.Generators, sigma: float, max_offset: int, iterations: int) -> Tensor:
    """Local permutation of the pixels, between two slight blurs."""
    result = ops.gaussian_blur(images, sigma)
    height, width = images.shape[-2:]
    # Pixels near the border are not moved, so that no source pixel is outside the image.
    rows, columns = torch.arange(max_offset, height - max_offset + 1), torch.arange(max_offset, width - max_offset + 1)
    batch_index, size = torch.arange(len(images))[:, None, None], (2, len(rows), len(columns))
    for _ in range(iterations):
        offsets = ops.draw_per_image(rngs, lambda rng: rng.integers(-max_offset, max_offset, size)).long()
        shuffled = result[batch_index, :, rows[:, None] + offsets[:, 0], columns + offsets[:, 1]].permute(0, 3, 1, 2)
        result = result.clone()
        result[:, :, max_offset : height - max_offset + 1, max_offset : width - max_offset + 1] = shuffled
    return ops.gaussian_blur(result, sigma)


@_register
def motion_blur(images: Tensor, rngs: ops.Generators, radius: int, sigma: float) -> Tensor:
    """Motion blur in a random direction per image."""
    angle = ops.draw_per_image(rngs, lambda rng: np.asarray(rng.uniform(-45, 45)))
    return ops.directional_blur(images, angle, radius=radius, sigma=sigma)


@_register
def zoom_blur(images: Tensor, rngs: ops.Generators, max_zoom: float, step: float) -> Tensor:
    """Mean of the image and of its center at increasing zoom."""
    factors = 1 + step * np.arange(round((max_zoom - 1) / step) + 1)
    return (images + sum(ops.zoom_center(images, float(factor)) for factor in factors)) / (len(factors) + 1)


@_register
def snow(
    images: Tensor, rngs: ops.Generators, mean: float, std: float, zoom: float, threshold: float, radius: int,
    sigma: float, image_weight: float,
) -> Tensor:  # fmt: skip
    """Adds motion-blurred flakes to a whitened image."""
    size = (1, *images.shape[-2:])
    flakes = ops.zoom_center(ops.draw_per_image(rngs, lambda rng: rng.normal(mean, std, size)), zoom)
    flakes = flakes.masked_fill(flakes < threshold, 0.0).clamp(0, 1)
    angle = ops.draw_per_image(rngs, lambda rng: np.asarray(rng.uniform(-135, -45)))
    flakes = ops.directional_blur(flakes, angle, radius=radius, sigma=sigma)
    white = torch.maximum(images, 1.5 * _to_grayscale(images) + 0.5)
    return image_weight * images + (1 - image_weight) * white + flakes + flakes.rot90(2, (2, 3))


@_register
def frost(images: Tensor, rngs: ops.Generators, image_weight: float, ice_weight: float) -> Tensor:
    """Adds ice, computed from the ridges of random height maps; the published set has photographs."""
    size = images.shape[-2:]
    # A ridge is where a height map crosses 0.5.
    veins = (1 - (2 * ops.plasma_fractal(rngs, *size, decay=1.5) - 1).abs()) ** 3
    ground = ops.plasma_fractal(rngs, *size, decay=2.5)
    tint = torch.tensor(_ICE_COLOR if images.shape[1] == 3 else (sum(_ICE_COLOR) / 3,)).view(1, -1, 1, 1)
    return image_weight * images + ice_weight * (0.6 * veins + 0.4 * ground) * tint


@_register
def fog(images: Tensor, rngs: ops.Generators, density: float, decay: float) -> Tensor:
    """Adds a plasma fractal and rescales to the original maximum."""
    max_value = images.amax((1, 2, 3), keepdim=True)
    foggy = images + density * ops.plasma_fractal(rngs, *images.shape[-2:], decay=decay)
    return foggy * max_value / (max_value + density)


@_register
def brightness(images: Tensor, rngs: ops.Generators, offset: float) -> Tensor:
    """Increases the V of HSV (the largest channel); hue and saturation do not change."""
    value = images.amax(1, keepdim=True)
    brightened = (value + offset).clamp(max=1)
    return torch.where(value > 0, images * brightened / value.clamp(min=1e-12), brightened)


@_register
def contrast(images: Tensor, rngs: ops.Generators, factor: float) -> Tensor:
    """Scales the difference of each channel from its mean."""
    mean = images.mean((2, 3), keepdim=True)
    return mean + factor * (images - mean)


@_register
def elastic_transform(images: Tensor, rngs: ops.Generators, strength: float, sigma: float, max_offset: float) -> Tensor:
    """A random affine map, then a smooth random displacement; all lengths are fractions of the shorter side."""
    side = min(images.shape[-2:])
    result = ops.remap(images, ops.random_affine_grid(images, max_offset * side, rngs))
    if strength == 0:
        return result
    noise = ops.draw_per_image(rngs, lambda rng: rng.uniform(-1, 1, (2, *images.shape[-2:])))
    displacement = ops.gaussian_blur(noise, sigma * side, mode="reflect", truncate=3.0)
    return ops.remap(result, ops.pixel_grid(images) + strength * side * displacement.permute(0, 2, 3, 1))


@_register
def pixelate(images: Tensor, rngs: ops.Generators, scale: float) -> Tensor:
    """Downsamples and upsamples by area."""
    from PIL import Image

    height, width = images.shape[-2:]
    low_resolution, box = (max(1, int(width * scale)), max(1, int(height * scale))), Image.Resampling.BOX
    return _apply_per_image(images, lambda image: image.resize(low_resolution, box).resize((width, height), box))


@_register
def jpeg_compression(images: Tensor, rngs: ops.Generators, quality: int) -> Tensor:
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

    uint8_images = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    is_grayscale = uint8_images.shape[-1] == 1
    transformed = [np.asarray(fn(Image.fromarray(image[..., 0] if is_grayscale else image))) for image in uint8_images]
    stacked = torch.from_numpy(np.stack(transformed)).float() / 255
    return stacked.unsqueeze(1) if is_grayscale else stacked.permute(0, 3, 1, 2).contiguous()
