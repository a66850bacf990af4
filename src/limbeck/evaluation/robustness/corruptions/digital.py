"""What processing does: contrast, elastic deformation, coarse pixels, and JPEG."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.evaluation.robustness.corruptions.sampling import drawn, is_small, smoothed

__all__ = ["contrast", "elastic_transform", "jpeg_compression", "pixelate"]

Draws = Sequence[np.random.Generator]


def contrast(pictures: Tensor, severity: int, draws: Draws) -> Tensor:
    """Each channel nearer to its mean."""
    small, large = (0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05)
    kept = (small if is_small(pictures) else large)[severity - 1]
    mean = pictures.mean((2, 3), keepdim=True)
    return mean + kept * (pictures - mean)


def elastic_transform(pictures: Tensor, severity: int, draws: Draws) -> Tensor:
    """A random affine map, then a smooth random displacement of every pixel; all lengths are shares of the side."""
    small = ((0.0, 0.0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03))
    large = ((2.0, 0.7, 0.1), (2.0, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02))
    side = min(pictures.shape[-2:])
    strength, sigma, reach = (share * side for share in (small if is_small(pictures) else large)[severity - 1])
    result = _sampled(pictures, _affine(pictures, reach, draws))
    if strength == 0:
        return result
    size = (2, *pictures.shape[-2:])
    shift = smoothed(drawn(draws, lambda one: one.uniform(-1, 1, size)), sigma, mode="reflect", truncate=3.0)
    return _sampled(result, _grid(pictures) + strength * shift.permute(0, 2, 3, 1))


def pixelate(pictures: Tensor, severity: int, draws: Draws) -> Tensor:
    """Made smaller and larger again, by areas."""
    from PIL import Image

    small, large = (0.95, 0.9, 0.85, 0.75, 0.65), (0.6, 0.5, 0.4, 0.3, 0.25)
    share = (small if is_small(pictures) else large)[severity - 1]
    height, width = pictures.shape[-2:]
    coarse = max(1, int(width * share)), max(1, int(height * share))
    box = Image.Resampling.BOX
    return _by_picture(pictures, lambda image: image.resize(coarse, box).resize((width, height), box))


def jpeg_compression(pictures: Tensor, severity: int, draws: Draws) -> Tensor:
    """Written as JPEG and read again."""
    from PIL import Image

    small, large = (80, 65, 58, 50, 40), (25, 18, 15, 10, 7)
    quality = (small if is_small(pictures) else large)[severity - 1]

    def through(image: Any) -> Any:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        return Image.open(file)

    return _by_picture(pictures, through)


def _by_picture(pictures: Tensor, change: Callable[[Any], Any]) -> Tensor:
    """``change`` for each picture as 8-bit PIL image."""
    from PIL import Image

    levels = (pictures * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    grey = levels.shape[-1] == 1
    changed = [np.asarray(change(Image.fromarray(one[..., 0] if grey else one))) for one in levels]
    stacked = torch.from_numpy(np.stack(changed)).float() / 255
    return stacked.unsqueeze(1) if grey else stacked.permute(0, 3, 1, 2).contiguous()


def _affine(pictures: Tensor, reach: float, draws: Draws) -> Tensor:
    """Where each pixel comes from, ``[n, height, width, (x, y)]``, when three points move by up to ``reach``."""
    height, width = pictures.shape[-2:]
    middle, third = np.array([width // 2, height // 2]), min(height, width) // 3
    points = middle + third * np.array([[1, 1], [1, -1], [-1, -1]])
    moved = points + np.stack([one.uniform(-reach, reach, (3, 2)) for one in draws])
    ones = np.ones((len(moved), 3, 1))
    # From where they are now back to where they were: x' = (x, y, 1) · back.
    back = np.linalg.solve(np.concatenate([moved, ones], axis=2), np.broadcast_to(points, moved.shape))
    grid = torch.cat([_grid(pictures), torch.ones(1, height, width, 1)], dim=3)
    return torch.einsum("nhwk,nkc->nhwc", grid.expand(len(moved), -1, -1, -1), torch.from_numpy(back).float())


def _grid(pictures: Tensor) -> Tensor:
    """Every pixel's own place, ``[1, height, width, (x, y)]``."""
    height, width = pictures.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([x, y], dim=2)[None].float()


def _sampled(pictures: Tensor, places: Tensor) -> Tensor:
    """The pictures at ``places`` in pixels, between pixels linearly, mirrored at the border."""
    height, width = pictures.shape[-2:]
    scale = torch.tensor([max(width - 1, 1), max(height - 1, 1)])
    return F.grid_sample(
        pictures, 2 * places / scale - 1, mode="bilinear", padding_mode="reflection", align_corners=True
    )
