"""Examples of a classifier for the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from limbeck.core.task import Example, Panel, Scores
from limbeck.losses._ops import hard_labels
from limbeck.utils.png import encode_png


def classification_examples(
    pixels: Tensor, target: Tensor | None, sample_ids: Tensor, scores: Mapping[str, Scores], class_names: Sequence[str]
) -> list[Example]:
    """One example for each sample.

    Args:
        pixels: ``[batch, channels, height, width]`` in 0..1, or inputs of another shape, which are not drawn.
        target: ``[batch]`` class indices, −100 for no label; ``[batch, classes]`` fractions, as of mixup; or ``None``.
        sample_ids: ``[batch]``.
        scores: of each network by name.
        class_names: by class index.
    """
    examples, labels = [], None if target is None else hard_labels(target)
    for i, sample_id in enumerate(sample_ids.tolist()):
        label = -100 if labels is None else int(labels[i])
        mixed = None if target is None or target.ndim < 2 else target[i]
        examples.append(
            Example(
                sample_id=sample_id,
                input=Panel(image=encode_png(pixels[i])),
                target=Panel(_describe_target(label, mixed, class_names)),
                predictions={
                    name: _prediction(score.predictions[i], _confidence(score, i), label, class_names)
                    for name, score in scores.items()
                },
            )
        )
    return examples


def _describe_target(label: int, fractions: Tensor | None, class_names: Sequence[str]) -> str:
    """The class, or the classes that are mixed.

    >>> import torch
    >>> _describe_target(0, torch.tensor([0.7, 0.0, 0.3]), ["cat", "cow", "dog"])
    '70 % cat, 30 % dog'
    """
    if label < 0:
        return "no label"
    if fractions is None or int((fractions > 0).sum()) < 2:
        return class_names[label]
    order = fractions.argsort(descending=True, stable=True)[:2].tolist()
    return ", ".join(f"{100 * float(fractions[index]):.0f} % {class_names[index]}" for index in order)


def _prediction(predicted: Any, confidence: str, label: int, class_names: Sequence[str]) -> Panel:
    text = f"{class_names[int(predicted)]}{confidence}"
    return Panel(text, correct=int(predicted) == label if label >= 0 else None)


def _confidence(score: Scores, index: int) -> str:
    """The probability of the predicted class; empty without logits."""
    if score.logits is None or not bool(score.logits[index].isfinite().all()):
        return ""
    return f" ({100 * float(score.logits[index].double().softmax(dim=0).max()):.0f} %)"
