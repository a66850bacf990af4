"""Examples of retrieval for the report: the spectrogram of a clip, its text, and the nearest texts by each network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from limbeck.core.task import Example, Panel, Scores
from limbeck.losses._ops import IGNORE_INDEX
from limbeck.utils.png import encode_png
from limbeck.utils.spectrogram import draw_spectrogram

_MAX_SIDE = 320
_MAX_CHARACTERS = 100
_NUM_NEAREST = 3


def alignment_examples(
    batch: Mapping[str, Any], labels: Tensor, texts: Sequence[str], sample_ids: Tensor, scores: Mapping[str, Scores]
) -> list[Example]:
    """One example for each sample.

    Args:
        batch: with ``input`` and ``input_length``.
        labels: ``[batch]``, the text of each pair, −100 for none.
        texts: of each sample.
        sample_ids: ``[batch]``.
        scores: of each network by name, with the embeddings of speech and text as predictions.
    """
    nearest = {name: _rank_texts(score, labels) for name, score in scores.items()}
    examples = []
    for i, sample_id in enumerate(sample_ids.tolist()):
        length, is_pair = int(batch["input_length"][i]), int(labels[i]) != IGNORE_INDEX
        image = encode_png(draw_spectrogram(batch["input"][i, :length]), max_side=_MAX_SIDE) if length else b""
        examples.append(
            Example(
                sample_id=sample_id, input=Panel("" if image else "no speech", image=image),
                target=Panel(_shorten(texts[i]) if is_pair else "no text of this clip"),
                predictions={
                    name: _list_nearest(*ranking, i, labels, texts, is_pair=is_pair)
                    for name, ranking in nearest.items()
                },
            )
        )  # fmt: skip
    return examples


def _rank_texts(score: Scores, labels: Tensor) -> tuple[Tensor, Tensor]:
    """For each clip the samples of the nearest different texts, and their cosines, both ``[batch, nearest]``."""
    speech, text = (torch.stack(side) for side in zip(*score.predictions, strict=True))
    paired = [i for i, label in enumerate(labels.tolist()) if label != IGNORE_INDEX]
    first = torch.tensor(list({int(labels[i]): i for i in reversed(paired)}.values()), dtype=torch.long)
    cosines, order = (speech @ text[first].T).topk(min(_NUM_NEAREST, len(first)), dim=1)
    return first[order], cosines


def _list_nearest(
    samples: Tensor, cosines: Tensor, i: int, labels: Tensor, texts: Sequence[str], *, is_pair: bool
) -> Panel:
    """The nearest texts of sample ``i``, the nearest first."""
    rows = list(zip(samples[i].tolist(), cosines[i].tolist(), strict=True))
    if not rows:
        return Panel("no texts to compare with")
    lines = [f"{rank}. {_shorten(texts[j])} ({cosine:.2f})" for rank, (j, cosine) in enumerate(rows, 1)]
    correct = bool(labels[rows[0][0]] == labels[i]) if is_pair else None
    return Panel(
        f"nearest of the {len(set(labels.tolist()) - {IGNORE_INDEX})} texts shown: " + " · ".join(lines),
        correct=correct,
    )


def _shorten(text: str) -> str:
    text = text or "(empty)"
    return text if len(text) <= _MAX_CHARACTERS else text[:_MAX_CHARACTERS] + " …"
