"""Retrieval of texts by the cosine of their embeddings, also of resamples in which texts are missing or repeated.

R@1 is whether the nearest text is a relevant one. It depends on the number of texts, and a bootstrap resample has only
63 % of the different ones. So the primary metric is its expectation over ``candidates`` k texts drawn at random with
replacement, which fractions of texts determine:

- Relevant are texts of the same class. Let F be the fraction of the other texts that are nearer than a text, which is
  the nearest of k with the probability (1 − F)^k − (1 − F')^k, where F' includes the text. The value of a query is the
  sum over the relevant texts.
- Relevant is the translation. Let f be the fraction of the other texts of its language that are at least as near; the
  translation is nearer than k − 1 of them with the probability (1 − f)^(k − 1). The value of a query is the mean over
  the other languages.

Of texts that are equally near, the irrelevant one counts as nearer. A text is no candidate of its own copies.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError

__all__ = ["Ranking", "Relevant", "Texts", "pack_statistics", "rank_texts", "retrieval_values", "unpack_statistics"]

Relevant = Literal["class", "translation"]
_WIDTHS: Final = (384, 768, 1024)
"""Of usual sentence encoders: narrower embeddings are padded to one, so that networks can be compared."""
_DECIMALS: Final = 9
_HALF_STEP: Final = 0.5 * 10.0**-_DECIMALS
_MAX_ELEMENTS: Final = 4_000_000


class Texts(NamedTuple):
    """Embedded texts.

    Attributes:
        target: ``[n]``, the class or the meaning of each text; texts of one target are relevant to each other.
        classes: ``[n]``, the class of each, such as its language.
        sample_ids: ``[n]``; copies of a text in a resample have the same one.
        embedding: ``[n, width]`` of length 1, float64.
    """

    target: Tensor
    classes: Tensor
    sample_ids: Tensor
    embedding: Tensor


class Ranking(NamedTuple):
    """How well each text retrieves, NaN where no other text is relevant.

    Attributes:
        nearest: ``[n]``, 1 where the nearest of all texts is relevant, of translations the mean over languages.
        average_precision: ``[n]``, likewise.
        neighbors: ``[n, 3]``, the nearest other texts; of translations those of all other languages.
    """

    nearest: Tensor
    average_precision: Tensor
    neighbors: Tensor


def pack_statistics(embedding: Tensor, target: Tensor, classes: Tensor, sample_ids: Tensor) -> Tensor:
    """Target, class, id and normalized embedding of each text, ``[n, 3 + width]`` float64; NaN without a target.

    >>> pack_statistics(torch.tensor([[3.0, 4.0]]), torch.tensor([7]), torch.tensor([1]), torch.tensor([0]))[:, :5]
    tensor([[7.0000, 1.0000, 0.0000, 0.6000, 0.8000]], dtype=torch.float64)
    """
    rows = F.normalize(embedding.detach().cpu().double(), dim=1)
    width = next((width for width in _WIDTHS if width >= rows.shape[1]), rows.shape[1])
    columns = torch.stack([column.cpu().double() for column in (target, classes, sample_ids)], dim=1)
    statistics = torch.cat([columns, F.pad(rows, (0, width - rows.shape[1]))], dim=1)
    return statistics.masked_fill((target.cpu() < 0)[:, None], torch.nan)


def unpack_statistics(statistics: Tensor) -> Texts:
    """The texts of ``[n, k]`` statistics without rows of NaN."""
    columns = statistics.double()
    return Texts(columns[:, 0], columns[:, 1], columns[:, 2], columns[:, 3:])


def retrieval_values(
    texts: Texts, weights: Tensor | None = None, *, relevant: Relevant, candidates: int
) -> Tensor:  # fmt: skip
    """R@1 of each query among ``candidates`` random texts, ``[resamples, n]``; NaN without a relevant text.

    Args:
        texts: each one is a query for the others.
        weights: ``[resamples, n]``, how often each resample holds each text; ``None``: one resample with each once.
        relevant: ``class``, or ``translation``.
        candidates: see the module.

    >>> angles = torch.tensor([0.0, 0.1, 0.3, 1.0], dtype=torch.float64)
    >>> embedding, ids = torch.stack([angles.cos(), angles.sin()], dim=1), torch.arange(4)
    >>> texts = Texts(torch.tensor([0, 0, 1, 1]), ids, ids, embedding)
    >>> retrieval_values(texts, relevant="class", candidates=2)
    tensor([[0.5556, 0.5556, 0.1111, 0.5556]], dtype=torch.float64)
    """
    if weights is None:
        weights = torch.ones(1, len(texts.target), dtype=torch.float64)
    compute = _class_values if relevant == "class" else _translation_values
    return compute(texts, weights.double(), candidates)


def rank_texts(texts: Texts, *, relevant: Relevant) -> Ranking:
    """Rank all texts for each query; see :class:`Ranking`."""
    count = len(texts.target)
    totals, counts = torch.zeros(2, count, dtype=torch.float64), torch.zeros(count, dtype=torch.float64)
    neighbors = torch.zeros(count, min(3, max(count - 1, 0)), dtype=torch.long)
    for queries, similarity in _query_blocks(texts, count):
        is_own = texts.sample_ids[queries, None] == texts.sample_ids
        is_relevant = (texts.target[queries, None] == texts.target) & ~is_own
        is_other = ~is_own
        if relevant == "translation":
            is_other &= texts.classes[queries, None] != texts.classes
        for group in _candidate_groups(texts, queries, is_other, relevant):
            values = _rank_metrics(similarity, is_relevant & group, group)
            is_defined = ~values[0].isnan()
            totals[:, queries] += values.nan_to_num()
            counts[queries] += is_defined
        shown = similarity.masked_fill(~is_other, -torch.inf)
        if neighbors.shape[1]:
            neighbors[queries] = shown.topk(neighbors.shape[1], dim=1).indices
    values = (totals / counts.clamp(min=1)).masked_fill(counts == 0, torch.nan)
    return Ranking(values[0], values[1], neighbors)


def _class_values(texts: Texts, weights: Tensor, candidates: int) -> Tensor:
    count = len(texts.target)
    # The nearest of k texts is among the first n/k with the probability 1 − 1/e, and among these almost certainly.
    depth = min(count, math.ceil(32 * count / candidates) + 8)
    values = torch.full(weights.shape, torch.nan, dtype=torch.float64)
    for queries, similarity in _query_blocks(texts, len(weights) * depth):
        is_own = texts.sample_ids[queries, None] == texts.sample_ids
        is_relevant = (texts.target[queries, None] == texts.target) & ~is_own
        # At equal distance, irrelevant texts are first.
        key = (similarity - _HALF_STEP * is_relevant).masked_fill(is_own, -torch.inf)
        order = key.topk(depth, dim=1).indices
        drawn = weights[:, order] * ~is_own.gather(1, order)
        totals = weights @ (~is_own).double().T
        fraction = drawn.cumsum(dim=2) / totals.clamp(min=torch.finfo(torch.float64).tiny)[:, :, None]
        survival = torch.exp(candidates * torch.log1p(-fraction.clamp(max=1.0)))
        is_nearest = F.pad(survival[:, :, :-1], (1, 0), value=1.0) - survival
        by_query = (is_nearest * is_relevant.gather(1, order)).sum(dim=2)
        has_relevant = weights @ is_relevant.double().T > 0
        values[:, queries] = by_query.masked_fill(~has_relevant, torch.nan)
    return values


def _translation_values(texts: Texts, weights: Tensor, candidates: int) -> Tensor:
    num_resamples, count = weights.shape
    totals, num_languages = torch.zeros(2, num_resamples, count, dtype=torch.float64)
    for language in sorted(set(texts.classes.tolist())):
        columns = (texts.classes == language).nonzero()[:, 0]
        sums, counts = torch.zeros(2, num_resamples, count, dtype=torch.float64)
        for queries, similarity in _query_blocks(texts, len(columns), columns):
            is_same = texts.target[queries, None] == texts.target[columns]
            is_partner = is_same & (texts.classes[queries] != language)[:, None]
            rows, partners = is_partner.nonzero().T
            if not len(rows):
                continue
            is_nearer = (similarity[rows] >= similarity[rows, partners][:, None]) & ~is_same[rows]
            drawn = weights[:, columns]
            num_others = drawn @ (~is_same[rows]).double().T
            fraction = (drawn @ is_nearer.double().T) / num_others.clamp(min=1)
            partner_weights = drawn[:, partners]
            sums.index_add_(1, queries[rows], partner_weights * (1 - fraction) ** (candidates - 1))
            counts.index_add_(1, queries[rows], partner_weights)
        totals += sums / counts.clamp(min=torch.finfo(torch.float64).tiny)
        num_languages += counts > 0
    values: Tensor = (totals / num_languages.clamp(min=1)).masked_fill(num_languages == 0, torch.nan)
    return values


def _query_blocks(texts: Texts, num_elements: int, columns: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """Queries and their rounded cosines to all texts (those in ``columns``), in blocks of bounded memory."""
    candidates = texts.embedding if columns is None else texts.embedding[columns]
    size = max(1, _MAX_ELEMENTS // max(num_elements, len(candidates), 1))
    for queries in torch.split(torch.arange(len(texts.target)), size):
        # Rounded, so that equal embeddings are equally near in any order of the texts.
        yield queries, torch.round(texts.embedding[queries] @ candidates.T, decimals=_DECIMALS)


def _candidate_groups(texts: Texts, queries: Tensor, is_other: Tensor, relevant: Relevant) -> list[Tensor]:
    """The candidates that are ranked together: all others, or those of each language."""
    if relevant == "class":
        return [is_other]
    return [is_other & (texts.classes == language) for language in sorted(set(texts.classes.tolist()))]


def _rank_metrics(similarity: Tensor, is_relevant: Tensor, is_candidate: Tensor) -> Tensor:
    """``[2, queries]``: whether the nearest candidate is relevant, and average precision; NaN without a relevant."""
    key = (similarity - _HALF_STEP * is_relevant).masked_fill(~is_candidate, -torch.inf)
    hits = is_relevant.gather(1, key.argsort(dim=1, descending=True, stable=True)).double()
    counts = hits.sum(dim=1)
    precision = hits.cumsum(dim=1) / torch.arange(1, hits.shape[1] + 1)
    values = torch.stack([hits[:, 0], (precision * hits).sum(dim=1) / counts.clamp(min=1)])
    return values.masked_fill(counts == 0, torch.nan)


def require_candidates(candidates: int) -> None:
    """Raise an error where there are no candidates."""
    if candidates < 2:
        raise LimbeckError(f"candidates must be at least 2, got {candidates}")
