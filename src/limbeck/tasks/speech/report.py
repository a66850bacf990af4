"""Examples of recognized speech for the report: spectrogram, target and decoded tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.core.task import Example, Panel, Scores
from limbeck.utils.png import encode_png

_MAX_SIDE = 320
_MEL_HEIGHT, _FRAME_WIDTH = 2, 3


def speech_examples(
    frames: Tensor, lengths: Tensor, targets: Sequence[Sequence[int] | None], sample_ids: Tensor,
    scores: Mapping[str, Scores], token_names: Sequence[str],
) -> list[Example]:  # fmt: skip
    """One example for each sample.

    Args:
        frames: ``[batch, frames, mels]``.
        lengths: ``[batch]``, valid frames.
        targets: tokens of each sample; ``None`` without a target.
        sample_ids: ``[batch]``.
        scores: of each network by name.
        token_names: by token index.
    """

    def spell(tokens: Sequence[int]) -> str:
        return " ".join(token_names[token] for token in tokens) or "(empty)"

    examples = []
    for i, (sample_id, target) in enumerate(zip(sample_ids.tolist(), targets, strict=True)):
        predictions = {
            name: Panel(
                spell(score.predictions[i]), correct=None if target is None else list(score.predictions[i]) == [*target]
            )
            for name, score in scores.items()
        }
        image = encode_png(draw_spectrogram(frames[i, : int(lengths[i])]), max_side=_MAX_SIDE)
        examples.append(
            Example(
                sample_id=sample_id, input=Panel(image=image), predictions=predictions,
                target=Panel("no target" if target is None else spell(target)),
            )
        )  # fmt: skip
    return examples


def draw_spectrogram(frames: Tensor) -> Tensor:
    """``[frames, mels]`` as a gray image ``[1, height, width]`` in 0..1: time to the right, high pitch up, loud dark.

    >>> draw_spectrogram(torch.tensor([[0.0, 1.0]]))[0, ::2, 0]
    tensor([0., 1.])
    """
    image = frames.T.flip(0).float()
    low, high = image.min(), image.max()
    image = 1 - (image - low) / (high - low).clamp(min=1e-6)
    return F.interpolate(image[None, None], scale_factor=(_MEL_HEIGHT, _FRAME_WIDTH), mode="nearest")[0].to(torch.float)
