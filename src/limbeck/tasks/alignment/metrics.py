"""Retrieval between speech and text: R@1 in both directions.

A query retrieves its partner among k candidates if no other candidate is at least as near. R@1 depends on k, so the
primary metric is its expectation over candidates drawn at random: if the fraction f of all other candidates is at least
as near as the partner, none of k − 1 drawn with replacement is with the probability (1 − f)^(k − 1). That can be
computed of a bootstrap resample too, in which candidates are missing. Candidates with the text of the query are no
others.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, Final, final

import torch
from torch import Tensor

from limbeck.core.metric_spec import MetricSpec
from limbeck.evaluation.embedding_map import embedding_map

R1: Final = MetricSpec(
    name="r1", label="R@1", phrase="R@1",
    description="How often the nearest of k random texts is that of the clip, and the nearest of k random clips that "
    "of the text; the mean of both directions, with k the setting `candidates` (100).",
)  # fmt: skip
MEAN_RANK: Final = MetricSpec(
    name="mean_rank", label="Mean rank", phrase="mean rank", higher_is_better=False,
    description="Fraction of other texts at least as near as that of the clip, and of other clips as that of the text; "
    "the mean of both directions.",
)  # fmt: skip
SPEECH_TO_TEXT: Final = MetricSpec(
    name="speech_to_text_r1", label="R@1, speech to text",
    description="Fraction of clips of which the nearest of all texts in the split is the right one.",
)  # fmt: skip
TEXT_TO_SPEECH: Final = MetricSpec(
    name="text_to_speech_r1", label="R@1, text to speech",
    description="Fraction of texts of which the nearest of all clips in the split has that text.",
)  # fmt: skip
CHRF: Final = MetricSpec(
    name="chrf", label="chrF of the retrieved text", unit="chrF", min_gap=0.5,
    description="Mean F-score (β = 2) of character n-grams up to 6 of the nearest text of each clip, of sacreBLEU.",
)  # fmt: skip
METRICS: Final = (R1, SPEECH_TO_TEXT, TEXT_TO_SPEECH, CHRF, MEAN_RANK)


def outranked_fractions(queries: Tensor, candidates: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """The fraction of other candidates at least as near to each query as its partner, ``[resamples, n]``.

    Args:
        queries: ``[n, width]`` of length 1.
        candidates: ``[n, width]`` of length 1, row by row the partners.
        labels: ``[n]``, the text of each row; rows of one text are no other candidates of each other.
        weights: ``[resamples, n]``, how often each resample holds each row; ``None``: one resample with each row once.

    Returns:
        Zero for a query without other candidates.

    >>> angles = torch.tensor([0.0, 0.1, 1.0])
    >>> points = torch.stack([angles.cos(), angles.sin()], dim=1)
    >>> outranked_fractions(points, points[[0, 2, 1]], torch.arange(3))
    tensor([[0.0000, 1.0000, 0.5000]])
    """
    similarity = queries @ candidates.T
    is_other = labels[:, None] != labels
    is_nearer = is_other & (similarity >= similarity.diagonal()[:, None])
    if weights is None:
        weights = torch.ones(1, len(queries), dtype=queries.dtype)
    counts = (weights @ mask.to(weights.dtype).T for mask in (is_nearer, is_other))
    num_nearer, num_others = counts
    return num_nearer / num_others.clamp(min=1)


def retrieval_values(
    speech: Tensor, text: Tensor, labels: Tensor, weights: Tensor | None = None, *, candidates: int | None
) -> Tensor:
    """R@1 of each row among ``candidates`` random ones, ``[resamples, n]``, the mean of both directions.

    With ``candidates=None`` the fraction of other candidates that are at least as near; see
    :func:`outranked_fractions` for the arguments.
    """
    fractions = (
        outranked_fractions(speech, text, labels, weights),
        outranked_fractions(text, speech, labels, weights),
    )
    if candidates is None:
        return torch.stack(fractions).mean(dim=0)
    return torch.stack([(1 - fraction) ** (candidates - 1) for fraction in fractions]).mean(dim=0)


def nearest_texts(speech: Tensor, text: Tensor, labels: Tensor) -> Tensor:
    """The row of the nearest of the different texts to each clip, ``[n]``; the first row of each text counts."""
    first = _first_rows(labels)
    return first[(speech @ text[first].T).argmax(dim=1)]


@final
class RetrievalMetrics:
    """R@1 among all texts and clips of a split, chrF of the texts that are retrieved, and R@1 by class.

    Args:
        classes: number of classes of clips, such as languages.
        candidates: as in :class:`~limbeck.tasks.SpeechTextAlignment`.
    """

    def __init__(self, classes: int, candidates: int) -> None:
        self._classes, self._candidates = classes, candidates
        self._parts: list[tuple[Tensor, ...]] = []
        self._texts = list[str]()

    def update(self, speech: Tensor, text: Tensor, labels: Tensor, classes: Tensor, texts: Sequence[str]) -> None:
        """Add a batch: embeddings ``[batch, width]`` of length 1, the text and the class of each, and the texts."""
        self._parts.append((speech, text, labels, classes))
        self._texts += texts

    def compute(self) -> Mapping[str, Any]:
        """The metrics by name; ``per_class`` is R@1 among random candidates of the clips of each class."""
        speech, text, labels, classes = (torch.cat(part) for part in zip(*self._parts, strict=True))
        first, nearest = _first_rows(labels), nearest_texts(speech, text, labels)
        nearest_clips = (text[first] @ speech.T).argmax(dim=1)
        values = retrieval_values(speech, text, labels, candidates=self._candidates)[0]
        ranks = retrieval_values(speech, text, labels, candidates=None)[0]
        members = [classes == index for index in range(self._classes)]
        return {
            "r1": float(values.mean()),
            "speech_to_text_r1": float((labels[nearest] == labels).double().mean()),
            "text_to_speech_r1": float((labels[nearest_clips] == labels[first]).double().mean()),
            "chrf": compute_chrf([self._texts[i] for i in nearest.tolist()], self._texts),
            "mean_rank": float(ranks.mean()),
            "per_class": [float(values[member].mean()) for member in members],
            "class_num_samples": [int(member.sum()) for member in members],
            "embedding_map": embedding_map(speech, classes, partners=text),
        }


def compute_chrf(hypotheses: Sequence[str], references: Sequence[str]) -> float | None:
    """Corpus chrF (Popović, 2015, https://aclanthology.org/W15-3049) of sacreBLEU in 0..100; ``None`` without it."""
    try:
        metrics: Any = import_module("sacrebleu.metrics")
    except ImportError:
        warnings.warn(
            "chrF needs sacrebleu, which is not installed, and is left out: pip install sacrebleu", stacklevel=2
        )
        return None
    return float(metrics.CHRF().corpus_score(list(hypotheses), [list(references)]).score)


def _first_rows(labels: Tensor) -> Tensor:
    """The first row of each label, in order."""
    unique, inverse = torch.unique(labels, return_inverse=True)
    rows = torch.arange(len(labels))
    return torch.full((len(unique),), len(labels)).scatter_reduce(0, inverse, rows, "amin").sort().values
