"""Metrics of token sequences: error rates by phoneme, character and word, and the share of clips without an error."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Final, final

import torch
from torch import Tensor

from limbeck.core.metric_spec import MetricSpec
from limbeck.losses._ctc import emitting_frames

PER: Final = MetricSpec(
    name="per", label="Phoneme error rate", phrase="phoneme error rate", higher_is_better=False,
    description="Insertions, deletions and substitutions of all clips by the number of target phonemes; it can exceed "
    "100 %.",
)  # fmt: skip
CER: Final = MetricSpec(
    name="cer", label="Character error rate", phrase="character error rate", higher_is_better=False,
    description="Insertions, deletions and substitutions of all clips by the number of target characters; it can "
    "exceed 100 %.",
)  # fmt: skip
WER: Final = MetricSpec(
    name="wer", label="Word error rate", phrase="word error rate", higher_is_better=False,
    description="Insertions, deletions and substitutions of words of all clips by the number of target words; it can "
    "exceed 100 %.",
)  # fmt: skip
CTC: Final = MetricSpec(name="ctc_loss", label="CTC loss", unit="nats per token", higher_is_better=False, digits=3)
SEQUENCE_ACCURACY: Final = MetricSpec(
    name="sequence_accuracy", label="Sequences without an error", phrase="sequences without an error"
)


def edit_distances(predicted: Sequence[Sequence[Hashable]], target: Sequence[Sequence[Hashable]]) -> Tensor:
    """Levenshtein distance of each pair of sequences of tokens or words, ``[n]`` float64.

    >>> edit_distances([[1, 2, 3], []], [[1, 3], [5]])
    tensor([1., 1.], dtype=torch.float64)
    """
    distances = [_edit_distance(a, b) for a, b in zip(predicted, target, strict=True)]
    return torch.tensor(distances, dtype=torch.float64)


def _edit_distance(first: Sequence[Hashable], second: Sequence[Hashable]) -> int:
    """By dynamic programming, one row at a time (Wagner and Fischer, 1974, https://doi.org/10.1145/321796.321811)."""
    row = list(range(len(second) + 1))
    for i, a in enumerate(first, start=1):
        diagonal, row[0] = row[0], i
        for j, b in enumerate(second, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (a != b))
    return row[-1]


@final
class DecodedTokens(list[int]):
    """The tokens of a clip, with the frame at which each begins; without frames after a beam search."""

    def __init__(self, tokens: Sequence[int], frames: Sequence[int] = ()) -> None:
        super().__init__(tokens)
        self.frames = list(frames)


def decode_greedy(logits: Tensor, lengths: Tensor, *, blank: int) -> list[DecodedTokens]:
    """The tokens of the best path of each sample: repeats merged, then blanks removed.

    Args:
        logits: ``[batch, frames, classes]``.
        lengths: ``[batch]``, valid frames.
        blank: index of the blank.

    >>> logits = torch.eye(3)[None, [1, 1, 0, 1, 2]]
    >>> (decoded,) = decode_greedy(logits, torch.tensor([5]), blank=0)
    >>> decoded, decoded.frames
    ([1, 1, 2], [0, 3, 4])
    """
    path = logits.argmax(dim=2)
    begins = emitting_frames(path, lengths, blank=blank)
    return [
        DecodedTokens(row[is_token].tolist(), is_token.nonzero()[:, 0].tolist())
        for row, is_token in zip(path, begins, strict=True)
    ]


def split_words(tokens: Sequence[int], separator: int) -> list[tuple[int, ...]]:
    """The words between separators; empty ones are left out.

    >>> split_words([3, 4, 1, 1, 5, 1], 1)
    [(3, 4), (5,)]
    """
    words: list[tuple[int, ...]] = []
    start = 0
    for end in (*(i for i, token in enumerate(tokens) if token == separator), len(tokens)):
        if end > start:
            words.append(tuple(tokens[start:end]))
        start = end + 1
    return words


@final
class SequenceMetrics:
    """Error rates by token, and by word where there are words, and sequence accuracy over batches.

    Args:
        token_metric: the error rate by token.
    """

    def __init__(self, token_metric: MetricSpec = PER) -> None:
        self._token_metric, self._counts = token_metric, list[Tensor]()

    def update(self, counts: Tensor) -> None:
        """Add ``[batch, 2]`` errors and target tokens, or ``[batch, 4]`` with errors and target words after them."""
        self._counts.append(counts)

    def compute(self) -> Mapping[str, Any]:
        """The metrics by name, as fractions."""
        counts = torch.cat(self._counts)
        sums = counts.sum(dim=0)
        words = {"wer": float(sums[2] / sums[3])} if len(sums) > 2 else {}
        return {
            self._token_metric.name: float(sums[0] / sums[1]), **words,
            "sequence_accuracy": float((counts[:, 0] == 0).double().mean()),
        }  # fmt: skip
