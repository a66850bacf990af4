"""Streams: batch number n is a pure function of the seed; epochs show all, ranks share, a user's loader loops."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler, TensorDataset

from limbeck.core.errors import LimbeckError
from limbeck.data import Augmentation, Normalization, Split, horizontal_flip, random_crop
from limbeck.data.batch_sampler import BatchSampler
from limbeck.data.loader_adapter import LoaderAdapter
from limbeck.data.split import InMemory


def part(many, first=100):
    inputs = torch.rand(many, 1, 5, 5, generator=torch.Generator().manual_seed(0))
    return Split.from_images(InMemory(inputs), torch.arange(many) % 3, first_id=first)


def shuffled(many=24, *, batch=4, views=Augmentation(), seed=0, **where):
    return BatchSampler(part(many), views, Normalization.none(1), batch_size=batch, seed=seed, **where)


def shown(stream, epoch):
    steps = range(epoch * stream.steps_per_epoch, (epoch + 1) * stream.steps_per_epoch)
    return [number for step in steps for number in stream.batch(step)["sample_id"].tolist()]


@pytest.mark.parametrize(("many", "batch", "steps"), [(24, 4, 6), (24, 24, 1), (24, 1, 24), (26, 4, 6), (7, 4, 1)])
def test_an_epoch_shows_no_sample_twice(many, batch, steps):
    stream = shuffled(many, batch=batch)
    assert stream.steps_per_epoch == steps
    for epoch in (0, 1, 5):
        numbers = shown(stream, epoch)
        assert len(numbers) == len(set(numbers)) == steps * batch
        assert set(numbers) <= set(range(100, 100 + many))


def test_no_sample_is_left_out_for_long():
    stream = shuffled(26, batch=4)
    assert {number for epoch in range(10) for number in shown(stream, epoch)} == set(range(100, 126))


def test_the_order_differs_by_epoch_and_seed():
    orders = [shown(shuffled(seed=seed), epoch) for seed in (0, 1) for epoch in (0, 1, 2)]
    assert len({tuple(order) for order in orders}) == 6


def test_every_sample_stands_at_every_place_equally_often():
    often = torch.zeros(6, 6)
    stream = shuffled(6, batch=6)
    for epoch in range(1200):
        often[torch.arange(6), stream.batch(epoch)["sample_id"] - 100] += 1
    assert ((often - 200) ** 2 / 200).sum() < 25 + 5 * 50**0.5


def test_a_batch_is_a_pure_function_of_its_number():
    views = Augmentation((random_crop(1), horizontal_flip()))
    stream = shuffled(views=views)
    batches = [stream.batch(step) for step in range(18)]
    for step in (17, 0, 3, 12, 12, 5):
        for again in (stream.batch(step), shuffled(views=views).batch(step)):
            assert again.keys() == batches[step].keys()
            assert all(torch.equal(again[key], batches[step][key]) for key in again)


def test_torchs_own_generator_does_not_move_a_batch():
    torch.manual_seed(0)
    before = shuffled(views=Augmentation((horizontal_flip(),))).batch(3)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    after = shuffled(views=Augmentation((horizontal_flip(),))).batch(3)
    assert torch.equal(before["input"], after["input"])
    assert torch.equal(torch.get_rng_state(), state)


def test_a_batch_holds_its_samples_images_labels_numbers_and_views():
    views, whole = Augmentation((random_crop(1),), num_views=2), part(24)
    normalization = Normalization((0.25,), (0.5,))
    stream = BatchSampler(whole, views, normalization, batch_size=5, seed=7)
    batch = stream.batch(9)  # epoch 2, since an epoch has 4 steps
    assert set(batch) == {"input", "target", "sample_id", "view"}
    place = batch["sample_id"] - 100
    assert torch.equal(batch["target"], whole.target[place])
    assert batch["view"].tolist() == [0] * 5
    seen = views.apply(whole.read(place), batch["sample_id"], batch["view"], seed=7)
    torch.testing.assert_close(batch["input"], (seen - 0.25) / 0.5)


@pytest.mark.parametrize(("num_views", "expected"), [(0, [0, 1, 2, 3, 4]), (1, [0] * 5), (3, [0, 1, 2, 0, 1])])
def test_each_epoch_shows_the_next_view(num_views, expected):
    stream = shuffled(8, batch=8, views=Augmentation((horizontal_flip(),), num_views=num_views))
    views = [stream.batch(epoch)["view"].unique().tolist() for epoch in range(5)]
    assert views == [[view] for view in expected]


def test_a_view_that_comes_again_is_the_same_image():
    stream = shuffled(8, batch=8, views=Augmentation((random_crop(2), horizontal_flip()), num_views=2))
    first, second, third = (stream.batch(epoch) for epoch in range(3))
    one, two, three = (batch["input"][batch["sample_id"].argsort()] for batch in (first, second, third))
    assert torch.equal(one, three)
    assert not torch.equal(one, two)


def test_the_view_of_a_sample_does_not_depend_on_the_batch_size_or_who_else_is_trained_on():
    views = Augmentation((random_crop(2), horizontal_flip()), num_views=4)
    whole = part(24)
    some = whole.subset(torch.arange(0, 24, 2))
    one = BatchSampler(whole, views, Normalization.none(1), batch_size=24, seed=0).batch(0)
    other = BatchSampler(some, views, Normalization.none(1), batch_size=12, seed=0).batch(0)
    for number, image in zip(other["sample_id"].tolist(), other["input"], strict=True):
        assert torch.equal(one["input"][one["sample_id"] == number][0], image)


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_the_batch_of_one_process(world):
    one = shuffled(26, batch=4 * world, views=Augmentation((horizontal_flip(),)))
    ranks = [
        shuffled(26, batch=4, views=Augmentation((horizontal_flip(),)), rank=rank, world_size=world)
        for rank in range(world)
    ]
    for step in range(3 * one.steps_per_epoch):
        assert {rank.steps_per_epoch for rank in ranks} == {one.steps_per_epoch}
        together = one.batch(step)
        parts = [rank.batch(step) for rank in ranks]
        for key, value in together.items():
            assert torch.equal(torch.cat([piece[key] for piece in parts]), value)


def test_a_part_smaller_than_a_batch_repeats_evenly_in_the_next_views():
    stream = shuffled(3, batch=8, views=Augmentation((random_crop(2),)))
    assert stream.steps_per_epoch == 1
    seen = set()
    for step in range(4):
        batch = stream.batch(step)
        counts = torch.bincount(batch["sample_id"] - 100, minlength=3)
        assert (counts.min(), counts.max()) == (2, 3)
        pairs = list(zip(batch["sample_id"].tolist(), batch["view"].tolist(), strict=True))
        assert len(set(pairs)) == 8  # never the same view of the same sample twice
        assert seen.isdisjoint(pairs)
        seen |= set(pairs)


def test_ranks_of_a_small_part_show_different_views():
    pairs = []
    for rank in (0, 1):
        batch = shuffled(3, batch=4, views=Augmentation((random_crop(2),)), rank=rank, world_size=2).batch(1)
        pairs += zip(batch["sample_id"].tolist(), batch["view"].tolist(), strict=True)
    assert len(set(pairs)) == 8


def test_an_empty_part_and_an_empty_batch_are_refused():
    with pytest.raises(LimbeckError, match="must have samples, got none"):
        shuffled(0)
    with pytest.raises(LimbeckError, match=r"at least 1 and .*got 0"):
        shuffled(batch=0)


class Steps(Dataset):
    def __init__(self, stream):
        self.stream = stream

    def __getitem__(self, step):
        return self.stream.batch(step)


def test_batches_are_the_same_from_workers():
    stream = shuffled(views=Augmentation((random_crop(1), horizontal_flip())))
    loader = DataLoader(Steps(stream), batch_size=None, sampler=range(2, 11), num_workers=2)
    for step, batch in enumerate(loader, start=2):
        assert all(torch.equal(batch[key], value) for key, value in stream.batch(step).items())


# Looped


class Counted:
    """A loader of three batches that yields the epoch of its iteration."""

    def __init__(self, length=3, given=3):
        self.length, self.given, self.epoch = length, given, -1

    def __len__(self):
        return self.length

    def __iter__(self):
        self.epoch += 1
        return iter([(self.epoch, i) for i in range(self.given)])


def test_a_loader_begins_again_each_epoch():
    stream = LoaderAdapter(Counted())
    assert stream.steps_per_epoch == 3
    assert [stream.batch(step) for step in range(7)] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (2, 0)]


def test_a_resumed_loader_skips_to_its_place():
    stream = LoaderAdapter(Counted())
    assert stream.batch(5) == (0, 2)
    assert stream.batch(6) == (1, 0)
    assert stream.batch(4) == (2, 1)
    assert stream.batch(4) == (3, 1)


def test_a_seeded_loader_goes_on_where_it_was_within_an_epoch():
    def loader():
        numbers = TensorDataset(torch.arange(12))
        return DataLoader(numbers, batch_size=3, shuffle=True, generator=torch.Generator().manual_seed(5))

    whole = LoaderAdapter(loader())
    straight = [whole.batch(step)[0].tolist() for step in range(4)]
    resumed = LoaderAdapter(loader())
    assert [resumed.batch(step)[0].tolist() for step in (2, 3)] == straight[2:]


def test_a_distributed_sampler_gets_set_epoch():
    numbers = TensorDataset(torch.arange(16))
    sampler = DistributedSampler(numbers, num_replicas=2, rank=0, shuffle=True, seed=0)
    stream = LoaderAdapter(DataLoader(numbers, batch_size=4, sampler=sampler))
    epochs = [tuple(n for step in (0, 1) for n in stream.batch(2 * epoch + step)[0].tolist()) for epoch in range(3)]
    assert len(set(epochs)) == 3
    resumed = LoaderAdapter(DataLoader(numbers, batch_size=4, sampler=DistributedSampler(numbers, 2, 0, seed=0)))
    assert tuple(resumed.batch(5)[0].tolist()) == epochs[2][4:]


def test_a_loader_needs_a_length_and_a_batch():
    with pytest.raises(LimbeckError, match="a loader must have a length"):
        LoaderAdapter(iter([1, 2]))
    with pytest.raises(LimbeckError, match="at least 1 batch, got 0"):
        LoaderAdapter([])


def test_a_loader_that_gives_fewer_batches_than_it_says_is_an_error():
    stream = LoaderAdapter(Counted(length=4, given=3))
    for step in range(3):
        stream.batch(step)
    with pytest.raises(LimbeckError, match=r"as many batches as its length \(4\) each time, got only 3"):
        stream.batch(3)


def test_another_order_shows_the_same_views_of_the_same_samples():
    views = Augmentation((random_crop(padding=1), horizontal_flip()), num_views=2)
    one, other = shuffled(views=views, seed=3), shuffled(views=views, seed=3, order_seed=4)
    first, second = one.batch(0), other.batch(0)
    assert first["sample_id"].tolist() != second["sample_id"].tolist()
    assert sorted(shown(one, 0)) == sorted(shown(other, 0))
    assert one.fingerprint() == other.fingerprint()
    assert torch.equal(other.load(torch.arange(4), torch.ones(4).long())["input"],
                       one.load(torch.arange(4), torch.ones(4).long())["input"])  # fmt: skip
    assert shuffled(seed=3, order_seed=3).batch(0)["sample_id"].tolist() == first["sample_id"].tolist()
