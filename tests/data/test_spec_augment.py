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


def expected_frames(frames, length, draws, *, n_time_masks, time_mask_param, p, n_freq_masks, freq_mask_param):
    frames, mean = frames.copy(), frames[:length].mean()
    mels, draws = frames.shape[1], draws.reshape(-1, 2)
    for index, (size, start) in enumerate(draws):
        if index < n_time_masks:
            span = int(size * (min(int(p * length), time_mask_param) + 1))
            first = int(start * (length - span + 1))
            frames[first : first + span] = mean
        else:
            span = int(size * (min(freq_mask_param, mels) + 1))
            first = int(start * (mels - span + 1))
            frames[:length, first : first + span] = mean
    return frames


@pytest.mark.parametrize("freq_mask_param", [5, 40])
def test_spans_and_their_value(batch, freq_mask_param):
    inputs, lengths = batch
    settings = {
        "n_time_masks": 2,
        "time_mask_param": 9,
        "p": 0.4,
        "n_freq_masks": 2,
        "freq_mask_param": freq_mask_param,
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
    single = augmentation.apply_to_sequences(inputs[1:2, :17], lengths[1:2], ids[1:2], views[1:2], seed=1)
    torch.testing.assert_close(together[1:2, :17], single)
    assert not torch.equal(together, inputs)


def test_padding_of_any_value_changes_nothing(batch):
    inputs, lengths = batch
    padded = inputs.clone()
    padded[1, 17:], padded[2, 1:] = torch.nan, torch.inf
    transform = spec_augment()
    masked, other = (transform.transform_sequences(frames, lengths, rng()) for frames in (inputs, padded))
    for row, length in enumerate(lengths.tolist()):
        assert torch.equal(masked[row, :length], other[row, :length])


def test_what_cannot_work_is_refused(batch):
    _, lengths = batch
    with pytest.raises(LimbeckError, match="p at most 1, got"):
        spec_augment(p=2)
    with pytest.raises(LimbeckError, match=r"frames \[batch, frames, mels\], got torch.int64 \[3, 5\]"):
        spec_augment().transform_sequences(torch.zeros(3, 5, dtype=torch.long), lengths, rng())
    with pytest.raises(LimbeckError, match="the samples are sequences"):
        Augmentation((horizontal_flip(),)).require_sequences()
