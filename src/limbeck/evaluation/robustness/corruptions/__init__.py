"""The 15 common corruptions in 5 severities (Hendrycks & Dietterich, 2019, https://arxiv.org/abs/1903.12261).

Severities are the published ones: of CIFAR-C for images with a shorter side of up to 64 pixels, of ImageNet-C above.
Lengths are in pixels, so blurs weigh more on images below 32×32. Differences from the published sets:

- frost is procedural, since the published photographs cannot be redistributed;
- random draws depend on seed, corruption and image, and are the same for all severities;
- images are rounded to 8 bits and not compressed again as in ImageNet-C.

So compare results of limbeck with each other only.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import product

import numpy as np
import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError, suggest_names
from limbeck.data.counter_rng import derive_seed
from limbeck.data.split import Split
from limbeck.evaluation.checks import correct_on_variants, require_pixels
from limbeck.evaluation.robustness.corruptions.functions import CORRUPTIONS

__all__ = ["CORRUPTIONS", "CORRUPTION_NOTE", "SEVERITIES", "corrupt", "corruption_accuracy"]

SEVERITIES = (1, 2, 3, 4, 5)
CORRUPTION_NOTE = (
    "frost is procedural, not photographed; the other 14 follow the published severities with random draws of limbeck"
)


def corrupt(images: Tensor, name: str, severity: int, *, seed: int = 0, sample_ids: Tensor | None = None) -> Tensor:
    """Applies the corruption ``name`` to ``images``.

    Args:
        images: ``[n, 1 or 3, height, width]`` in 0..1.
        name: one of :data:`CORRUPTIONS`.
        severity: from 1 to 5.
        seed: seed of the random draws.
        sample_ids: ``[n]`` ids that select the random draws, so that an image is corrupted alike in any batch;
            ``None``: the index in the batch.

    Returns:
        The same shape, float32 in 0..1, rounded to 8 bits.

    Raises:
        LimbeckError: an unknown corruption or severity, or no images in 0..1.

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
    corrupted_images = CORRUPTIONS[name](images.detach().cpu().float().contiguous(), severity, rngs)
    return (corrupted_images.clamp(0, 1) * 255).round().div(255).to(images.device)


def corruption_accuracy(
    networks: Mapping[str, nn.Module], split: Split, *, corruptions: Sequence[str] = tuple(CORRUPTIONS),
    severities: Sequence[int] = SEVERITIES, seed: int = 0, batch_size: int = 256,
) -> dict[str, dict[str, Tensor]]:  # fmt: skip
    """Whether each network is correct on each labeled sample of ``split``, under each corruption.

    Args:
        networks: networks that map pixels in 0..1 to logits ``[n, classes]``; all get the same corrupted images.
        split: the samples.
        corruptions: names from :data:`CORRUPTIONS`.
        severities: from 1 to 5.
        seed: seed of the random draws.
        batch_size: samples per batch.

    Returns:
        By network and corruption, ``[severities, labeled]`` booleans.
    """

    def make_variants(pixels: Tensor, sample_ids: Tensor) -> Iterator[Tensor]:
        for name, severity in product(corruptions, severities):
            yield corrupt(pixels, name, severity, seed=seed, sample_ids=sample_ids)

    correct = correct_on_variants(networks, split, make_variants, batch_size=batch_size)
    return {
        name: dict(zip(corruptions, torch.split(masks, len(severities)), strict=True))
        for name, masks in correct.items()
    }
