"""The metrics of sentence embeddings over a split, with what the report shows: a map and the nearest texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, final

import torch
from torch import Tensor

from limbeck.core.metric_spec import MetricSpec
from limbeck.evaluation.embedding_map import embedding_map
from limbeck.tasks.text.retrieval import Ranking, Relevant, Texts, rank_texts, retrieval_values, unpack_statistics

__all__ = ["MAP", "METRICS", "NEAREST", "R1", "RetrievalMetrics"]

R1: Final = MetricSpec(
    name="r1", label="R@1", phrase="R@1",
    description="How often the nearest of k random texts is relevant, with k the setting `candidates` (1,000).",
)  # fmt: skip
NEAREST: Final = MetricSpec(
    name="nearest", label="R@1, all texts", phrase="R@1 among all texts",
    description="Fraction of texts of which the nearest other text in the split is relevant.",
)  # fmt: skip
MAP: Final = MetricSpec(
    name="map", label="Mean average precision", phrase="mean average precision",
    description="Mean over texts of the average precision of all other texts in the split, ranked by cosine.",
)  # fmt: skip
METRICS: Final = (R1, NEAREST, MAP)

_NUM_SHOWN: Final = 8
_MAX_CHARACTERS: Final = 120


@final
class RetrievalMetrics:
    """Retrieval among all texts of a split, and R@1 of the queries of each class.

    Args:
        classes: number of classes.
        relevant: which texts are relevant, see :mod:`limbeck.tasks.text.retrieval`.
        candidates: of R@1.
    """

    def __init__(self, classes: int, relevant: Relevant, candidates: int) -> None:
        self._classes, self._relevant, self._candidates = classes, relevant, candidates
        self._statistics, self._texts = list[Tensor](), list[str]()

    def update(self, statistics: Tensor, texts: Sequence[str]) -> None:
        """Add the statistics ``[batch, k]`` of texts with a target, and the texts themselves, or none."""
        self._statistics.append(statistics)
        self._texts += texts

    def compute(self) -> Mapping[str, Any]:
        """The metrics by name, with ``embedding_map`` and, where the texts are known, ``neighbors``."""
        texts = unpack_statistics(torch.cat(self._statistics))
        values = retrieval_values(texts, relevant=self._relevant, candidates=self._candidates)[0]
        ranking = rank_texts(texts, relevant=self._relevant)
        members = [texts.classes == index for index in range(self._classes)]
        details: dict[str, Any] = {
            "embedding_map": embedding_map(texts.embedding, texts.classes, sample_ids=texts.sample_ids)
        }
        if len(self._texts) == len(values):
            details["neighbors"] = _list_neighbors(texts, ranking, self._texts)
        return {
            "r1": float(values.nanmean()),
            "nearest": float(ranking.nearest.nanmean()),
            "map": float(ranking.average_precision.nanmean()),
            "per_class": [float(values[member].nanmean()) for member in members],
            "class_num_samples": [int(member.sum()) for member in members],
            **details,
        }


def _list_neighbors(texts: Texts, ranking: Ranking, names: Sequence[str]) -> list[dict[str, Any]]:
    """The nearest texts of a few evenly spaced queries that have a relevant text."""
    queries = (~ranking.nearest.isnan()).nonzero()[:, 0]
    count = min(_NUM_SHOWN, len(queries))
    rows = []
    for query in queries[torch.arange(count) * len(queries) // max(count, 1)].tolist():
        neighbors = ranking.neighbors[query].tolist()
        cosines = (texts.embedding[neighbors] @ texts.embedding[query]).tolist()
        rows.append(
            {
                "sample_id": int(texts.sample_ids[query]), "text": _shorten(names[query]),
                "class": int(texts.classes[query]),
                "neighbors": [
                    {
                        "text": _shorten(names[i]), "class": int(texts.classes[i]), "cosine": round(cosine, 3),
                        "relevant": bool(texts.target[i] == texts.target[query]),
                    }
                    for i, cosine in zip(neighbors, cosines, strict=True)
                ],
            }
        )  # fmt: skip
    return rows


def _shorten(text: str) -> str:
    return text if len(text) <= _MAX_CHARACTERS else text[:_MAX_CHARACTERS] + " …"
