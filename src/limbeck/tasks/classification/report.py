"""Examples of a classifier for the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from limbeck.core.task import Example, Panel, Scores
from limbeck.utils.png import encode_png


def classification_examples(
    pixels: Tensor, target: Tensor | None, sample_ids: Tensor, scores: Mapping[str, Scores], class_names: Sequence[str]
) -> list[Example]:
    """One example for each sample.

    Args:
        pixels: ``[batch, channels, height, width]`` in 0..1, or inputs of another shape, which are not drawn.
        target: ``[batch]`` class indices, −100 for no label, or ``None``.
        sample_ids: ``[batch]``.
        scores: of each network by name.
        class_names: by class index.
    """
    examples = []
    for i, sample_id in enumerate(sample_ids.tolist()):
        label = -100 if target is None else int(target[i])
        examples.append(
            Example(
                sample_id=sample_id,
                input=Panel(image=encode_png(pixels[i])),
                target=Panel(class_names[label] if label >= 0 else "no label"),
                predictions={
                    name: _prediction(score.predictions[i], _confidence(score, i), label, class_names)
                    for name, score in scores.items()
                },
            )
        )
    return examples


def _prediction(predicted: Any, confidence: str, label: int, class_names: Sequence[str]) -> Panel:
    text = f"{class_names[int(predicted)]}{confidence}"
    return Panel(text, correct=int(predicted) == label if label >= 0 else None)


def _confidence(score: Scores, index: int) -> str:
    """The probability of the predicted class; empty without logits."""
    if score.logits is None or not bool(score.logits[index].isfinite().all()):
        return ""
    return f" ({100 * float(score.logits[index].double().softmax(dim=0).max()):.0f} %)"
