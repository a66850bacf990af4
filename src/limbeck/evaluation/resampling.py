"""The difference of two networks in any figure of the same samples, with its 95 % interval over the samples.

The bootstrap is Efron's (1979, https://doi.org/10.1214/aos/1176344552), with percentile intervals: samples are
drawn, and both networks answer the same ones. For right and wrong, ``paired_bootstrap`` of :mod:`.difference` does the
same without drawing each sample.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError

__all__ = ["mean_difference", "paired_difference", "unpaired_difference"]

_AT_ONCE = 2_000_000


def paired_difference(
    statistic: Callable[[Tensor], float | Tensor], rows_a: Tensor, rows_b: Tensor, *, resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """``statistic`` of ``a`` minus that of ``b``.

    Args:
        statistic: a number out of some rows.
        rows_a: ``[n, ...]``, what is known of each sample for ``a``.
        rows_b: the same samples in the same order, for ``b``.
        resamples: how many times the samples are drawn again.
        seed: of the draws.

    Returns:
        ``difference``, ``low``, ``high`` and ``n``.

    Raises:
        LimbeckError: no row, or not as many for both.

    >>> found = paired_difference(torch.sum, torch.tensor([1.0, 1.0]), torch.tensor([0.5, 0.5]))
    >>> found["difference"], found["low"], found["high"]
    (1.0, 1.0, 1.0)
    """
    if len(rows_a) != len(rows_b) or not len(rows_a):
        raise LimbeckError(
            f"a paired difference takes the same samples of both, at least one, not {len(rows_a)} and {len(rows_b)}"
        )
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.empty(resamples, dtype=torch.float64)
    for i in range(resamples):
        which = torch.randint(len(rows_a), (len(rows_a),), generator=generator)
        drawn[i] = float(statistic(rows_a[which])) - float(statistic(rows_b[which]))
    return _told(float(statistic(rows_a)) - float(statistic(rows_b)), drawn, n=len(rows_a))


def mean_difference(values_a: Tensor, values_b: Tensor, *, resamples: int = 10_000, seed: int = 0) -> dict[str, Any]:
    """The mean of ``values_a`` (``[n]``) minus that of ``values_b``, like :func:`paired_difference` but at once.

    >>> found = mean_difference(torch.tensor([1.0, 0.5, 1.0, 0.5]), torch.tensor([0.5, 0.5, 0.5, 0.5]))
    >>> found["difference"], found["low"], found["high"]
    (0.25, 0.0, 0.5)
    """
    if values_a.ndim != 1 or values_a.shape != values_b.shape or not len(values_a):
        raise LimbeckError(
            "a paired difference of means takes the same samples of both, at least one, "
            f"not {list(values_a.shape)} and {list(values_b.shape)}"
        )
    generator, each = torch.Generator().manual_seed(seed), values_a.double() - values_b.double()
    n, many = len(each), max(1, _AT_ONCE // len(each))
    drawn = [
        each[torch.randint(n, (min(many, resamples - done), n), generator=generator)].mean(dim=1)
        for done in range(0, resamples, many)
    ]
    return _told(float(each.mean()), torch.cat(drawn), n=n)


def unpaired_difference(
    right_a: Tensor, right_b: Tensor, *, resamples: int = 10_000, seed: int = 0
) -> dict[str, Any]:  # fmt: skip
    """How many points more of ``right_a`` (``[n]`` booleans) is true than of ``right_b`` (``[m]``): other samples.

    >>> a, b = torch.tensor([True] * 90 + [False] * 10), torch.tensor([True] * 400 + [False] * 100)
    >>> found = unpaired_difference(a, b)
    >>> found["difference"], round(found["low"], 1), round(found["high"], 1)
    (10.0, 3.0, 16.6)
    """
    import numpy as np

    if not len(right_a) or not len(right_b):
        raise LimbeckError("a difference of accuracies takes at least one sample of both parts")
    draw = np.random.default_rng(seed)
    shares = [
        draw.binomial(len(right), float(right.double().mean()), resamples) / len(right) for right in (right_a, right_b)
    ]
    difference = 100 * (float(right_a.double().mean()) - float(right_b.double().mean()))
    drawn = torch.from_numpy(100 * (shares[0] - shares[1]))
    return _told(round(difference, 10), drawn, n=len(right_a))


def _told(difference: float, drawn: Tensor, *, n: int) -> dict[str, Any]:
    low, high = torch.quantile(drawn, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return {"difference": difference, "low": low, "high": high, "n": n}
