"""SpecAugment for frames of audio: masks over time and over frequency.

Park et al., Interspeech 2019, https://arxiv.org/abs/1904.08779, without its time warping, from which the paper gains
least.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.data.counter_rng import CounterRNG

__all__ = ["SpecAugment", "spec_augment"]


@final
@dataclass(frozen=True, slots=True)
class SpecAugment:
    """See :func:`spec_augment`."""

    time_masks: int
    max_frames: int
    max_fraction: float
    frequency_masks: int
    max_mels: int

    def transform_sequences(self, inputs: Tensor, lengths: Tensor, rng: CounterRNG) -> Tensor:
        """``inputs`` ``[batch, frames, mels]`` with masked spans; padding is not changed."""
        if inputs.ndim != 3 or not inputs.is_floating_point():
            raise LimbeckError(
                f"spec_augment transforms frames [batch, frames, mels], got {inputs.dtype} {list(inputs.shape)}: "
                "remove it"
            )
        mels = torch.full_like(lengths, inputs.shape[2])
        uniform = rng.uniform(2 * (self.time_masks + self.frequency_masks)).double()
        longest = (self.max_fraction * lengths).long().clamp(max=self.max_frames)
        in_time = _spans(uniform[:, : 2 * self.time_masks], longest, lengths, inputs.shape[1])
        widest = mels.clamp(max=self.max_mels)
        in_frequency = _spans(uniform[:, 2 * self.time_masks :], widest, mels, inputs.shape[2])
        is_valid = (torch.arange(inputs.shape[1]) < lengths[:, None])[:, :, None]
        sums = (inputs * is_valid).sum(dim=(1, 2), keepdim=True)
        means = sums / (lengths * inputs.shape[2]).clamp(min=1)[:, None, None]
        masked = (in_time[:, :, None] | in_frequency[:, None, :]) & is_valid
        return torch.where(masked, means.to(inputs.dtype), inputs)


def _spans(uniform: Tensor, longest: Tensor, sizes: Tensor, num_positions: int) -> Tensor:
    """``[batch, positions]``, true in the spans.

    Of each pair of ``uniform`` ``[batch, 2 × spans]`` the first draws a length of 0 to ``longest`` and the second a
    start such that the span ends within ``sizes``.
    """
    lengths = (uniform[:, 0::2] * (longest[:, None] + 1)).long()
    starts = (uniform[:, 1::2] * (sizes[:, None] - lengths + 1)).long()
    positions = torch.arange(num_positions)
    inside = (positions >= starts[:, :, None]) & (positions < (starts + lengths)[:, :, None])
    return inside.any(dim=1)


def spec_augment(
    time_masks: int = 2, max_frames: int = 10, max_fraction: float = 0.2, frequency_masks: int = 2, max_mels: int = 8
) -> SpecAugment:
    """Mask spans of frames and of mel bands by the mean of the sample, as SpecAugment.

    Park et al., Interspeech 2019, https://arxiv.org/abs/1904.08779, section 2: with T = ``max_frames``, p =
    ``max_fraction``, F = ``max_mels``; time warping is left out.

    Args:
        time_masks: number of time masks.
        max_frames: most frames of a time mask; its length is drawn from 0 to this number.
        max_fraction: most of the valid frames of a sample that one time mask may cover.
        frequency_masks: number of frequency masks.
        max_mels: most mel bands of a frequency mask.

    Raises:
        LimbeckError: a number is negative, or ``max_fraction`` above 1.

    >>> spec_augment(time_masks=1, frequency_masks=0)
    SpecAugment(time_masks=1, max_frames=10, max_fraction=0.2, frequency_masks=0, max_mels=8)
    """
    if min(time_masks, max_frames, frequency_masks, max_mels) < 0 or not 0 <= max_fraction <= 1:
        raise LimbeckError(
            f"numbers of spec_augment must be at least 0 and max_fraction at most 1, got time_masks {time_masks}, "
            f"max_frames {max_frames}, max_fraction {max_fraction}, frequency_masks {frequency_masks}, "
            f"max_mels {max_mels}"
        )
    return SpecAugment(time_masks, max_frames, max_fraction, frequency_masks, max_mels)
