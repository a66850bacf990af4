"""Examples of translations for the report, with the words that differ from the reference marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher

from torch import Tensor

from limbeck.core.task import Example, Panel, Scores

__all__ = ["mark_differences", "translation_examples"]

_MAX_CHARACTERS = 500


def mark_differences(text: str, reference: str) -> str:
    """``text`` with runs of words that are not in the reference, in its order, between brackets; ∅ for missing words.

    >>> mark_differences("a man rides a brown horse", "a woman rides a horse quickly")
    'a [man] rides a [brown] horse [∅]'
    """
    words, expected = text.split(), reference.split()
    parts = list[str]()
    for kind, start, end, _, _ in SequenceMatcher(None, words, expected, autojunk=False).get_opcodes():
        if kind == "equal":
            parts.append(" ".join(words[start:end]))
        else:
            parts.append(f"[{' '.join(words[start:end]) or '∅'}]")
    return " ".join(parts)


def translation_examples(
    sources: Sequence[str], references: Sequence[str | None], pairs: Sequence[str] | None, sample_ids: Tensor,
    scores: Mapping[str, Scores],
) -> list[Example]:  # fmt: skip
    """One example for each sentence.

    Args:
        sources: of the batch.
        references: their translations; ``None`` without one.
        pairs: the language pair of each; ``None``: not shown.
        sample_ids: ``[batch]``.
        scores: of each network by name.
    """
    examples = []
    for i, (source, reference, sample_id) in enumerate(zip(sources, references, sample_ids.tolist(), strict=True)):
        predictions = {}
        for name, score in scores.items():
            text = str(score.predictions[i])
            shown = text if reference is None else mark_differences(text, reference)
            correct = None if reference is None else text == reference
            predictions[name] = Panel(_cut(shown) or "(empty)", correct=correct)
        label = "" if pairs is None else f"{pairs[i]}: "
        examples.append(
            Example(
                sample_id=sample_id, input=Panel(_cut(label + source) or "(empty)"), predictions=predictions,
                target=Panel("no translation" if reference is None else _cut(reference) or "(empty)"),
            )
        )  # fmt: skip
    return examples


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_CHARACTERS else text[:_MAX_CHARACTERS] + " …"
