"""Examples of recognized speech for the report: spectrogram, target, and decoded tokens at their frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from limbeck.core.task import Example, Panel, Scores
from limbeck.utils.png import encode_png
from limbeck.utils.spectrogram import draw_labels, draw_spectrogram

_MAX_SIDE = 320


def speech_examples(
    frames: Tensor, lengths: Tensor, targets: Sequence[Sequence[int] | None], sample_ids: Tensor,
    scores: Mapping[str, Scores], token_names: Sequence[str], *, between: str = " ",
) -> list[Example]:  # fmt: skip
    """One example for each sample.

    Args:
        frames: ``[batch, frames, mels]``.
        lengths: ``[batch]``, valid frames.
        targets: tokens of each sample; ``None`` without a target.
        sample_ids: ``[batch]``.
        scores: of each network by name.
        token_names: by token index.
        between: text between tokens; empty for characters.
    """

    def spell(tokens: Sequence[int]) -> str:
        return between.join(token_names[token] for token in tokens) or "(empty)"

    examples = []
    for i, (sample_id, target) in enumerate(zip(sample_ids.tolist(), targets, strict=True)):
        spectrogram = draw_spectrogram(frames[i, : int(lengths[i])])
        predictions = {}
        for name, score in scores.items():
            decoded = score.predictions[i]
            names = [token_names[token].replace(" ", "␣") for token in decoded]
            positions = [frame / max(1, int(lengths[i])) for frame in decoded.frames]
            aligned = draw_labels(spectrogram, positions, names) if positions else None
            predictions[name] = Panel(
                spell(decoded),
                correct=None if target is None else decoded == [*target],
                image=b"" if aligned is None else encode_png(aligned, max_side=max(aligned.shape)),
            )
        image = encode_png(spectrogram, max_side=_MAX_SIDE)
        examples.append(
            Example(
                sample_id=sample_id, input=Panel(image=image), predictions=predictions,
                target=Panel("no target" if target is None else spell(target)),
            )
        )  # fmt: skip
    return examples
