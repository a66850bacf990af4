"""Out-of-distribution detection: AUROC of scores of in-distribution samples against out-of-distribution samples.

Scores are the largest softmax probability (Hendrycks & Gimpel, 2017, https://arxiv.org/abs/1610.02136) and the negative
energy, the logsumexp of the logits (Liu et al., 2020, https://arxiv.org/abs/2010.03759). Intervals are DeLong et al.'s
(1988, https://doi.org/10.2307/2531595), of 95 %.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError

__all__ = ["OOD_SCORES", "auroc", "auroc_difference", "energy_score", "max_softmax", "ood_metrics"]


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
        ``auroc``, ``low`` and ``high`` of its interval, clamped to 0..1, ``num_id`` and ``num_ood``.

    >>> result = auroc(torch.tensor([3.0, 2.0, 2.0]), torch.tensor([1.0, 2.0]))
    >>> round(result["auroc"], 4)
    0.8333
    """
    above, below = _placement_values(id_scores, ood_scores)
    area, half_width = float(above.mean()), _half_width(above, below)
    return {
        "auroc": area, "low": max(0.0, area - half_width), "high": min(1.0, area + half_width),
        "num_id": len(id_scores), "num_ood": len(ood_scores),
    }  # fmt: skip


def auroc_difference(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> dict[str, Any]:
    """Difference in AUROC, of scores (in-distribution, out-of-distribution) of the same samples.

    Returns:
        ``difference`` a − b, ``low`` and ``high`` of its interval, and ``num_samples``, the number of all samples.
    """
    if (len(a[0]), len(a[1])) != (len(b[0]), len(b[1])):
        raise LimbeckError("both AUROCs must be of the same samples, got different numbers of scores")
    (above_a, below_a), (above_b, below_b) = _placement_values(*a), _placement_values(*b)
    difference, half_width = float(above_a.mean() - above_b.mean()), _half_width(above_a - above_b, below_a - below_b)
    return {
        "difference": difference, "low": difference - half_width, "high": difference + half_width,
        "num_samples": len(above_a) + len(below_a),
    }  # fmt: skip


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


def _half_width(*placement_values: Tensor) -> float:
    """Half of the interval of the sum of the means."""
    return 1.96 * math.sqrt(sum(float(values.var()) / len(values) for values in placement_values if len(values) > 1))
