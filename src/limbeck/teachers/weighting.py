"""How much each of several teachers counts for each row, and what they say together by these weights.

Everywhere ``rows`` are logits ``[teachers, rows, classes]``, ``here`` says who answered, ``[teachers, rows]`` booleans,
and a weight is ``[teachers, rows]``: zero for who did not answer, and 1 in sum over those who did. A row that nobody
answered has no weight at all. What stands in the row of somebody who did not answer has to be finite.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["by_cross_entropy", "by_draw", "by_entropy", "by_share", "pooled_logits", "pooled_probabilities"]


def by_share(shares: Tensor, here: Tensor) -> Tensor:
    """Each teacher's share, the same for every row, among those who answered it; ``shares`` ``[teachers]`` above zero.

    >>> by_share(torch.tensor([3.0, 1.0]), torch.tensor([[True, False], [True, True]]))
    tensor([[0.7500, 0.0000],
            [0.2500, 1.0000]])
    """
    weight = shares[:, None] * here
    return weight / weight.sum(dim=0).clamp(min=torch.finfo(shares.dtype).tiny)


def by_entropy(rows: Tensor, here: Tensor) -> Tensor:
    """More for whoever is surer of a row: the weights of :func:`by_cross_entropy`, by the entropy of each answer.

    It needs no label. Entropy as the measure is that of Kwon et al., *Adaptive Knowledge Distillation Based on
    Entropy* (ICASSP 2020, https://doi.org/10.1109/ICASSP40776.2020.9054698). A teacher that is sure and wrong counts
    most.

    >>> even, sure = torch.tensor([[0.0, 0.0]]), torch.tensor([[9.0, -9.0]])
    >>> by_entropy(torch.stack([even, sure]), torch.ones(2, 1, dtype=torch.bool)).T
    tensor([[0.3333, 0.6667]])
    """
    return _less_to_doubt(torch.special.entr(F.softmax(rows, dim=2)).sum(dim=2), here)


def by_cross_entropy(rows: Tensor, target: Tensor, here: Tensor) -> Tensor:
    """More for whoever is nearer to the truth of a row: (1 − exp L_k / Σ_j exp L_j) / (K − 1), L the cross-entropy.

    That is CA-MKD of Zhang, Chen & Wang, *Confidence-Aware Multi-Teacher Knowledge Distillation* (ICASSP 2022,
    https://arxiv.org/abs/2201.00007), over the K teachers that answered the row; one alone has the whole weight. With
    two teachers it is their likelihoods' shares; with more, none gets above 1 / (K − 1). ``target`` is class numbers
    ``[rows]`` (−100: no label) or probabilities ``[rows, classes]`` (all zero: no label); without a label all weigh
    alike.

    >>> rows = torch.tensor([[[0.0, 0.0]], [[1.0986123, 0.0]]])  # the truth has 1/2 and 3/4
    >>> by_cross_entropy(rows, torch.tensor([0]), torch.ones(2, 1, dtype=torch.bool)).T
    tensor([[0.4000, 0.6000]])
    """
    log_p = F.log_softmax(rows, dim=2)
    if target.ndim == 2:
        wanted = target.to(rows)
    else:
        known = target >= 0
        wanted = F.one_hot(target.where(known, 0), rows.shape[2]).to(rows) * known[:, None]
    # Nothing wanted of an impossible class (logit −inf) costs 0, not 0 · inf.
    doubt = -(wanted * log_p.masked_fill((wanted == 0).expand_as(log_p), 0.0)).sum(dim=2)
    return _less_to_doubt(doubt.clamp(max=torch.finfo(rows.dtype).max), here)


def by_draw(order: Tensor, here: Tensor) -> Tensor:
    """The whole weight for the first in ``order`` (``[teachers]`` places) that answered the row.

    >>> by_draw(torch.tensor([1, 0]), torch.tensor([[True, True], [True, False]]))
    tensor([[0., 1.],
            [1., 0.]])
    """
    first = here[order].long().argmax(dim=0)
    weight = torch.zeros(here.shape, device=here.device)
    return weight.scatter(0, order[first][None], 1.0) * here


def pooled_logits(rows: Tensor, weight: Tensor) -> Tensor:
    """The weighted mean of logits, ``[rows, classes]``: a geometric mean of the teachers' distributions."""
    # Who has no weight says nothing: not 0 · −inf for a class that is impossible to it.
    return (rows * weight.unsqueeze(2)).masked_fill((weight == 0).unsqueeze(2), 0.0).sum(dim=0)


def pooled_probabilities(rows: Tensor, weight: Tensor, *, tau: float = 1.0) -> Tensor:
    """``tau`` · the logarithm of the weighted mean of probabilities at temperature ``tau``, ``[rows, classes]``.

    A term that softens it by the same ``tau`` meets exactly the mean of the softened answers.

    >>> pooled_probabilities(torch.tensor([[[1.0986123, 0.0]], [[0.0, 0.0]]]), torch.full((2, 1), 0.5)).exp()
    tensor([[0.6250, 0.3750]])
    """
    none = weight == 0
    # Not log(0): its gradient would be NaN where the weights are learned.
    log_weight = weight.masked_fill(none, 1.0).log().masked_fill(none, -torch.inf)
    return tau * torch.logsumexp(F.log_softmax(rows / tau, dim=2) + log_weight.unsqueeze(2), dim=0)


def _less_to_doubt(doubt: Tensor, here: Tensor) -> Tensor:
    """(1 − softmax over teachers of ``doubt``) / (K − 1), over the K that answered."""
    many = here.sum(dim=0)
    share = F.softmax(doubt.masked_fill(~here, -torch.inf), dim=0)
    weight = ((1 - share) / (many - 1).clamp(min=1)).where(many > 1, 1.0)
    return weight.masked_fill(~here, 0.0)
