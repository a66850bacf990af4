"""The interval of an accuracy over the samples it was measured on."""

from __future__ import annotations

import math

__all__ = ["accuracy_interval"]

_NUM_RESAMPLES = 10_000


def accuracy_interval(accuracy: float | None, num_samples: int, *, seed: int = 0) -> tuple[float, float] | None:
    """The 95 % bootstrap interval of ``share`` right among ``n`` samples, as fractions; ``None`` where one is missing.

    A resample of right and wrong is known by how many are right, which is binomial: the same distribution as drawing
    ``n`` samples, without them. Where all are right, or none, every resample is alike, and the bootstrap would claim to
    know for certain: there it is the exact one-sided bound, ``0.05 ** (1 / n)`` for all right ("the rule of three").

    >>> [round(end, 3) for end in accuracy_interval(0.9, 360)]
    [0.869, 0.931]
    >>> [round(end, 3) for end in accuracy_interval(1.0, 100)]
    [0.97, 1.0]
    """
    import numpy as np

    if accuracy is None or num_samples < 1 or not math.isfinite(accuracy):
        return None
    if accuracy >= 1:
        return 0.05 ** (1 / num_samples), 1.0
    if accuracy <= 0:
        return 0.0, 1 - 0.05 ** (1 / num_samples)
    resampled = np.random.default_rng(seed).binomial(num_samples, accuracy, size=_NUM_RESAMPLES) / num_samples
    low, high = np.quantile(resampled, [0.025, 0.975])
    return float(low), float(high)
