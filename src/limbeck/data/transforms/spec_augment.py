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

    n_time_masks: int
    time_mask_param: int
    n_freq_masks: int
    freq_mask_param: int
    p: float

    def transform_sequences(self, inputs: Tensor, lengths: Tensor, rng: CounterRNG) -> Tensor:
        """``inputs`` ``[batch, frames, mels]`` with masked spans; padding is not changed."""
        if inputs.ndim != 3 or not inputs.is_floating_point():
            raise LimbeckError(
                f"spec_augment transforms frames [batch, frames, mels], got {inputs.dtype} {list(inputs.shape)}: "
                "remove it"
            )
        mels = torch.full_like(lengths, inputs.shape[2])
        uniform = rng.uniform(2 * (self.n_time_masks + self.n_freq_masks)).double()
        longest = (self.p * lengths).long().clamp(max=self.time_mask_param)
        in_time = _sample_spans(uniform[:, : 2 * self.n_time_masks], longest, lengths, inputs.shape[1])
        widest = mels.clamp(max=self.freq_mask_param)
        in_frequency = _sample_spans(uniform[:, 2 * self.n_time_masks :], widest, mels, inputs.shape[2])
        is_valid = (torch.arange(inputs.shape[1]) < lengths[:, None])[:, :, None]
        sums = inputs.masked_fill(~is_valid, 0.0).sum(dim=(1, 2), keepdim=True)
        means = sums / (lengths * inputs.shape[2]).clamp(min=1)[:, None, None]
        masked = (in_time[:, :, None] | in_frequency[:, None, :]) & is_valid
        return torch.where(masked, means.to(inputs.dtype), inputs)


def _sample_spans(uniform: Tensor, longest: Tensor, sizes: Tensor, num_positions: int) -> Tensor:
    """``[batch, positions]`` booleans, true in the spans.

    Of each pair of ``uniform`` ``[batch, 2 × spans]`` the first draws a length of 0 to ``longest`` and the second a
    start such that the span ends within ``sizes``.
    """
    lengths = (uniform[:, 0::2] * (longest[:, None] + 1)).long()
    starts = (uniform[:, 1::2] * (sizes[:, None] - lengths + 1)).long()
    positions = torch.arange(num_positions)
    inside = (positions >= starts[:, :, None]) & (positions < (starts + lengths)[:, :, None])
    return inside.any(dim=1)


def spec_augment(
    n_time_masks: int = 2, time_mask_param: int = 10, n_freq_masks: int = 2, freq_mask_param: int = 8, p: float = 0.2
) -> SpecAugment:
    """Mask spans of frames and of mel bands by the mean of the sample, with the arguments of torchaudio's SpecAugment.

    Park et al., Interspeech 2019, https://arxiv.org/abs/1904.08779, section 2, without time warping.

    Args:
        n_time_masks: number of time masks.
        time_mask_param: T of the paper, the largest number of frames of a time mask; its length is drawn from 0 to T.
        n_freq_masks: number of frequency masks.
        freq_mask_param: F of the paper, the largest number of mel bands of a frequency mask.
        p: the largest fraction of the valid frames of a sample that one time mask covers.

    Raises:
        LimbeckError: a number is negative, or ``p`` above 1.

    >>> spec_augment(n_time_masks=1, n_freq_masks=0)
    SpecAugment(n_time_masks=1, time_mask_param=10, n_freq_masks=0, freq_mask_param=8, p=0.2)
    """
    if min(n_time_masks, time_mask_param, n_freq_masks, freq_mask_param) < 0 or not 0 <= p <= 1:
        raise LimbeckError(
            f"numbers of spec_augment must be at least 0 and p at most 1, got n_time_masks {n_time_masks}, "
            f"time_mask_param {time_mask_param}, n_freq_masks {n_freq_masks}, "
            f"freq_mask_param {freq_mask_param}, p {p}"
        )
    return SpecAugment(n_time_masks, time_mask_param, n_freq_masks, freq_mask_param, p)
