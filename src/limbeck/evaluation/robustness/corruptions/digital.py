"""What processing does: contrast, elastic deformation, coarse pixels, and JPEG."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.evaluation.robustness.corruptions.sampling import draw_per_image, gaussian_blur, uses_cifar_severity

__all__ = ["contrast", "elastic_transform", "jpeg_compression", "pixelate"]

Generators = Sequence[np.random.Generator]


def contrast(images: Tensor, severity: int, rngs: Generators) -> Tensor:
    """Each channel nearer to its mean."""
    small, large = (0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05)
    factor = (small if uses_cifar_severity(images) else large)[severity - 1]
    mean = images.mean((2, 3), keepdim=True)
    return mean + factor * (images - mean)


def elastic_transform(images: Tensor, severity: int, rngs: Generators) -> Tensor:
    """A random affine map, then a smooth random displacement of every pixel; all lengths are shares of the side."""
    small = ((0.0, 0.0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03))
    large = ((2.0, 0.7, 0.1), (2.0, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02))
    side = min(images.shape[-2:])
    strength, sigma, max_offset = (
        fraction * side for fraction in (small if uses_cifar_severity(images) else large)[severity - 1]
    )
    result = _grid_sample(images, _random_affine_grid(images, max_offset, rngs))
    if strength == 0:
        return result
    size = (2, *images.shape[-2:])
    displacement = gaussian_blur(
        draw_per_image(rngs, lambda rng: rng.uniform(-1, 1, size)), sigma, mode="reflect", truncate=3.0
    )
    return _grid_sample(result, _pixel_grid(images) + strength * displacement.permute(0, 2, 3, 1))


def pixelate(images: Tensor, severity: int, rngs: Generators) -> Tensor:
    """Made smaller and larger again, by areas."""
    from PIL import Image

    small, large = (0.95, 0.9, 0.85, 0.75, 0.65), (0.6, 0.5, 0.4, 0.3, 0.25)
    scale = (small if uses_cifar_severity(images) else large)[severity - 1]
    height, width = images.shape[-2:]
    low_resolution = max(1, int(width * scale)), max(1, int(height * scale))
    box = Image.Resampling.BOX
    return _apply_per_image(images, lambda image: image.resize(low_resolution, box).resize((width, height), box))


def jpeg_compression(images: Tensor, severity: int, rngs: Generators) -> Tensor:
    """Written as JPEG and read again."""
    from PIL import Image

    small, large = (80, 65, 58, 50, 40), (25, 18, 15, 10, 7)
    quality = (small if uses_cifar_severity(images) else large)[severity - 1]

    def compress(image: Any) -> Any:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        return Image.open(file)

    return _apply_per_image(images, compress)


def _apply_per_image(images: Tensor, fn: Callable[[Any], Any]) -> Tensor:
    """``fn`` for each picture as 8-bit PIL image."""
    from PIL import Image

    levels = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    is_grayscale = levels.shape[-1] == 1
    transformed = [np.asarray(fn(Image.fromarray(image[..., 0] if is_grayscale else image))) for image in levels]
    stacked = torch.from_numpy(np.stack(transformed)).float() / 255
    return stacked.unsqueeze(1) if is_grayscale else stacked.permute(0, 3, 1, 2).contiguous()


def _random_affine_grid(images: Tensor, max_offset: float, rngs: Generators) -> Tensor:
    """Where each pixel comes from, ``[n, height, width, (x, y)]``, when three points move by up to ``max_offset``."""
    height, width = images.shape[-2:]
    center, third = np.array([width // 2, height // 2]), min(height, width) // 3
    points = center + third * np.array([[1, 1], [1, -1], [-1, -1]])
    moved_points = points + np.stack([rng.uniform(-max_offset, max_offset, (3, 2)) for rng in rngs])
    ones = np.ones((len(moved_points), 3, 1))
    # From where they are now back to where they were: x' = (x, y, 1) · back.
    inverse = np.linalg.solve(np.concatenate([moved_points, ones], axis=2), np.broadcast_to(points, moved_points.shape))
    grid = torch.cat([_pixel_grid(images), torch.ones(1, height, width, 1)], dim=3)
    return torch.einsum("nhwk,nkc->nhwc", grid.expand(len(moved_points), -1, -1, -1), torch.from_numpy(inverse).float())


def _pixel_grid(images: Tensor) -> Tensor:
    """Every pixel's own place, ``[1, height, width, (x, y)]``."""
    height, width = images.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([x, y], dim=2)[None].float()


def _grid_sample(images: Tensor, coordinates: Tensor) -> Tensor:
    """The pictures at ``coordinates`` in pixels, between pixels linearly, mirrored at the border."""
    height, width = images.shape[-2:]
    scale = torch.tensor([max(width - 1, 1), max(height - 1, 1)])
    return F.grid_sample(
        images, 2 * coordinates / scale - 1, mode="bilinear", padding_mode="reflection", align_corners=True
    )
