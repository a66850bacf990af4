"""Examples of sentence embeddings for the report: each text with the nearest of the texts shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from limbeck.core.task import Example, Panel, Scores

_MAX_CHARACTERS = 120
_NUM_NEAREST = 3


def embedding_examples(
    texts: Sequence[str], target: Tensor, classes: Tensor, sample_ids: Tensor, scores: Mapping[str, Scores],
    class_names: Sequence[str],
) -> list[Example]:  # fmt: skip
    """One example for each text.

    Args:
        texts: of the batch.
        target: ``[batch]``, texts of one target are relevant to each other; below 0 for no target.
        classes: ``[batch]`` class indices, below 0 for no class.
        sample_ids: ``[batch]``.
        scores: of each network by name, whose predictions are embeddings of length 1.
        class_names: by class index.
    """
    similarities = {name: _similarities(score) for name, score in scores.items()}
    examples = []
    for i, sample_id in enumerate(sample_ids.tolist()):
        label = int(classes[i])
        examples.append(
            Example(
                sample_id=sample_id,
                input=Panel(_shorten(texts[i]) or "(empty)"),
                target=Panel(class_names[label] if label >= 0 else "no target"),
                predictions={
                    name: _list_nearest(similarity[i], i, texts, target, class_names, classes)
                    for name, similarity in similarities.items()
                },
            )
        )
    return examples


def _similarities(score: Scores) -> Tensor:
    rows = torch.stack(list(score.predictions))
    return (rows @ rows.T).fill_diagonal_(-torch.inf)


def _list_nearest(
    similarity: Tensor, i: int, texts: Sequence[str], target: Tensor, class_names: Sequence[str], classes: Tensor
) -> Panel:
    """The nearest of the other texts, the nearest first."""
    if len(texts) < 2:
        return Panel("no other text is shown")
    cosines, order = similarity.topk(min(_NUM_NEAREST, len(texts) - 1))
    lines = []
    for rank, (j, cosine) in enumerate(zip(order.tolist(), cosines.tolist(), strict=True), 1):
        label = f", {class_names[int(classes[j])]}" if int(classes[j]) >= 0 else ""
        lines.append(f"{rank}. {_shorten(texts[j])} ({cosine:.2f}{label})")
    has_relevant = int(target[i]) >= 0 and int((target == target[i]).sum()) > 1
    correct = bool(target[order[0]] == target[i]) if has_relevant else None
    return Panel(f"nearest of the {len(texts) - 1} other texts shown: {' · '.join(lines)}", correct=correct)


def _shorten(text: str) -> str:
    return text if len(text) <= _MAX_CHARACTERS else text[:_MAX_CHARACTERS] + " …"
