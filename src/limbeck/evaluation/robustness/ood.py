"""Out-of-distribution detection: AUROC of scores of in-distribution samples against out-of-distribution samples.

Scores are the largest softmax probability (Hendrycks & Gimpel, 2017, https://arxiv.org/abs/1610.02136) and the negative
energy, the logsumexp of the logits (Liu et al., 2020, https://arxiv.org/abs/2010.03759).

Intervals of 95 % invert a score test (Newcombe, 2006, method 5, https://doi.org/10.1002/sim.2324), as those of DeLong
et al. (1988, https://doi.org/10.2307/2531595) are far too narrow near 1. Where DeLong's variance is the larger one, the
variance is scaled to it. An interval of a difference combines both by the square-and-add method (Zou, 2008,
https://doi.org/10.1002/sim.3200). `benchmarks/auroc_coverage.py` measures the coverage.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError

__all__ = ["MIN_AUROC_SAMPLES", "OOD_SCORES", "auroc", "auroc_difference", "energy_score", "max_softmax", "ood_metrics"]

MIN_AUROC_SAMPLES: Final = 10
"""With fewer scores on a side there is no interval: its coverage depends too much on the distribution of the scores."""
_Z: Final = 1.959964
_TOLERANCE: Final = 1e-9


def max_softmax(logits: Tensor) -> Tensor:
    """Largest softmax probability of each row, ``[n]`` float64."""
    return logits.detach().cpu().double().softmax(dim=1).amax(dim=1)


def energy_score(logits: Tensor) -> Tensor:
    """Negative energy of each row at temperature 1, ``[n]`` float64."""
    return logits.detach().cpu().double().logsumexp(dim=1)


OOD_SCORES: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {"max_softmax": max_softmax, "energy": energy_score}
)


def auroc(id_scores: Tensor, ood_scores: Tensor) -> dict[str, Any]:
    """Probability that an in-distribution score ``[n]`` is above an out-of-distribution one ``[m]``; ties count half.

    Returns:
        ``auroc``, ``low`` and ``high`` of its interval (``None`` for less than :data:`MIN_AUROC_SAMPLES` scores on a
        side), ``num_id`` and ``num_ood``.

    >>> result = auroc(torch.tensor([3.0, 2.0, 2.0]), torch.tensor([1.0, 2.0]))
    >>> round(result["auroc"], 4), result["low"]
    (0.8333, None)
    >>> result = auroc(torch.arange(10.0) + 10, torch.arange(10.0))
    >>> result["auroc"], round(result["low"], 3), result["high"]
    (1.0, 0.8, 1.0)
    """
    above, below = _placement_values(id_scores, ood_scores)
    low, high = _interval(above, below)
    return {
        "auroc": float(above.mean()), "low": low, "high": high, "num_id": len(id_scores), "num_ood": len(ood_scores),
    }  # fmt: skip


def auroc_difference(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> dict[str, Any]:
    """Difference in AUROC, of scores (in-distribution, out-of-distribution) of the same samples.

    Returns:
        ``difference`` a − b, ``low`` and ``high`` of its interval (``None`` as in :func:`auroc`), and ``num_samples``,
        the number of all samples.
    """
    if (len(a[0]), len(a[1])) != (len(b[0]), len(b[1])):
        raise LimbeckError("both AUROCs must be of the same samples, got different numbers of scores")
    values_a, values_b = _placement_values(*a), _placement_values(*b)
    area_a, area_b = float(values_a[0].mean()), float(values_b[0].mean())
    (low_a, high_a), (low_b, high_b) = _interval(*values_a), _interval(*values_b)
    low = high = None
    if low_a is not None and high_a is not None and low_b is not None and high_b is not None:
        correlation = _correlation(values_a, values_b)
        low = area_a - area_b - _square_and_add(area_a - low_a, high_b - area_b, correlation)
        high = area_a - area_b + _square_and_add(high_a - area_a, area_b - low_b, correlation)
    num_samples = sum(map(len, values_a))
    return {"difference": area_a - area_b, "low": low, "high": high, "num_samples": num_samples}


def ood_metrics(id_logits: Tensor, ood_logits: Tensor) -> dict[str, Any]:
    """AUROC by each of :data:`OOD_SCORES`, of in-distribution ``[n, classes]`` and other ``[m, classes]`` logits."""
    return {name: auroc(score(id_logits), score(ood_logits)) for name, score in OOD_SCORES.items()}


def _placement_values(id_scores: Tensor, ood_scores: Tensor) -> tuple[Tensor, Tensor]:
    """For each in-distribution score the fraction of the others below it, and for each other one the fraction above."""
    if id_scores.ndim != 1 or ood_scores.ndim != 1 or not len(id_scores) or not len(ood_scores):
        raise LimbeckError(
            f"scores must be [n] with at least one, got {list(id_scores.shape)} and {list(ood_scores.shape)}"
        )
    id_scores, ood_scores = id_scores.double(), ood_scores.double()
    if not bool(id_scores.isfinite().all() and ood_scores.isfinite().all()):
        raise LimbeckError("scores are not finite; look for NaN or infinity in the network's logits")
    return _fraction_below(id_scores, ood_scores), 1 - _fraction_below(ood_scores, id_scores)


def _fraction_below(values: Tensor, reference: Tensor) -> Tensor:
    """For each of ``values`` the fraction of ``reference`` below it, plus half of those equal to it."""
    reference = reference.sort().values
    num_smaller = torch.searchsorted(reference, values)
    num_not_larger = torch.searchsorted(reference, values, right=True)
    return (num_smaller + num_not_larger).double() / (2 * len(reference))


def _interval(above: Tensor, below: Tensor) -> tuple[float | None, float | None]:
    """All areas that a test at 5 % does not reject: (estimate − area)² <= z² · variance(area)."""
    from scipy.optimize import brentq  # type: ignore[import-untyped,unused-ignore]

    m, n = len(above), len(below)
    if min(m, n) < MIN_AUROC_SAMPLES:
        return None, None
    estimate = float(above.mean())
    variance = _score_variance(estimate, m, n)
    factor = max(1.0, _delong_covariance((above, below), (above, below)) / variance) if variance > 0 else 1.0

    def excess(area: float) -> float:
        return (estimate - area) ** 2 - _Z**2 * factor * _score_variance(area, m, n)

    # At an estimate of 0 or 1 the estimate itself is a root as well.
    low = brentq(excess, 0.0, estimate - _TOLERANCE) if estimate > _TOLERANCE else 0.0
    high = brentq(excess, estimate + _TOLERANCE, 1.0) if estimate < 1 - _TOLERANCE else 1.0
    return float(low), float(high)


def _score_variance(area: float, m: int, n: int) -> float:
    """Variance of an estimate where the true area is ``area`` (Hanley and McNeil, 1982), symmetric in both samples."""
    pairs = (m + n) / 2 - 1
    return area * (1 - area) * (1 + pairs * ((1 - area) / (2 - area) + area / (1 + area))) / (m * n)


def _delong_covariance(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> float:
    total = 0.0
    for x, y in zip(a, b, strict=True):
        total += float(((x - x.mean()) * (y - y.mean())).sum()) / (len(x) - 1) / len(x)
    return total


def _correlation(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> float:
    variance = _delong_covariance(a, a) * _delong_covariance(b, b)
    return max(-1.0, min(1.0, _delong_covariance(a, b) / math.sqrt(variance))) if variance > 0 else 0.0


def _square_and_add(first: float, second: float, correlation: float) -> float:
    return math.sqrt(max(0.0, first**2 + second**2 - 2 * correlation * first * second))
