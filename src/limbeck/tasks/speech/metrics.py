"""Metrics of token sequences: phoneme error rate and the share of clips without an error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, final

import torch
from torch import Tensor

from limbeck.core.metric_spec import MetricSpec
from limbeck.losses._ctc import decode_best_path

PER: Final = MetricSpec(
    name="per", label="Phoneme error rate", phrase="phoneme error rate", higher_is_better=False,
    description="Insertions, deletions and substitutions of all clips by the number of target phonemes; it can exceed "
    "100 %.",
)  # fmt: skip
CTC: Final = MetricSpec(name="ctc_loss", label="CTC loss", unit="nats per token", higher_is_better=False, digits=3)
SEQUENCE_ACCURACY: Final = MetricSpec(
    name="sequence_accuracy", label="Sequences without an error", phrase="sequences without an error"
)
METRICS: Final = (PER, SEQUENCE_ACCURACY)


def edit_distances(predicted: Sequence[Sequence[int]], target: Sequence[Sequence[int]]) -> Tensor:
    """Levenshtein distance of each pair of token sequences, ``[n]`` float64.

    >>> edit_distances([[1, 2, 3], []], [[1, 3], [5]])
    tensor([1., 1.], dtype=torch.float64)
    """
    distances = [_edit_distance(a, b) for a, b in zip(predicted, target, strict=True)]
    return torch.tensor(distances, dtype=torch.float64)


def _edit_distance(first: Sequence[int], second: Sequence[int]) -> int:
    """By dynamic programming, one row at a time (Wagner and Fischer, 1974, https://doi.org/10.1145/321796.321811)."""
    row = list(range(len(second) + 1))
    for i, a in enumerate(first, start=1):
        diagonal, row[0] = row[0], i
        for j, b in enumerate(second, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (a != b))
    return row[-1]


def decode_greedy(logits: Tensor, lengths: Tensor, *, blank: int) -> list[list[int]]:
    """The tokens of the best path of each sample: repeats merged, then blanks removed.

    Args:
        logits: ``[batch, frames, classes]``.
        lengths: ``[batch]``, valid frames.
        blank: index of the blank.

    >>> logits = torch.eye(3)[None, [1, 1, 0, 1, 2]]
    >>> decode_greedy(logits, torch.tensor([5]), blank=0)
    [[1, 1, 2]]
    """
    tokens, counts = decode_best_path(logits, lengths, blank=blank)
    return [row[:count] for row, count in zip(tokens.tolist(), counts.tolist(), strict=True)]


@final
class SequenceMetrics:
    """Phoneme error rate and sequence accuracy over batches."""

    def __init__(self) -> None:
        self._distances, self._lengths = list[Tensor](), list[Tensor]()

    def update(self, distances: Tensor, lengths: Tensor) -> None:
        """Add the edit distances and target lengths of a batch, ``[batch]`` each."""
        self._distances.append(distances)
        self._lengths.append(lengths)

    def compute(self) -> Mapping[str, Any]:
        """The metrics by name, as fractions."""
        distances, lengths = torch.cat(self._distances), torch.cat(self._lengths)
        return {
            "per": float(distances.sum() / lengths.sum()),
            "sequence_accuracy": float((distances == 0).double().mean()),
        }
