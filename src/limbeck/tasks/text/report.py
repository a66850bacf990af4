"""Examples of text classification for the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from limbeck.core.task import Example, Panel, Scores

_MAX_CHARACTERS = 500


def text_examples(
    texts: Sequence[str], target: Tensor | None, sample_ids: Tensor, scores: Mapping[str, Scores],
    class_names: Sequence[str],
) -> list[Example]:  # fmt: skip
    """One example for each text.

    Args:
        texts: of the batch.
        target: ``[batch]`` class indices, below 0 for no target, or ``None``.
        sample_ids: ``[batch]``.
        scores: of each network by name.
        class_names: by class index.
    """
    examples = []
    for i, (text, sample_id) in enumerate(zip(texts, sample_ids.tolist(), strict=True)):
        label = -1 if target is None else int(target[i])
        predictions = {
            name: Panel(
                class_names[score.predictions[i]], correct=None if label < 0 else int(score.predictions[i]) == label
            )
            for name, score in scores.items()
        }
        shown = text if len(text) <= _MAX_CHARACTERS else text[:_MAX_CHARACTERS] + " …"
        examples.append(
            Example(
                sample_id=sample_id,
                input=Panel(shown),
                target=Panel(class_names[label] if label >= 0 else "no label"),
                predictions=predictions,
            )
        )
    return examples
