"""Pairs of one class, and halves that come again: pure functions of seed and step."""

import numpy as np
import pytest
import torch

from limbeck.core.errors import LimbeckError
from limbeck.data import Augmentation, Digits, affine, from_loaders
from limbeck.data.batch_sampler import BatchSampler
from limbeck.data.pair_batches import RepeatPrevious, SameClassPairs, pair_batches
from limbeck.data.split import InMemory, Split


def half(*, batch=8, seed=3, views=Augmentation((affine(),)), **settings):
    data = Digits(num_samples=100, augment=views, **settings).load(seed=1)
    return BatchSampler(data.train, views, data.normalization, batch_size=batch, seed=seed, classes=10)


def test_every_row_has_a_partner_of_its_class_that_is_another_sample():
    stream = SameClassPairs(half())
    for step in range(20):
        batch = stream.batch(step)
        assert len(batch["target"]) == 16
        assert torch.equal(batch["target"][:8], batch["target"][8:])
        assert not (batch["sample_id"][:8] == batch["sample_id"][8:]).any()


def test_partners_are_drawn_evenly():
    stream = SameClassPairs(half())
    sample = int(stream.batch(0)["sample_id"][0])
    label = int(stream.batch(0)["target"][0])
    others = set(stream.split.sample_ids[stream.split.target == label].tolist()) - {sample}
    seen = dict.fromkeys(others, 0)
    for step in range(400):
        batch = stream.batch(step)
        for first, partner in zip(batch["sample_id"][:8].tolist(), batch["sample_id"][8:].tolist(), strict=True):
            if first == sample:
                seen[partner] += 1
    counts = np.array(list(seen.values()))
    expected = counts.sum() / len(others)
    # Chi-squared with as many degrees of freedom as there are others, less one: within five deviations of its mean.
    free = len(others) - 1
    assert abs(((counts - expected) ** 2 / expected).sum() - free) < 5 * np.sqrt(2 * free)


def test_a_sample_without_classmates_or_label_is_paired_with_itself():
    part = Split.from_images(InMemory(torch.rand(5, 1, 4, 4)), torch.tensor([0, 0, 1, -100, -100]))
    data = Digits(num_samples=40).load()
    batch = SameClassPairs(BatchSampler(part, Augmentation(), data.normalization, batch_size=5, seed=0)).batch(0)
    partner = dict(zip(batch["sample_id"][:5].tolist(), batch["sample_id"][5:].tolist(), strict=True))
    assert partner == {0: 1, 1: 0, 2: 2, 3: 3, 4: 4}


def test_the_first_half_is_the_second_half_of_the_batch_before_in_another_view():
    stream = RepeatPrevious(half())
    before = stream.batch(0)
    assert len(before["sample_id"]) == 8
    for step in range(1, 30):
        batch = stream.batch(step)
        assert torch.equal(batch["sample_id"][:8], before["sample_id"][-8:])
        assert torch.equal(batch["target"][:8], before["target"][-8:])
        assert not (batch["view"][:8] == before["view"][-8:]).any()
        before = batch


def test_no_view_of_a_sample_is_shown_twice_where_each_is_made_anew():
    stream, seen = RepeatPrevious(half()), set()
    for step in range(40):
        batch = stream.batch(step)
        shown = set(zip(batch["sample_id"].tolist(), batch["view"].tolist(), strict=True))
        assert not shown & seen
        assert len(shown) == len(batch["sample_id"])
        seen |= shown


def test_numbered_views_come_in_turn():
    stream = RepeatPrevious(half(views=Augmentation((affine(),), num_views=2)))
    assert set(stream.batch(0)["view"].tolist()) == {0}
    assert set(stream.batch(1)["view"][:8].tolist()) == {1}


@pytest.mark.parametrize("kind", [SameClassPairs, RepeatPrevious])
def test_a_batch_depends_on_seed_and_step_only(kind):
    first, again, other = kind(half()), kind(half()), kind(half(seed=4))
    wanted = [first.batch(step) for step in range(6)]
    for step in (5, 0, 3):
        batch = again.batch(step)
        assert all(torch.equal(batch[name], wanted[step][name]) for name in batch)
    assert not torch.equal(other.batch(3)["sample_id"], wanted[3]["sample_id"])


@pytest.mark.parametrize("how", ["same_class", "repeat_previous"])
@pytest.mark.parametrize("batch", [2, 10, 64, 300])
def test_an_epoch_has_as_many_batches_as_without(how, batch):
    whole = half(batch=batch)
    assert pair_batches(half(batch=batch // 2), how).steps_per_epoch == whole.steps_per_epoch


def test_what_cannot_be_sampled_so_is_refused():
    with pytest.raises(LimbeckError, match=r"needs batches of limbeck\.data, got a"):
        pair_batches(from_loaders([1, 2]).batches(batch_size=1), "repeat_previous")
    part = Split.from_images(InMemory(torch.rand(2, 1, 4, 4)), torch.tensor([0, 1]))
    halves = BatchSampler(part, Augmentation(), Digits(num_samples=40).load().normalization, batch_size=2, seed=0)
    with pytest.raises(LimbeckError, match="a class with two labeled samples"):
        SameClassPairs(halves)
