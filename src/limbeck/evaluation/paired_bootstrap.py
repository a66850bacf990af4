"""Did it help: the difference of two networks on the same samples, means over seeds, and the share of a gap recovered.

The bootstrap is Efron's (1979, https://doi.org/10.1214/aos/1176344552), with percentile intervals. It draws
samples, and both networks answer the same ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError

__all__ = ["MIN_GAP", "gap_recovered", "mean_ci", "paired_bootstrap"]

MIN_GAP = 0.005
"""Half a point of accuracy: a share of a smaller gap between teacher and student alone would be a share of noise."""


def paired_bootstrap(
    correct_a: Tensor, correct_b: Tensor, *, n_resamples: int = 10_000, seed: int = 0
) -> tuple[float, float, float]:
    """How many points more of the samples ``a`` gets right than ``b``, with the 95 % interval over the samples.

    It tells what another draw of test samples would change, and not what another training seed would: that takes
    several runs and :func:`mean_ci`. Two networks that are right on the very same samples give ``(0, 0, 0)``.

    Args:
        correct_a: ``[n]`` booleans, whether ``a`` is right on each sample.
        correct_b: ``[n]`` booleans for the same samples in the same order.
        n_resamples: how many times the samples are drawn again.
        seed: of the draws.

    Returns:
        The difference a − b in percentage points, and its interval's low and high end.

    Raises:
        LimbeckError: no sample, different lengths, or values that are not booleans.

    >>> a, b = torch.tensor([True] * 90 + [False] * 10), torch.tensor([True] * 80 + [False] * 20)
    >>> paired_bootstrap(a, b)
    (10.0, 5.0, 16.0)
    """
    import numpy as np

    if correct_a.dtype != torch.bool or correct_b.dtype != torch.bool:
        raise LimbeckError(
            f"a bootstrap of right and wrong takes booleans, not {correct_a.dtype} and {correct_b.dtype}"
        )
    if correct_a.ndim != 1 or correct_a.shape != correct_b.shape or not len(correct_a):
        raise LimbeckError(
            "a paired bootstrap takes both networks' answers to the same samples, at least one, "
            f"not {list(correct_a.shape)} and {list(correct_b.shape)}"
        )
    if n_resamples < 1:
        raise LimbeckError(f"n_resamples is at least 1, not {n_resamples}")
    n = len(correct_a)
    only_a, only_b = int((correct_a & ~correct_b).sum()), int((correct_b & ~correct_a).sum())
    # A sample's difference is +1, −1 or 0, so a resample is known by how many of each it drew: the same distribution as
    # drawing n samples, in the memory of three numbers.
    counts = np.random.default_rng(seed).multinomial(
        n, [only_a / n, only_b / n, (n - only_a - only_b) / n], size=n_resamples
    )
    low, high = np.quantile((counts[:, 0] - counts[:, 1]) * (100.0 / n), [0.025, 0.975])
    return 100.0 * (only_a - only_b) / n, float(low), float(high)


def mean_ci(values: Sequence[float]) -> dict[str, Any]:
    """The mean of one figure over several seeds, with its 95 % interval by Student's t.

    Returns:
        ``mean``, ``low``, ``high`` and ``num_seeds``; from a single seed ``low`` and ``high`` are ``None``.

    Raises:
        LimbeckError: no value, or one that is not finite.

    >>> {name: round(value, 3) for name, value in mean_ci([1.0, 2.0, 3.0]).items()}
    {'mean': 2.0, 'low': -0.484, 'high': 4.484, 'num_seeds': 3}
    """
    if not values or not all(math.isfinite(value) for value in values):
        raise LimbeckError(f"a mean over seeds takes at least one value, all finite, not {list(values)}")
    n, mean = len(values), math.fsum(values) / len(values)
    if n == 1:
        return {"mean": mean, "low": None, "high": None, "num_seeds": 1}
    from scipy.stats import t  # type: ignore[import-untyped,unused-ignore]

    std = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half_width = float(t.ppf(0.975, n - 1)) * std / math.sqrt(n)
    return {"mean": mean, "low": mean - half_width, "high": mean + half_width, "num_seeds": n}


def gap_recovered(baseline: float, distilled: float, teacher: float, *, min_gap: float = MIN_GAP) -> float | None:
    """The share of the gap between the student alone and the teacher that distillation closed.

    Below 0 it made the student worse, above 1 the student is better than its teacher. ``None`` where the teacher is not
    better than the student alone by at least ``min_gap``: then there is no gap to recover.

    Args:
        baseline: accuracy of the same student without a teacher, a fraction.
        distilled: accuracy of the distilled student.
        teacher: accuracy of the teacher.
        min_gap: the smallest gap, in the same unit, of which a share is told.

    >>> round(gap_recovered(0.90, 0.93, 0.95), 4), gap_recovered(0.95, 0.96, 0.95)
    (0.6, None)
    """
    gap = teacher - baseline
    return (distilled - baseline) / gap if gap > 0 and gap >= min_gap else None
