"""Masks of SpecAugment against a computation in NumPy, one sample at a time."""

import numpy as np
import pytest
import torch

from limbeck.core.errors import LimbeckError
from limbeck.data import Augmentation, horizontal_flip, spec_augment
from limbeck.data.counter_rng import CounterRNG


@pytest.fixture
def batch():
    lengths = torch.tensor([30, 17, 1])
    inputs = torch.randn(3, 30, 12, generator=torch.Generator().manual_seed(0))
    return inputs, lengths


def rng():
    return CounterRNG.for_samples(torch.tensor([4, 9, 2]), torch.tensor([0, 3, 1]), seed=5, transform_index=0)


def expected_frames(frames, length, draws, *, time_masks, max_frames, max_fraction, frequency_masks, max_mels):
    frames, mean = frames.copy(), frames[:length].mean()
    mels, draws = frames.shape[1], draws.reshape(-1, 2)
    for index, (size, start) in enumerate(draws):
        if index < time_masks:
            span = int(size * (min(int(max_fraction * length), max_frames) + 1))
            first = int(start * (length - span + 1))
            frames[first : first + span] = mean
        else:
            span = int(size * (min(max_mels, mels) + 1))
            first = int(start * (mels - span + 1))
            frames[:length, first : first + span] = mean
    return frames


@pytest.mark.parametrize("max_mels", [5, 40])
def test_spans_and_their_value(batch, max_mels):
    inputs, lengths = batch
    settings = {
        "time_masks": 2,
        "max_frames": 9,
        "max_fraction": 0.4,
        "frequency_masks": 2,
        "max_mels": max_mels,
    }
    masked = spec_augment(**settings).transform_sequences(inputs, lengths, rng())
    assert masked.dtype == inputs.dtype
    draws = rng().uniform(8).double().numpy()
    for row, length in enumerate(lengths.tolist()):
        expected = expected_frames(inputs[row].double().numpy(), length, draws[row], **settings)
        np.testing.assert_allclose(masked[row].double().numpy(), expected, atol=1e-6)
    assert torch.equal(masked[1, 17:], inputs[1, 17:])


def test_a_sample_has_the_same_masks_in_any_batch(batch):
    inputs, lengths = batch
    augmentation = Augmentation((spec_augment(),))
    ids, views = torch.tensor([4, 9, 2]), torch.tensor([0, 3, 1])
    together = augmentation.apply_to_sequences(inputs, lengths, ids, views, seed=1)
    alone = augmentation.apply_to_sequences(inputs[1:2, :17], lengths[1:2], ids[1:2], views[1:2], seed=1)
    torch.testing.assert_close(together[1:2, :17], alone)
    assert not torch.equal(together, inputs)


def test_what_cannot_work_is_refused(batch):
    _, lengths = batch
    with pytest.raises(LimbeckError, match="max_fraction at most 1, got"):
        spec_augment(max_fraction=2)
    with pytest.raises(LimbeckError, match=r"frames \[batch, frames, mels\], got torch.int64 \[3, 5\]"):
        spec_augment().transform_sequences(torch.zeros(3, 5, dtype=torch.long), lengths, rng())
    with pytest.raises(LimbeckError, match="the samples are sequences"):
        Augmentation((horizontal_flip(),)).require_sequences()
