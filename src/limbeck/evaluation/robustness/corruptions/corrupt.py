"""The 15 common corruptions in 5 severities (Hendrycks & Dietterich, 2019, https://arxiv.org/abs/1903.12261).

The severities are the published ones: those of CIFAR-C for pictures whose shorter side has up to 64 pixels, those of
ImageNet-C above. Lengths are in pixels there, so on pictures under 32 the blurs weigh more than the names say. What
differs from the published sets:

- the frost is grown by a random landscape, since the photographs of frost that they use cannot come along;
- draws are a function of seed, corruption and picture, and the same for all severities;
- pictures come out rounded to 8 bits, and are not compressed once more as those of ImageNet-C.

So figures compare networks that were measured by limbeck, and are near to those of the published sets, not equal.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError, suggest_names
from limbeck.data.counter_rng import derive_seed
from limbeck.data.split import Split
from limbeck.evaluation.checks import predict_logits, require_pixels
from limbeck.evaluation.robustness.corruptions import blur, digital, noise, weather

__all__ = ["CORRUPTIONS", "CORRUPTION_NOTE", "SEVERITIES", "corrupt", "corruption_accuracy"]

CORRUPTIONS: Mapping[str, Callable[[Tensor, int, Sequence[np.random.Generator]], Tensor]] = MappingProxyType(
    {
        change.__name__: change
        for change in (
            *(noise.gaussian_noise, noise.shot_noise, noise.impulse_noise),
            *(blur.defocus_blur, blur.glass_blur, blur.motion_blur, blur.zoom_blur),
            *(weather.snow, weather.frost, weather.fog, weather.brightness),
            *(digital.contrast, digital.elastic_transform, digital.pixelate, digital.jpeg_compression),
        )
    }
)
SEVERITIES = (1, 2, 3, 4, 5)
CORRUPTION_NOTE = (
    "frost is procedural, not photographed; the other 14 follow the published severities with draws of our own"
)


def corrupt(
    images: Tensor, name: str, severity: int, *, seed: int = 0, sample_ids: Tensor | None = None
) -> Tensor:  # fmt: skip
    """``images`` under the corruption ``name``.

    Args:
        images: ``[n, 1 or 3, height, width]`` in 0..1.
        name: one of :data:`CORRUPTIONS`.
        severity: from 1 to 5.
        seed: of all draws.
        sample_ids: ``[n]``, by which number each picture draws; ``None``: its place. A picture with one number and seed
            comes out the same in any batch.

    Returns:
        The same shape, float32 in 0..1, rounded to 8 bits.

    Raises:
        LimbeckError: an unknown corruption or severity, or what is no picture in 0..1.

    >>> grey = torch.full((1, 1, 8, 8), 0.4)
    >>> round(float(corrupt(grey, "brightness", 5).mean()), 2)
    0.7
    """
    if name not in CORRUPTIONS:
        raise LimbeckError(f"no corruption is named {name!r}; there are: {suggest_names(name, CORRUPTIONS)}")
    if severity not in SEVERITIES:
        raise LimbeckError(f"a severity is from 1 to 5, not {severity}")
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise LimbeckError(f"corruptions take pictures [n, 1 or 3, height, width], not {list(images.shape)}")
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
    """Which labelled samples of ``split`` each network gets right under each corruption.

    Every network sees the same corrupted pictures, which are made once for all.

    Args:
        networks: each takes pixels in 0..1 and gives logits ``[n, classes]``.
        split: the samples; those without a label are left out.
        corruptions: out of :data:`CORRUPTIONS`.
        severities: from 1 to 5.
        seed: of all draws.
        batch_size: samples at once.

    Returns:
        By network and corruption, ``[severities, labelled]`` booleans.
    """
    split = split.select_labeled()
    if not len(split):
        raise LimbeckError("there is nothing to corrupt: no sample has a label")
    correct = {
        network_name: {name: torch.zeros(len(severities), len(split), dtype=torch.bool) for name in corruptions}
        for network_name in networks
    }
    for indices in torch.split(torch.arange(len(split)), batch_size):
        pixels, target, sample_ids = split.read(indices), split.target[indices], split.sample_ids[indices]
        for name in corruptions:
            for row, severity in enumerate(severities):
                corrupted_images = corrupt(pixels, name, severity, seed=seed, sample_ids=sample_ids)
                for network_name, network in networks.items():
                    correct[network_name][name][row, indices] = (
                        predict_logits(network, corrupted_images).argmax(dim=1) == target
                    )
    return correct
