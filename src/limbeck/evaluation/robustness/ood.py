"""Whether a network notices what it was not trained for: AUROC of pictures from inside against pictures from outside.

Two scores tell them apart, both higher inside: the largest softmax probability (Hendrycks & Gimpel, 2017,
https://arxiv.org/abs/1610.02136), and the negative energy, which is the logsumexp of the logits (Liu et al.,
2020, https://arxiv.org/abs/2010.03759). Intervals are DeLong et al.'s (1988, https://doi.org/10.2307/2531595).
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
    """The largest softmax probability of each row, ``[n]`` float64.

    >>> round(float(max_softmax(torch.tensor([[2.0, 0.0]]))), 4)
    0.8808
    """
    return logits.detach().cpu().double().softmax(dim=1).amax(dim=1)


def energy_score(logits: Tensor) -> Tensor:
    """The negative energy of each row at temperature 1, ``[n]`` float64.

    >>> round(float(energy_score(torch.tensor([[0.0, 0.0]]))), 4)
    0.6931
    """
    return logits.detach().cpu().double().logsumexp(dim=1)


OOD_SCORES: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {"max_softmax": max_softmax, "energy": energy_score}
)


def auroc(id_scores: Tensor, ood_scores: Tensor) -> dict[str, Any]:
    """How often a score from inside is above one from outside; equal ones count half.

    Args:
        id_scores: ``[n]`` scores that should be high.
        ood_scores: ``[m]`` scores that should be low.

    Returns:
        ``auroc``, ``low`` and ``high`` of its 95 % interval, ``num_id`` and ``num_ood`` (how many there are). 0.5 is
        guessing. The interval ends at 0 and 1.

    >>> found = auroc(torch.tensor([3.0, 2.0, 2.0]), torch.tensor([1.0, 2.0]))
    >>> round(found["auroc"], 4)
    0.8333
    """
    above, below = _placement_values(id_scores, ood_scores)
    area = float(above.mean())
    half_width = 1.96 * math.sqrt(_variance_of_mean(above) + _variance_of_mean(below))
    return {
        "auroc": area, "low": max(0.0, area - half_width), "high": min(1.0, area + half_width),
        "num_id": len(id_scores), "num_ood": len(ood_scores),
    }  # fmt: skip


def auroc_difference(
    a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]
) -> dict[str, Any]:  # fmt: skip
    """The AUROC of ``a`` minus that of ``b``, whose scores (inside, outside) are about the same pictures.

    Returns:
        ``difference``, its 95 % interval ``low`` and ``high``, and ``num_samples``, the pictures inside and outside together.

    >>> scores = torch.tensor([3.0, 2.0, 2.0]), torch.tensor([1.0, 2.0])
    >>> auroc_difference(scores, scores)["difference"]
    0.0
    """
    if (len(a[0]), len(a[1])) != (len(b[0]), len(b[1])):
        raise LimbeckError("two AUROC are compared on the same pictures, and one network answered others")
    (above, below), (above_b, below_b) = _placement_values(*a), _placement_values(*b)
    half_width = 1.96 * math.sqrt(_variance_of_mean(above - above_b) + _variance_of_mean(below - below_b))
    difference = float(above.mean() - above_b.mean())
    return {
        "difference": difference,
        "low": difference - half_width,
        "high": difference + half_width,
        "num_samples": len(above) + len(below),
    }


def ood_metrics(id_logits: Tensor, ood_logits: Tensor) -> dict[str, Any]:
    """AUROC by each score of :data:`OOD_SCORES`, of logits ``[n, classes]`` inside and ``[m, classes]`` outside.

    >>> found = ood_metrics(torch.tensor([[5.0, 0.0], [4.0, 0.0]]), torch.tensor([[0.1, 0.0], [0.0, 0.2]]))
    >>> found["max_softmax"]["auroc"], found["energy"]["auroc"]
    (1.0, 1.0)
    """
    return {name: auroc(score(id_logits), score(ood_logits)) for name, score in OOD_SCORES.items()}


def _placement_values(id_scores: Tensor, ood_scores: Tensor) -> tuple[Tensor, Tensor]:
    """For each score inside the share of those outside that it is above, and for each outside the share above it."""
    if id_scores.ndim != 1 or ood_scores.ndim != 1 or not len(id_scores) or not len(ood_scores):
        raise LimbeckError(
            "an AUROC takes scores [n] of at least one picture inside and one outside, not "
            f"{list(id_scores.shape)} and {list(ood_scores.shape)}"
        )
    id_scores, ood_scores = id_scores.double(), ood_scores.double()
    if not bool(id_scores.isfinite().all() and ood_scores.isfinite().all()):
        raise LimbeckError("a score is not finite: the network's logits hold NaN or infinity")
    return _fraction_below(id_scores, ood_scores), 1 - _fraction_below(ood_scores, id_scores)


def _fraction_below(values: Tensor, reference: Tensor) -> Tensor:
    """For each of ``values`` the share of ``reference`` that is smaller, with half of those that are equal."""
    sorted_reference = reference.sort().values
    num_smaller, num_not_larger = (
        torch.searchsorted(sorted_reference, values),
        torch.searchsorted(sorted_reference, values, right=True),
    )
    return (num_smaller + num_not_larger).double() / (2 * len(reference))


def _variance_of_mean(values: Tensor) -> float:
    return float(values.var()) / len(values) if len(values) > 1 else 0.0
