"""The difference of two networks in any figure of the same samples, with its 95 % interval over the samples.

The bootstrap is Efron's (1979, https://doi.org/10.1214/aos/1176344552), with percentile intervals: samples are
drawn, and both networks answer the same ones. For right and wrong, ``paired_bootstrap`` of :mod:`.paired_bootstrap` does the
same without drawing each sample.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError

__all__ = ["paired_bootstrap_mean", "paired_bootstrap_statistic", "unpaired_bootstrap"]

_MAX_CHUNK_ELEMENTS = 2_000_000


def paired_bootstrap_statistic(
    statistic: Callable[[Tensor], float | Tensor], rows_a: Tensor, rows_b: Tensor, *, n_resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """``statistic`` of ``a`` minus that of ``b``.

    Args:
        statistic: a number out of some rows.
        rows_a: ``[n, ...]``, what is known of each sample for ``a``.
        rows_b: the same samples in the same order, for ``b``.
        n_resamples: how many times the samples are drawn again.
        seed: of the draws.

    Returns:
        ``difference``, ``low``, ``high`` and ``num_samples``.

    Raises:
        LimbeckError: no row, or not as many for both.

    >>> found = paired_bootstrap_statistic(torch.sum, torch.tensor([1.0, 1.0]), torch.tensor([0.5, 0.5]))
    >>> found["difference"], found["low"], found["high"]
    (1.0, 1.0, 1.0)
    """
    if len(rows_a) != len(rows_b) or not len(rows_a):
        raise LimbeckError(
            f"a paired difference takes the same samples of both, at least one, not {len(rows_a)} and {len(rows_b)}"
        )
    generator = torch.Generator().manual_seed(seed)
    differences = torch.empty(n_resamples, dtype=torch.float64)
    for i in range(n_resamples):
        indices = torch.randint(len(rows_a), (len(rows_a),), generator=generator)
        differences[i] = float(statistic(rows_a[indices])) - float(statistic(rows_b[indices]))
    return _difference_with_ci(
        float(statistic(rows_a)) - float(statistic(rows_b)), differences, num_samples=len(rows_a)
    )


def paired_bootstrap_mean(
    values_a: Tensor, values_b: Tensor, *, n_resamples: int = 10_000, seed: int = 0
) -> dict[str, Any]:
    """The mean of ``values_a`` (``[n]``) minus that of ``values_b``, like :func:`paired_bootstrap_statistic` but at once.

    >>> found = paired_bootstrap_mean(torch.tensor([1.0, 0.5, 1.0, 0.5]), torch.tensor([0.5, 0.5, 0.5, 0.5]))
    >>> found["difference"], found["low"], found["high"]
    (0.25, 0.0, 0.5)
    """
    if values_a.ndim != 1 or values_a.shape != values_b.shape or not len(values_a):
        raise LimbeckError(
            "a paired difference of means takes the same samples of both, at least one, "
            f"not {list(values_a.shape)} and {list(values_b.shape)}"
        )
    generator, differences = torch.Generator().manual_seed(seed), values_a.double() - values_b.double()
    n, chunk_size = len(differences), max(1, _MAX_CHUNK_ELEMENTS // len(differences))
    resampled = [
        differences[torch.randint(n, (min(chunk_size, n_resamples - num_done), n), generator=generator)].mean(dim=1)
        for num_done in range(0, n_resamples, chunk_size)
    ]
    return _difference_with_ci(float(differences.mean()), torch.cat(resampled), num_samples=n)


def unpaired_bootstrap(
    correct_a: Tensor, correct_b: Tensor, *, n_resamples: int = 10_000, seed: int = 0
) -> dict[str, Any]:  # fmt: skip
    """How many points more of ``correct_a`` (``[n]`` booleans) is true than of ``correct_b`` (``[m]``): other samples.

    >>> a, b = torch.tensor([True] * 90 + [False] * 10), torch.tensor([True] * 400 + [False] * 100)
    >>> found = unpaired_bootstrap(a, b)
    >>> found["difference"], round(found["low"], 1), round(found["high"], 1)
    (10.0, 3.0, 16.6)
    """
    import numpy as np

    if not len(correct_a) or not len(correct_b):
        raise LimbeckError("a difference of accuracies takes at least one sample of both parts")
    rng = np.random.default_rng(seed)
    accuracies = [
        rng.binomial(len(correct), float(correct.double().mean()), n_resamples) / len(correct)
        for correct in (correct_a, correct_b)
    ]
    difference = 100 * (float(correct_a.double().mean()) - float(correct_b.double().mean()))
    resampled = torch.from_numpy(100 * (accuracies[0] - accuracies[1]))
    return _difference_with_ci(round(difference, 10), resampled, num_samples=len(correct_a))


def _difference_with_ci(difference: float, resampled: Tensor, *, num_samples: int) -> dict[str, Any]:
    low, high = torch.quantile(resampled, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return {"difference": difference, "low": low, "high": high, "num_samples": num_samples}
