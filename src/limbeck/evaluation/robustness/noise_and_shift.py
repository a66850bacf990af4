"""Metrics under additive Gaussian noise, and accuracy under a distribution shift, such as from PNG to JPEG."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.core.task import EvaluableTask
from limbeck.data.counter_rng import derive_seed
from limbeck.data.split import Split
from limbeck.evaluation.checks import (
    predict_split,
    require_class_targets,
    require_labeled,
    require_pixels,
    statistics_under_perturbations,
)
from limbeck.evaluation.statistics import paired_bootstrap

__all__ = ["NOISE_SIGMAS", "add_gaussian_noise", "noise_statistics", "shift_accuracy"]

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
    rngs = (np.random.default_rng(derive_seed(seed, _NOISE_STREAM, sample_id)) for sample_id in ids)
    noise = torch.from_numpy(np.stack([rng.standard_normal(pixels.shape[1:]) for rng in rngs]))
    return (pixels + sigma * noise.float().to(pixels.device)).clamp(0, 1)


def noise_statistics(
    networks: Mapping[str, nn.Module], split: Split, task: EvaluableTask, *,
    sigmas: Sequence[float] = NOISE_SIGMAS, seed: int = 0, batch_size: int = 256,
) -> dict[str, Tensor]:  # fmt: skip
    """What each labeled sample of ``split`` adds to the primary metric of ``task``, at each of ``sigmas``.

    Networks take images in 0..1 and include the normalization; all get the same noise.

    Returns:
        By network, ``[sigmas, labeled, k]`` statistics: of a classifier, 1 for a correct prediction.

    >>> from limbeck.data.split import InMemory
    >>> from limbeck.tasks import Classification
    >>> split = Split.from_images(InMemory(torch.tensor([[0.9, 0.1], [0.51, 0.49]])), torch.tensor([0, 0]))
    >>> statistics = noise_statistics({"identity": nn.Identity()}, split, Classification(2), sigmas=(0.0, 0.05))
    >>> statistics["identity"][..., 0].tolist()
    [[1.0, 1.0], [1.0, 0.0]]
    """

    def perturb(pixels: Tensor, sample_ids: Tensor) -> Iterator[Tensor]:
        return (add_gaussian_noise(pixels, sigma, seed=seed, sample_ids=sample_ids) for sigma in sigmas)

    return statistics_under_perturbations(networks, split, task, perturb, batch_size=batch_size)


def shift_accuracy(network: nn.Module, reference: Split, shifted: Split, *, batch_size: int = 256) -> dict[str, Any]:
    """Accuracy of ``network`` on ``shifted`` and ``reference``, which hold the same samples in the same order.

    Returns:
        ``reference_accuracy`` and ``shifted_accuracy`` over the labeled samples; ``difference``, shifted − reference in
        percentage points, with ``low`` and ``high`` of its 95 % interval (paired bootstrap over samples);
        ``flip_rate``, the fraction of all samples with another predicted class; and ``num_samples``, the number of
        labeled ones.
    """
    require_class_targets(reference, "a shift")
    if len(reference) != len(shifted) or not torch.equal(reference.target, shifted.target):
        raise LimbeckError(
            f"splits must hold the same samples, got {len(reference)} and {len(shifted)} with different labels; give "
            "two folders with the same names in the same classes"
        )
    num_labeled, is_labeled = len(require_labeled(reference)), reference.target >= 0
    predicted = [predict_split(network, split, batch_size=batch_size).argmax(dim=1) for split in (reference, shifted)]
    reference_correct, shifted_correct = ((labels == reference.target)[is_labeled] for labels in predicted)
    difference, low, high = paired_bootstrap(shifted_correct, reference_correct)
    return {
        "reference_accuracy": float(reference_correct.double().mean()),
        "shifted_accuracy": float(shifted_correct.double().mean()),
        "difference": difference,
        "low": low,
        "high": high,
        "flip_rate": float((predicted[0] != predicted[1]).double().mean()),
        "num_samples": num_labeled,
    }
