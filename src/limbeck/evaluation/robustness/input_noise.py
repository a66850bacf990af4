"""Accuracy under additive Gaussian noise, for a sweep of its standard deviation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.data.counter_rng import mix
from limbeck.data.split import Part
from limbeck.evaluation.checks import require_pixels, said

__all__ = ["SIGMAS", "noised", "noisy"]

SIGMAS = (0.02, 0.05, 0.1, 0.2, 0.3)
_PURPOSE = 0x6E6F697365


def noisy(pixels: Tensor, sigma: float, *, seed: int = 0, number: Tensor | None = None) -> Tensor:
    """``pixels`` plus normal noise of ``sigma``, cut off at 0 and 1.

    Args:
        pixels: ``[n, ...]`` in 0..1.
        sigma: standard deviation in units of the pixel, 0..1.
        seed: of the noise, which is the same for every ``sigma`` but for its size.
        number: ``[n]``, by which number each sample draws; ``None``: its place.

    >>> round(float(noisy(torch.full((1, 1, 100, 100), 0.5), 0.1).std()), 2)
    0.1
    """
    if not 0 <= sigma <= 1:
        raise LimbeckError(f"the σ of noise is in pixel units of 0..1, such as 0.1, not {sigma:g}")
    require_pixels(pixels)
    numbers = range(len(pixels)) if number is None else number.tolist()
    drawn = [np.random.default_rng(mix(seed, _PURPOSE, one)).standard_normal(pixels.shape[1:]) for one in numbers]
    return (pixels + sigma * torch.from_numpy(np.stack(drawn)).float().to(pixels.device)).clamp(0, 1)


def noised(
    networks: Mapping[str, nn.Module], part: Part, *, sigmas: Sequence[float] = SIGMAS, seed: int = 0, batch: int = 256
) -> dict[str, Tensor]:  # fmt: skip
    """Which labelled samples of ``part`` each network gets right at each of ``sigmas``.

    Args:
        networks: each takes pixels in 0..1 and gives logits ``[n, classes]``; all see the same noise.
        part: the samples; those without a label are left out.
        sigmas: standard deviations in units of the pixel, 0..1.
        seed: of the noise.
        batch: samples at once.

    Returns:
        By network, ``[sigmas, labelled]`` booleans.

    >>> from limbeck.data.split import Stored
    >>> part = Part.whole(Stored(torch.tensor([[0.9, 0.1], [0.51, 0.49]])), torch.tensor([0, 0]))
    >>> noised({"itself": nn.Identity()}, part, sigmas=(0.0, 0.05))["itself"].tolist()
    [[True, True], [True, False]]
    """
    part = part.labelled()
    if not len(part):
        raise LimbeckError("there is nothing to measure noise on: no sample has a label")
    found = {name: torch.zeros(len(sigmas), len(part), dtype=torch.bool) for name in networks}
    for which in torch.split(torch.arange(len(part)), batch):
        pixels, target, number = part.read(which), part.target[which], part.number[which]
        for row, sigma in enumerate(sigmas):
            changed = noisy(pixels, sigma, seed=seed, number=number)
            for name, network in networks.items():
                found[name][row, which] = said(network, changed).argmax(dim=1) == target
    return found
