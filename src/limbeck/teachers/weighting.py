"""How much each of several teachers counts for each row, and what they say together by these weights.

Everywhere ``rows`` are logits ``[teachers, rows, classes]``, ``here`` says who answered, ``[teachers, rows]`` booleans,
and a weight is ``[teachers, rows]``: zero for who did not answer, and 1 in sum over those who did. A row that nobody
answered has no weight at all. What stands in the row of somebody who did not answer has to be finite.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "average_logits",
    "average_probabilities",
    "cross_entropy_weights",
    "entropy_weights",
    "first_valid_weights",
    "normalize_weights",
]


def normalize_weights(weights: Tensor, valid: Tensor) -> Tensor:
    """Each teacher's share, the same for every row, among those who answered it; ``weights`` ``[teachers]`` above zero.

    >>> normalize_weights(torch.tensor([3.0, 1.0]), torch.tensor([[True, False], [True, True]]))
    tensor([[0.7500, 0.0000],
            [0.2500, 1.0000]])
    """
    weighted = weights[:, None] * valid
    return weighted / weighted.sum(dim=0).clamp(min=torch.finfo(weights.dtype).tiny)


def entropy_weights(logits: Tensor, valid: Tensor) -> Tensor:
    """More for whoever is surer of a row: the weights of :func:`cross_entropy_weights`, by the entropy of each answer.

    It needs no label. Entropy as the measure is that of Kwon et al., *Adaptive Knowledge Distillation Based on
    Entropy* (ICASSP 2020, https://doi.org/10.1109/ICASSP40776.2020.9054698). A teacher that is sure and wrong counts
    most.

    >>> even, sure = torch.tensor([[0.0, 0.0]]), torch.tensor([[9.0, -9.0]])
    >>> entropy_weights(torch.stack([even, sure]), torch.ones(2, 1, dtype=torch.bool)).T
    tensor([[0.3333, 0.6667]])
    """
    return _inverse_softmax_weights(torch.special.entr(F.softmax(logits, dim=2)).sum(dim=2), valid)


def cross_entropy_weights(logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """More for whoever is nearer to the truth of a row: (1 − exp L_k / Σ_j exp L_j) / (K − 1), L the cross-entropy.

    That is CA-MKD of Zhang, Chen & Wang, *Confidence-Aware Multi-Teacher Knowledge Distillation* (ICASSP 2022,
    https://arxiv.org/abs/2201.00007), over the K teachers that answered the row; one alone has the whole weight. With
    two teachers it is their likelihoods' shares; with more, none gets above 1 / (K − 1). ``target`` is class numbers
    ``[rows]`` (−100: no label) or probabilities ``[rows, classes]`` (all zero: no label); without a label all weigh
    alike.

    >>> rows = torch.tensor([[[0.0, 0.0]], [[1.0986123, 0.0]]])  # the truth has 1/2 and 3/4
    >>> cross_entropy_weights(rows, torch.tensor([0]), torch.ones(2, 1, dtype=torch.bool)).T
    tensor([[0.4000, 0.6000]])
    """
    log_p = F.log_softmax(logits, dim=2)
    if target.ndim == 2:
        target_probabilities = target.to(logits)
    else:
        is_labeled = target >= 0
        target_probabilities = F.one_hot(target.where(is_labeled, 0), logits.shape[2]).to(logits) * is_labeled[:, None]
    # Nothing wanted of an impossible class (logit −inf) costs 0, not 0 · inf.
    loss = -(target_probabilities * log_p.masked_fill((target_probabilities == 0).expand_as(log_p), 0.0)).sum(dim=2)
    return _inverse_softmax_weights(loss.clamp(max=torch.finfo(logits.dtype).max), valid)


def first_valid_weights(order: Tensor, valid: Tensor) -> Tensor:
    """The whole weight for the first in ``order`` (``[teachers]`` places) that answered the row.

    >>> first_valid_weights(torch.tensor([1, 0]), torch.tensor([[True, True], [True, False]]))
    tensor([[0., 1.],
            [1., 0.]])
    """
    first = valid[order].long().argmax(dim=0)
    weight = torch.zeros(valid.shape, device=valid.device)
    return weight.scatter(0, order[first][None], 1.0) * valid


def average_logits(logits: Tensor, weight: Tensor) -> Tensor:
    """The weighted mean of logits, ``[rows, classes]``: a geometric mean of the teachers' distributions."""
    # Who has no weight says nothing: not 0 · −inf for a class that is impossible to it.
    return (logits * weight.unsqueeze(2)).masked_fill((weight == 0).unsqueeze(2), 0.0).sum(dim=0)


def average_probabilities(logits: Tensor, weight: Tensor, *, temperature: float = 1.0) -> Tensor:
    """``temperature`` · the logarithm of the weighted mean of probabilities at temperature ``temperature``, ``[rows, classes]``.

    A term that softens it by the same ``temperature`` meets exactly the mean of the softened answers.

    >>> average_probabilities(torch.tensor([[[1.0986123, 0.0]], [[0.0, 0.0]]]), torch.full((2, 1), 0.5)).exp()
    tensor([[0.6250, 0.3750]])
    """
    is_zero = weight == 0
    # Not log(0): its gradient would be NaN where the weights are learned.
    log_weight = weight.masked_fill(is_zero, 1.0).log().masked_fill(is_zero, -torch.inf)
    return temperature * torch.logsumexp(F.log_softmax(logits / temperature, dim=2) + log_weight.unsqueeze(2), dim=0)


def _inverse_softmax_weights(loss: Tensor, valid: Tensor) -> Tensor:
    """(1 − softmax over teachers of ``loss``) / (K − 1), over the K that answered."""
    num_valid = valid.sum(dim=0)
    fraction = F.softmax(loss.masked_fill(~valid, -torch.inf), dim=0)
    weight = ((1 - fraction) / (num_valid - 1).clamp(min=1)).where(num_valid > 1, 1.0)
    return weight.masked_fill(~valid, 0.0)
