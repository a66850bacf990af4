"""Pairs of one class, and halves that come again: pure functions of seed and step."""

import numpy as np
import pytest
import torch

from limbeck.core.errors import LimbeckError
from limbeck.data import Digits, Views, affine, loaders
from limbeck.data.batch_sampler import Shuffled
from limbeck.data.pair_batches import Again, Classmates, sampled
from limbeck.data.split import Part, Stored


def half(*, batch=8, seed=3, views=Views((affine(),)), **settings):
    data = Digits(take=100, views=views, **settings).load(seed=1)
    return Shuffled(data.train, views, data.normalization, batch=batch, seed=seed, classes=10)


def test_every_row_has_a_partner_of_its_class_that_is_another_sample():
    stream = Classmates(half())
    for step in range(20):
        batch = stream.batch(step)
        assert len(batch["target"]) == 16
        assert torch.equal(batch["target"][:8], batch["target"][8:])
        assert not (batch["index"][:8] == batch["index"][8:]).any()


def test_partners_are_drawn_evenly():
    stream = Classmates(half())
    sample = int(stream.batch(0)["index"][0])
    label = int(stream.batch(0)["target"][0])
    others = set(stream.part.number[stream.part.target == label].tolist()) - {sample}
    seen = dict.fromkeys(others, 0)
    for step in range(400):
        batch = stream.batch(step)
        for first, partner in zip(batch["index"][:8].tolist(), batch["index"][8:].tolist(), strict=True):
            if first == sample:
                seen[partner] += 1
    counts = np.array(list(seen.values()))
    expected = counts.sum() / len(others)
    # Chi-squared with as many degrees of freedom as there are others, less one: within five deviations of its mean.
    free = len(others) - 1
    assert abs(((counts - expected) ** 2 / expected).sum() - free) < 5 * np.sqrt(2 * free)


def test_a_sample_alone_in_its_class_or_without_one_is_its_own_partner():
    part = Part.whole(Stored(torch.rand(5, 1, 4, 4)), torch.tensor([0, 0, 1, -100, -100]))
    data = Digits(take=40).load()
    batch = Classmates(Shuffled(part, Views(), data.normalization, batch=5, seed=0)).batch(0)
    partner = dict(zip(batch["index"][:5].tolist(), batch["index"][5:].tolist(), strict=True))
    assert partner == {0: 1, 1: 0, 2: 2, 3: 3, 4: 4}


def test_the_first_half_is_the_second_half_of_the_batch_before_in_another_view():
    stream = Again(half())
    before = stream.batch(0)
    assert len(before["index"]) == 8
    for step in range(1, 30):
        batch = stream.batch(step)
        assert torch.equal(batch["index"][:8], before["index"][-8:])
        assert torch.equal(batch["target"][:8], before["target"][-8:])
        assert not (batch["view"][:8] == before["view"][-8:]).any()
        before = batch


def test_no_view_of_a_sample_is_shown_twice_where_each_is_made_anew():
    stream, seen = Again(half()), set()
    for step in range(40):
        batch = stream.batch(step)
        shown = set(zip(batch["index"].tolist(), batch["view"].tolist(), strict=True))
        assert not shown & seen
        assert len(shown) == len(batch["index"])
        seen |= shown


def test_numbered_views_come_in_turn():
    stream = Again(half(views=Views((affine(),), per_sample=2)))
    assert set(stream.batch(0)["view"].tolist()) == {0}
    assert set(stream.batch(1)["view"][:8].tolist()) == {1}


@pytest.mark.parametrize("kind", [Classmates, Again])
def test_a_batch_depends_on_seed_and_step_only(kind):
    first, again, other = kind(half()), kind(half()), kind(half(seed=4))
    wanted = [first.batch(step) for step in range(6)]
    for step in (5, 0, 3):
        batch = again.batch(step)
        assert all(torch.equal(batch[name], wanted[step][name]) for name in batch)
    assert not torch.equal(other.batch(3)["index"], wanted[3]["index"])


@pytest.mark.parametrize("how", ["classmates", "again"])
@pytest.mark.parametrize("batch", [2, 10, 64, 300])
def test_an_epoch_has_as_many_batches_as_without(how, batch):
    whole = half(batch=batch)
    assert sampled(half(batch=batch // 2), how).steps_per_epoch == whole.steps_per_epoch


def test_what_cannot_be_sampled_so_is_refused():
    with pytest.raises(LimbeckError, match="deals out its batches by itself"):
        sampled(loaders([1, 2]).stream(batch=1), "again")
    part = Part.whole(Stored(torch.rand(2, 1, 4, 4)), torch.tensor([0, 1]))
    halves = Shuffled(part, Views(), Digits(take=40).load().normalization, batch=2, seed=0)
    with pytest.raises(LimbeckError, match="a class with two labelled samples"):
        Classmates(halves)
