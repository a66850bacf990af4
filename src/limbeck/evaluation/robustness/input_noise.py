"""Accuracy under additive Gaussian noise, for a sweep of its standard deviation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.data.counter_rng import derive_seed
from limbeck.data.split import Split
from limbeck.evaluation.checks import predict_logits, require_labeled, require_pixels

__all__ = ["NOISE_SIGMAS", "add_gaussian_noise", "noise_accuracy"]

NOISE_SIGMAS = (0.02, 0.05, 0.1, 0.2, 0.3)
_NOISE_STREAM = 0x6E6F697365


def add_gaussian_noise(pixels: Tensor, sigma: float, *, seed: int = 0, sample_ids: Tensor | None = None) -> Tensor:
    """Adds Gaussian noise to ``pixels`` and clamps to 0..1.

    Args:
        pixels: ``[n, ...]`` in 0..1.
        sigma: standard deviation in pixel units.
        seed: seed of the noise, which is the same for every ``sigma`` up to its scale.
        sample_ids: ``[n]`` ids that select the noise of each sample; ``None``: the index in the batch.

    >>> round(float(add_gaussian_noise(torch.full((1, 1, 100, 100), 0.5), 0.1).std()), 2)
    0.1
    """
    if not 0 <= sigma <= 1:
        raise LimbeckError(f"sigma must be in pixel units of 0..1, such as 0.1, got {sigma:g}")
    require_pixels(pixels)
    ids = range(len(pixels)) if sample_ids is None else sample_ids.tolist()
    noise = [
        np.random.default_rng(derive_seed(seed, _NOISE_STREAM, sample_id)).standard_normal(pixels.shape[1:])
        for sample_id in ids
    ]
    return (pixels + sigma * torch.from_numpy(np.stack(noise)).float().to(pixels.device)).clamp(0, 1)


def noise_accuracy(
    networks: Mapping[str, nn.Module], split: Split, *, sigmas: Sequence[float] = NOISE_SIGMAS, seed: int = 0,
    batch_size: int = 256,
) -> dict[str, Tensor]:  # fmt: skip
    """Whether each network is correct on each labeled sample of ``split``, at each of ``sigmas``.

    Args:
        networks: networks that map pixels in 0..1 to logits ``[n, classes]``; all get the same noise.
        split: the samples.
        sigmas: standard deviations in pixel units.
        seed: seed of the noise.
        batch_size: samples per batch.

    Returns:
        By network, ``[sigmas, labeled]`` booleans.

    >>> from limbeck.data.split import InMemory
    >>> split = Split.from_images(InMemory(torch.tensor([[0.9, 0.1], [0.51, 0.49]])), torch.tensor([0, 0]))
    >>> noise_accuracy({"identity": nn.Identity()}, split, sigmas=(0.0, 0.05))["identity"].tolist()
    [[True, True], [True, False]]
    """
    split = require_labeled(split)
    correct = {name: torch.zeros(len(sigmas), len(split), dtype=torch.bool) for name in networks}
    for indices in torch.split(torch.arange(len(split)), batch_size):
        pixels, target, sample_ids = split.read(indices), split.target[indices], split.sample_ids[indices]
        for row, sigma in enumerate(sigmas):
            noisy_pixels = add_gaussian_noise(pixels, sigma, seed=seed, sample_ids=sample_ids)
            for name, network in networks.items():
                correct[name][row, indices] = predict_logits(network, noisy_pixels).argmax(dim=1) == target
    return correct
