"""BatchSampler.load, several views for each read, and the preset of transforms."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from limbeck.core.errors import LimbeckError
from limbeck.data import (
    Augmentation,
    Normalization,
    Split,
    color_jitter,
    cutmix,
    default_augmentation,
    horizontal_flip,
    mixup,
    rand_augment,
    random_crop,
)
from limbeck.data.batch_sampler import BatchSampler
from limbeck.data.split import InMemory

EVERYTHING = (random_crop(1), horizontal_flip(), color_jitter(), rand_augment(), mixup(p=0.6), cutmix())
PIXELS = torch.rand(24, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@dataclass
class Counted:
    """Images that count how often each is read."""

    many: int
    reads: Counter = field(default_factory=Counter)

    def __len__(self):
        return self.many

    def read(self, indices):
        self.reads.update(indices.tolist())
        return PIXELS[indices % len(PIXELS)]

    def fingerprint(self):
        return "counted"

    def is_deterministic(self):
        return True


def part(many=24, images=None):
    return Split.from_images(images or InMemory(PIXELS[:many]), torch.arange(many) % 3, first_id=100)


def stream(whole=None, transforms=EVERYTHING, *, batch=6, seed=2, mean=0.0, **views):
    where = {name: views.pop(name) for name in ("rank", "world_size") if name in views}
    normalization = Normalization((mean,) * 3, (1.0,) * 3)
    return BatchSampler(
        whole or part(),
        Augmentation(transforms, **views),
        normalization,
        batch_size=batch,
        seed=seed,
        classes=3,
        **where,
    )


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


class Steps(Dataset):
    def __init__(self, shown):
        self.shown = shown

    def __getitem__(self, step):
        return self.shown.batch(step)


# Show


@pytest.mark.parametrize("settings", [{}, {"num_views": 4}, {"num_views": 4, "repeats": 2}])
def test_a_batch_is_what_show_shows(settings):
    shown = stream(**settings)
    for step in (0, 3, 9):
        batch = shown.batch(step)
        assert same(stream(**settings).load(batch["sample_id"] - 100, batch["view"]), batch)


@pytest.mark.parametrize("settings", [{}, {"num_views": 4, "repeats": 2}])
@pytest.mark.parametrize("workers", [0, 2])
def test_images_are_the_same_from_workers_and_after_a_resume(settings, workers):
    loader = DataLoader(Steps(stream(**settings)), batch_size=None, sampler=range(5, 9), num_workers=workers)
    for step, batch in enumerate(loader, start=5):
        assert same(batch, stream(**settings).batch(step))


def test_images_are_the_same_in_any_order_batch_size_and_rank():
    seen = {}
    for settings in ({"batch": 24}, {"batch": 6}, {"batch": 4, "rank": 1, "world_size": 3}, {"batch": 8, "repeats": 4}):
        shown = stream(**settings)
        for step in reversed(range(4 * shown.steps_per_epoch)):
            batch = shown.batch(step)
            keys = zip(batch["sample_id"].tolist(), batch["view"].tolist(), strict=True)
            for key, *now in zip(keys, batch["input"], batch["target"], strict=True):
                torch.testing.assert_close(now, seen.setdefault(key, now), rtol=0, atol=0)
    assert len(seen) == 96  # 24 samples in 4 views: all of them were met again


def test_loading_leaves_every_global_generator_unchanged():
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = stream().batch(1)
    assert torch.equal(torch.get_rng_state(), before)
    assert (random.random(), np.random.rand()) == (0.8444218515250481, 0.5488135039273248)
    torch.manual_seed(99)
    assert same(stream().batch(1), first)


def test_a_stream_tells_its_part_and_how_many_views_there_are():
    assert stream().num_views == 0
    assert stream(num_views=4).num_views == 4
    bare = stream(transforms=(), num_views=4)
    assert bare.num_views == 1
    assert {int(view) for step in range(12) for view in bare.batch(step)["view"]} == {0}
    assert len(stream().split) == 24


# Several views for each read


def test_repeats_reads_each_sample_of_a_batch_once():
    images = Counted(24)
    shown = stream(part(24, images), EVERYTHING[:4], batch=12, repeats=4)
    batch = shown.batch(0)
    assert len(images.reads) == 3
    assert set(images.reads.values()) == {1}
    assert batch["sample_id"].tolist() == [int(number) for number in batch["sample_id"][::4] for _ in range(4)]
    assert batch["view"].tolist() == [0, 1, 2, 3] * 3
    images.reads.clear()
    for step in range(1, 1 + 4 * shown.steps_per_epoch):
        shown.batch(step)
    assert sum(images.reads.values()) == 24  # a round shows 96 views


def test_show_reads_what_it_is_asked_for_several_times_once():
    images = Counted(24)
    which, view = torch.tensor([5, 9, 5, 5, 9]), torch.arange(5)
    together = stream(part(24, images), EVERYTHING[:4]).load(which, view)
    assert images.reads == {5: 1, 9: 1}
    assert same(together, stream(transforms=EVERYTHING[:4]).load(which, view))


def test_mixing_reads_a_partner_for_each_view():
    images = Counted(24)
    stream(part(24, images), (horizontal_flip(), mixup()), batch=12, repeats=4).batch(0)
    assert 3 < sum(images.reads.values()) <= 3 + 12


@pytest.mark.parametrize(("many", "batch", "num_views"), [(24, 6, 0), (26, 8, 6), (24, 24, 4)])
def test_a_round_shows_each_sample_in_its_next_views(many, batch, num_views):
    whole = Split.from_images(InMemory(PIXELS[torch.arange(many) % 24]), torch.arange(many) % 3, first_id=100)
    shown = stream(whole, EVERYTHING[:2], batch=batch, repeats=2, num_views=num_views)
    assert shown.steps_per_epoch == many // batch  # as without repeats
    for round_ in range(4):
        pairs = Counter()
        for step in range(round_ * 2 * shown.steps_per_epoch, (round_ + 1) * 2 * shown.steps_per_epoch):
            now = shown.batch(step)
            pairs.update(zip(now["sample_id"].tolist(), now["view"].tolist(), strict=True))
        views = [2 * round_, 2 * round_ + 1]
        assert {view for _, view in pairs} == {view % num_views if num_views else view for view in views}
        assert set(pairs.values()) == {1}
        assert len(pairs) == 2 * len({number for number, _ in pairs}) == 2 * (many // batch) * batch


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("many", [24, 5])
def test_ranks_share_the_batch_of_one_process_with_several_views(many, world):
    settings = {"transforms": EVERYTHING[:2], "repeats": 2}
    one = stream(part(many), batch=4 * world, **settings)
    ranks = [stream(part(many), batch=4, rank=rank, world_size=world, **settings) for rank in range(world)]
    for step in range(5 * one.steps_per_epoch):
        pieces = [rank.batch(step) for rank in ranks]
        for key, value in one.batch(step).items():
            assert torch.equal(torch.cat([piece[key] for piece in pieces]), value)


def test_a_part_smaller_than_a_batch_repeats_in_the_next_views():
    shown = stream(part(3), EVERYTHING[:2], batch=8, repeats=2)
    assert shown.steps_per_epoch == 1
    pairs = [
        pair
        for step in range(6)
        for pair in zip(*(shown.batch(step)[key].tolist() for key in ("sample_id", "view")), strict=True)
    ]
    assert len(set(pairs)) == len(pairs) == 48  # never the same view of the same sample twice
    counts = Counter(number for number, _ in pairs)
    assert max(counts.values()) - min(counts.values()) <= 2 * 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Augmentation((horizontal_flip(),), repeats=0), "from 1 to 1,000,000, got 0"),
        (lambda: Augmentation((), repeats=2), "repeats must be 1 without transforms, got 2: add transforms"),
        (lambda: Augmentation((horizontal_flip(),), num_views=6, repeats=4), r"a multiple of repeats \(4\), got 6"),
        (lambda: Augmentation((horizontal_flip(),), num_views=1, repeats=2), r"a multiple of repeats \(2\), got 1"),
        (lambda: stream(batch=6, repeats=4), r"batch_size must be .* a multiple of repeats \(4\), got 6"),
    ],
)  # fmt: skip
def test_what_does_not_come_out_even_is_one_sentence(make, message):
    with pytest.raises(LimbeckError, match=message):
        make()


# The preset


def test_composite_is_crop_jitter_and_mixup():
    assert default_augmentation() == Augmentation((random_crop(4), color_jitter(0.4, 0.4, 0.4, 0.1), mixup(0.2)))
    assert default_augmentation(2, 0.2, 1.0, flip=0.5, num_views=8, repeats=4) == Augmentation(
        (random_crop(2), horizontal_flip(0.5), color_jitter(0.2, 0.2, 0.2, 0.05), mixup(1.0)), num_views=8, repeats=4
    )
    assert default_augmentation(crop=0, jitter=0, mixup=0) == Augmentation()


@pytest.mark.parametrize(
    "settings", [{"crop": -1}, {"jitter": -0.1}, {"mixup": -1.0}, {"flip": 2.0}, {"num_views": -1}]
)
def test_composite_refuses_what_its_parts_refuse(settings):
    with pytest.raises(LimbeckError, match=r"must be .*got"):
        default_augmentation(**settings)
