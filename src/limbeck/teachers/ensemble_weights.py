"""Weights of the teachers of an ensemble for each row, and weighted means of their predictions."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError

__all__ = [
    "average_logits",
    "average_probabilities",
    "cross_entropy_weights",
    "entropy_weights",
    "inverse_entropy_weights",
    "normalize_weights",
    "require_positive_temperature",
    "require_positive_weights",
]


def normalize_weights(weights: Tensor, valid: Tensor) -> Tensor:
    """``weights`` ``[teachers]`` above zero as shares of the valid teachers of each row, ``[teachers, rows]``.

    >>> normalize_weights(torch.tensor([3.0, 1.0]), torch.tensor([[True, False], [True, True]]))
    tensor([[0.7500, 0.0000],
            [0.2500, 1.0000]])
    """
    weighted = weights[:, None] * valid
    return weighted / weighted.sum(dim=0).clamp(min=torch.finfo(weights.dtype).tiny)


def entropy_weights(logits: Tensor, valid: Tensor) -> Tensor:
    """(1 − exp H_k / Σ_j exp H_j) / (K − 1) with the entropy H_k of teacher k, over the K valid teachers of a row.

    Kwon et al., *Adaptive Knowledge Distillation Based on Entropy* (ICASSP 2020,
    https://doi.org/10.1109/ICASSP40776.2020.9054698). A confident wrong teacher gets the most weight.

    >>> uniform, confident = torch.tensor([[0.0, 0.0]]), torch.tensor([[9.0, -9.0]])
    >>> entropy_weights(torch.stack([uniform, confident]), torch.ones(2, 1, dtype=torch.bool)).T
    tensor([[0.3333, 0.6667]])
    """
    return _inverse_softmax_weights(torch.special.entr(F.softmax(logits, dim=2)).sum(dim=2), valid)


def inverse_entropy_weights(logits: Tensor, valid: Tensor) -> Tensor:
    """(1 / H_k) / Σ_j (1 / H_j) with the entropy H_k of teacher k, over the valid teachers of a row.

    Misra, Bourlard & Tyagi, *New Entropy Based Combination Rules in HMM/ANN Multi-stream ASR* (ICASSP 2003,
    https://publications.idiap.ch/publications/show/683). Unlike :func:`entropy_weights`, one confident teacher of
    several gets nearly all of the weight. Entropies below the resolution of the type (1.2e-7 in float32) are equal.

    >>> uniform, confident = torch.tensor([[0.0, 0.0]]), torch.tensor([[2.0, -2.0]])
    >>> inverse_entropy_weights(torch.stack([uniform, confident]), torch.ones(2, 1, dtype=torch.bool)).T
    tensor([[0.1150, 0.8850]])
    """
    entropy = torch.special.entr(F.softmax(logits, dim=2)).sum(dim=2)
    confidence: Tensor = valid / entropy.clamp(min=torch.finfo(logits.dtype).eps)
    return confidence / confidence.sum(dim=0).clamp(min=torch.finfo(logits.dtype).tiny)


def cross_entropy_weights(logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Like :func:`entropy_weights`, with the cross-entropy of each prediction with the target.

    CA-MKD: Zhang, Chen & Wang, *Confidence-Aware Multi-Teacher Knowledge Distillation* (ICASSP 2022,
    https://arxiv.org/abs/2201.00007). ``target`` is class indices ``[rows]`` (−100: no label) or probabilities
    ``[rows, classes]`` (all zero: no label). Rows without a label get equal weights.

    >>> logits = torch.tensor([[[0.0, 0.0]], [[1.0986123, 0.0]]])  # probability of the target: 1/2 and 3/4
    >>> cross_entropy_weights(logits, torch.tensor([0]), torch.ones(2, 1, dtype=torch.bool)).T
    tensor([[0.4000, 0.6000]])
    """
    log_p = F.log_softmax(logits, dim=2)
    if target.ndim == 2:
        target_probabilities = target.to(logits)
    else:
        is_labeled = target >= 0
        target_probabilities = F.one_hot(target.where(is_labeled, 0), logits.shape[2]).to(logits) * is_labeled[:, None]
    # A class of logit −inf that is not the target costs 0, not 0 · inf.
    loss = -(target_probabilities * log_p.masked_fill((target_probabilities == 0).expand_as(log_p), 0.0)).sum(dim=2)
    return _inverse_softmax_weights(loss.clamp(max=torch.finfo(logits.dtype).max), valid)


def average_logits(logits: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean of logits ``[teachers, rows, classes]``, ``[rows, classes]``."""
    # Weight 0 times a logit of −inf is 0, not NaN.
    return (logits * weight.unsqueeze(2)).masked_fill((weight == 0).unsqueeze(2), 0.0).sum(dim=0)


def average_probabilities(logits: Tensor, weight: Tensor, *, temperature: float = 1.0) -> Tensor:
    """``temperature`` · log of the weighted mean of the probabilities at ``temperature``, ``[rows, classes]``.

    >>> average_probabilities(torch.tensor([[[1.0986123, 0.0]], [[0.0, 0.0]]]), torch.full((2, 1), 0.5)).exp()
    tensor([[0.6250, 0.3750]])
    """
    is_zero = weight == 0
    # The gradient of log(0) would be NaN for learned weights.
    log_weight = weight.masked_fill(is_zero, 1.0).log().masked_fill(is_zero, -torch.inf)
    return temperature * torch.logsumexp(F.log_softmax(logits / temperature, dim=2) + log_weight.unsqueeze(2), dim=0)


def _inverse_softmax_weights(loss: Tensor, valid: Tensor) -> Tensor:
    num_valid = valid.sum(dim=0)
    fraction = F.softmax(loss.masked_fill(~valid, -torch.inf), dim=0)
    weight = ((1 - fraction) / (num_valid - 1).clamp(min=1)).where(num_valid > 1, 1.0)
    return weight.masked_fill(~valid, 0.0)


def require_positive_weights(weights: Mapping[str, float] | None) -> None:
    """Refuse weights by teacher name that are not above 0."""
    for name, weight in (weights or {}).items():
        if not 0 < weight < math.inf:
            raise LimbeckError(f"the weight of teacher {name!r} must be above 0, got {weight}; remove the teacher")


def require_positive_temperature(temperature: float) -> None:
    """Refuse a temperature that is not above 0."""
    if not 0 < temperature < math.inf:
        raise LimbeckError(f"temperature must be above 0, got {temperature}")
