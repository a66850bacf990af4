"""Accuracy under additive Gaussian noise, for a sweep of its standard deviation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.data.counter_rng import derive_seed
from limbeck.data.split import Split
from limbeck.evaluation.checks import predict_logits, require_pixels

__all__ = ["NOISE_SIGMAS", "add_gaussian_noise", "noise_accuracy"]

NOISE_SIGMAS = (0.02, 0.05, 0.1, 0.2, 0.3)
_NOISE_STREAM = 0x6E6F697365


def add_gaussian_noise(pixels: Tensor, sigma: float, *, seed: int = 0, sample_ids: Tensor | None = None) -> Tensor:
    """``pixels`` plus normal noise of ``sigma``, cut off at 0 and 1.

    Args:
        pixels: ``[n, ...]`` in 0..1.
        sigma: standard deviation in units of the pixel, 0..1.
        seed: of the noise, which is the same for every ``sigma`` but for its size.
        sample_ids: ``[n]``, by which number each sample draws; ``None``: its place.

    >>> round(float(add_gaussian_noise(torch.full((1, 1, 100, 100), 0.5), 0.1).std()), 2)
    0.1
    """
    if not 0 <= sigma <= 1:
        raise LimbeckError(f"the σ of noise is in pixel units of 0..1, such as 0.1, not {sigma:g}")
    require_pixels(pixels)
    ids = range(len(pixels)) if sample_ids is None else sample_ids.tolist()
    noise = [
        np.random.default_rng(derive_seed(seed, _NOISE_STREAM, sample_id)).standard_normal(pixels.shape[1:])
        for sample_id in ids
    ]
    return (pixels + sigma * torch.from_numpy(np.stack(noise)).float().to(pixels.device)).clamp(0, 1)


def noise_accuracy(
    networks: Mapping[str, nn.Module], split: Split, *, sigmas: Sequence[float] = NOISE_SIGMAS, seed: int = 0, batch_size: int = 256
) -> dict[str, Tensor]:  # fmt: skip
    """Which labelled samples of ``split`` each network gets right at each of ``sigmas``.

    Args:
        networks: each takes pixels in 0..1 and gives logits ``[n, classes]``; all see the same noise.
        split: the samples; those without a label are left out.
        sigmas: standard deviations in units of the pixel, 0..1.
        seed: of the noise.
        batch_size: samples at once.

    Returns:
        By network, ``[sigmas, labelled]`` booleans.

    >>> from limbeck.data.split import InMemory
    >>> part = Split.from_images(InMemory(torch.tensor([[0.9, 0.1], [0.51, 0.49]])), torch.tensor([0, 0]))
    >>> noise_accuracy({"itself": nn.Identity()}, part, sigmas=(0.0, 0.05))["itself"].tolist()
    [[True, True], [True, False]]
    """
    split = split.select_labeled()
    if not len(split):
        raise LimbeckError("there is nothing to measure noise on: no sample has a label")
    correct = {name: torch.zeros(len(sigmas), len(split), dtype=torch.bool) for name in networks}
    for indices in torch.split(torch.arange(len(split)), batch_size):
        pixels, target, sample_ids = split.read(indices), split.target[indices], split.sample_ids[indices]
        for row, sigma in enumerate(sigmas):
            noisy_pixels = add_gaussian_noise(pixels, sigma, seed=seed, sample_ids=sample_ids)
            for name, network in networks.items():
                correct[name][row, indices] = predict_logits(network, noisy_pixels).argmax(dim=1) == target
    return correct
