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

__all__ = ["SCORES", "auroc", "auroc_difference", "energy_score", "max_softmax", "outside"]


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


SCORES: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {"max_softmax": max_softmax, "energy": energy_score}
)


def auroc(inside: Tensor, outside: Tensor) -> dict[str, Any]:
    """How often a score from inside is above one from outside; equal ones count half.

    Args:
        inside: ``[n]`` scores that should be high.
        outside: ``[m]`` scores that should be low.

    Returns:
        ``auroc``, ``low`` and ``high`` of its 95 % interval, ``inside`` and ``outside`` (how many there are). 0.5 is
        guessing. The interval ends at 0 and 1.

    >>> found = auroc(torch.tensor([3.0, 2.0, 2.0]), torch.tensor([1.0, 2.0]))
    >>> round(found["auroc"], 4)
    0.8333
    """
    above, below = _placed(inside, outside)
    area = float(above.mean())
    half = 1.96 * math.sqrt(_variance(above) + _variance(below))
    return {
        "auroc": area, "low": max(0.0, area - half), "high": min(1.0, area + half),
        "inside": len(inside), "outside": len(outside),
    }  # fmt: skip


def auroc_difference(
    a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]
) -> dict[str, Any]:  # fmt: skip
    """The AUROC of ``a`` minus that of ``b``, whose scores (inside, outside) are about the same pictures.

    Returns:
        ``difference``, its 95 % interval ``low`` and ``high``, and ``n``, the pictures inside and outside together.

    >>> scores = torch.tensor([3.0, 2.0, 2.0]), torch.tensor([1.0, 2.0])
    >>> auroc_difference(scores, scores)["difference"]
    0.0
    """
    if (len(a[0]), len(a[1])) != (len(b[0]), len(b[1])):
        raise LimbeckError("two AUROC are compared on the same pictures, and one network answered others")
    (above, below), (above_b, below_b) = _placed(*a), _placed(*b)
    half = 1.96 * math.sqrt(_variance(above - above_b) + _variance(below - below_b))
    difference = float(above.mean() - above_b.mean())
    return {"difference": difference, "low": difference - half, "high": difference + half, "n": len(above) + len(below)}


def outside(inside_logits: Tensor, outside_logits: Tensor) -> dict[str, Any]:
    """AUROC by each score of :data:`SCORES`, of logits ``[n, classes]`` inside and ``[m, classes]`` outside.

    >>> found = outside(torch.tensor([[5.0, 0.0], [4.0, 0.0]]), torch.tensor([[0.1, 0.0], [0.0, 0.2]]))
    >>> found["max_softmax"]["auroc"], found["energy"]["auroc"]
    (1.0, 1.0)
    """
    return {name: auroc(score(inside_logits), score(outside_logits)) for name, score in SCORES.items()}


def _placed(inside: Tensor, outside: Tensor) -> tuple[Tensor, Tensor]:
    """For each score inside the share of those outside that it is above, and for each outside the share above it."""
    if inside.ndim != 1 or outside.ndim != 1 or not len(inside) or not len(outside):
        raise LimbeckError(
            "an AUROC takes scores [n] of at least one picture inside and one outside, not "
            f"{list(inside.shape)} and {list(outside.shape)}"
        )
    inside, outside = inside.double(), outside.double()
    if not bool(inside.isfinite().all() and outside.isfinite().all()):
        raise LimbeckError("a score is not finite: the network's logits hold NaN or infinity")
    return _share_below(inside, outside), 1 - _share_below(outside, inside)


def _share_below(these: Tensor, those: Tensor) -> Tensor:
    """For each of ``these`` the share of ``those`` that is smaller, with half of those that are equal."""
    ranked = those.sort().values
    smaller, not_larger = torch.searchsorted(ranked, these), torch.searchsorted(ranked, these, right=True)
    return (smaller + not_larger).double() / (2 * len(those))


def _variance(values: Tensor) -> float:
    return float(values.var()) / len(values) if len(values) > 1 else 0.0
