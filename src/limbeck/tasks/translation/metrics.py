"""BLEU and chrF++ of sacreBLEU from statistics by sentence, so that any resample of the sentences has its score.

BLEU (Papineni et al., 2002, https://aclanthology.org/P02-1040) and chrF++ (Popović, 2017,
https://aclanthology.org/W17-4770) are functions of sums over sentences: of matching n-grams and of their numbers.
sacreBLEU (Post, 2018, https://arxiv.org/abs/1804.08771) counts them and defines the settings, its signature.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib import import_module
from typing import Any, Final, final

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.core.metric_spec import MetricSpec

__all__ = [
    "BLEU", "BLEU_COLUMNS", "CHRF", "METRICS", "NLL", "NUM_STATISTICS", "TranslationMetrics", "bleu", "chrf",
    "count_matches", "signatures",
]  # fmt: skip

BLEU: Final = MetricSpec(name="bleu", label="BLEU", unit="BLEU", min_gap=0.5, description="Corpus BLEU of sacreBLEU.")
CHRF: Final = MetricSpec(
    name="chrf", label="chrF++", unit="chrF++", min_gap=0.5,
    description="Mean F-score (β = 2) of character n-grams up to 6 and word n-grams up to 2, of sacreBLEU.",
)  # fmt: skip
NLL: Final = MetricSpec(
    name="nll", label="Negative log-likelihood", unit="nats per token", higher_is_better=False, digits=3
)
METRICS: Final = (BLEU, CHRF, NLL)
BLEU_COLUMNS: Final = 10
"""Length of hypothesis and reference, matching n-grams of 1 to 4 words, and n-grams of the hypothesis."""
_CHAR_ORDER, _WORD_ORDER, _BETA, _NGRAMS = 6, 2, 2, 4
NUM_STATISTICS: Final = BLEU_COLUMNS + 3 * (_CHAR_ORDER + _WORD_ORDER)
_INSTALL: Final = "pip install 'limbeck[translation]'"


@lru_cache(maxsize=8)
def _scorers(tokenize: str) -> tuple[Any, Any]:
    try:
        metrics = import_module("sacrebleu.metrics")
    except ImportError as error:
        raise LimbeckError(f"BLEU needs sacrebleu, which is not installed: {_INSTALL}") from error
    if tokenize not in metrics.BLEU.TOKENIZERS:
        raise LimbeckError(f"tokenize must be one of {', '.join(map(str, metrics.BLEU.TOKENIZERS))}, got {tokenize!r}")
    return metrics.BLEU(tokenize=tokenize, force=True), metrics.CHRF(word_order=_WORD_ORDER)


def count_matches(hypotheses: Sequence[str], references: Sequence[str], *, tokenize: str = "13a") -> Tensor:
    """``[n, 34]`` float64: the statistics of BLEU and chrF++ of each sentence.

    Args:
        hypotheses: translations, detokenized.
        references: of the same sentences.
        tokenize: tokenizer of sacreBLEU for BLEU: ``13a``, ``char``, ``flores200``, …
    """
    if not hypotheses:
        return torch.zeros(0, NUM_STATISTICS, dtype=torch.float64)
    rows = [scorer._extract_corpus_statistics(hypotheses, [references]) for scorer in _scorers(tokenize)]
    return torch.cat([torch.tensor(row, dtype=torch.float64) for row in rows], dim=1)


def signatures(tokenize: str) -> dict[str, str]:
    """The signatures of sacreBLEU, by metric."""
    scorers = _scorers(tokenize)
    for scorer in scorers:
        scorer.num_refs = 1  # set where references are counted
    return {
        f"{spec.name}_signature": str(scorer.get_signature())
        for spec, scorer in zip((BLEU, CHRF), scorers, strict=True)
    }


def bleu(sums: Tensor) -> Tensor:
    """Corpus BLEU in 0..100 from sums ``[..., 10]``, with exponential smoothing, as in sacreBLEU; ``[...]``.

    >>> bleu(torch.tensor([4.0, 4, 4, 3, 2, 1, 4, 3, 2, 1]))
    tensor(100.)
    """
    length, reference_length, correct, total = sums[..., 0], sums[..., 1], sums[..., 2:6], sums[..., 6:10]
    has_ngrams = (total > 0).cumprod(dim=-1).bool()
    is_zero = (correct == 0) & has_ngrams
    # The k-th order without a match has the precision 1 / (2^k · n-grams), an order without n-grams none.
    smoothed = 1 / (2.0 ** is_zero.cumsum(dim=-1) * total.clamp(min=1))
    precisions = torch.where(is_zero, smoothed, correct / total.clamp(min=1))
    log_mean = torch.where(has_ngrams, precisions, 0.0).log().mean(dim=-1)
    log_brevity = (1 - reference_length / length.clamp(min=1e-9)).clamp(max=0.0)
    score = 100 * (log_mean + log_brevity).exp()
    return torch.where((correct.sum(dim=-1) > 0) & (length > 0), score, 0.0)


def chrf(sums: Tensor) -> Tensor:
    """chrF++ in 0..100 from sums ``[..., 24]``: n-grams of hypothesis, of reference, and matches by order; ``[...]``.

    >>> chrf(torch.tensor([4.0, 4, 4] * 8))
    tensor(100.)
    """
    hypothesis, reference, match = sums.reshape(*sums.shape[:-1], -1, 3).unbind(dim=-1)
    is_counted = (hypothesis > 0) & (reference > 0)
    num_orders = is_counted.sum(dim=-1).clamp(min=1)
    precision = torch.where(is_counted, match / hypothesis.clamp(min=1), 0.0).sum(dim=-1) / num_orders
    recall = torch.where(is_counted, match / reference.clamp(min=1), 0.0).sum(dim=-1) / num_orders
    denominator = _BETA**2 * precision + recall
    return torch.where(denominator > 0, 100 * (1 + _BETA**2) * precision * recall / denominator.clamp(min=1e-30), 0.0)


@final
class TranslationMetrics:
    """BLEU, chrF++, likelihood, and the primary metric of each language pair, over batches.

    Args:
        primary: name of the metric by language pair.
        tokenize: see :func:`count_matches`.
        num_pairs: number of language pairs; 0: up to the last that has sentences.
    """

    def __init__(self, primary: str, tokenize: str, *, num_pairs: int = 0) -> None:
        self._primary, self._tokenize, self._num_pairs = primary, tokenize, num_pairs
        self._statistics, self._losses, self._pairs = list[Tensor](), list[Tensor](), list[Tensor]()

    def update(self, statistics: Tensor, losses: Tensor, pairs: Tensor) -> None:
        """Add a batch.

        Args:
            statistics: ``[batch, 34]``, see :func:`count_matches`.
            losses: ``[batch, 2]``, Σ −log p and number of tokens.
            pairs: ``[batch]``, language pairs.
        """
        self._statistics.append(statistics)
        self._losses.append(losses)
        self._pairs.append(pairs)

    def compute(self) -> Mapping[str, Any]:
        """The metrics by name, with the signatures of sacreBLEU."""
        statistics, losses, pairs = (
            torch.cat(self._statistics),
            torch.cat(self._losses).sum(dim=0),
            torch.cat(self._pairs),
        )
        num_pairs = max(self._num_pairs, int(pairs.max()) + 1 if len(pairs) else 0)
        by_pair = [statistics[pairs == pair] for pair in range(num_pairs)]
        value = bleu_of if self._primary == BLEU.name else chrf_of
        return {
            BLEU.name: float(bleu_of(statistics)),
            CHRF.name: float(chrf_of(statistics)),
            NLL.name: float(losses[0] / losses[1].clamp(min=1)),
            "per_class": [float(value(rows)) if len(rows) else float("nan") for rows in by_pair],
            "class_num_samples": [len(rows) for rows in by_pair],
            **signatures(self._tokenize),
        }


def bleu_of(statistics: Tensor) -> Tensor:
    """:func:`bleu` of sentences with these ``statistics`` ``[n, 34]``."""
    return bleu(statistics[:, :BLEU_COLUMNS].sum(dim=0))


def chrf_of(statistics: Tensor) -> Tensor:
    """:func:`chrf` of sentences with these ``statistics`` ``[n, 34]``."""
    return chrf(statistics[:, BLEU_COLUMNS:NUM_STATISTICS].sum(dim=0))
