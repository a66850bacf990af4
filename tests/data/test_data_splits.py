"""Splits: by seed, disjoint, exhaustive, in proportion by class; labels hidden evenly; a test part nothing moves."""

from __future__ import annotations

import pytest
import torch

from limbeck.core.errors import LimbeckError
from limbeck.data import Digits, Split, from_tensors
from limbeck.data.split import UNLABELED, InMemory, hide_labels, stratified_split, stratified_subsample


def part(*counts, seed=0, first=0):
    """A part whose classes have these many members, in a mixed order; a sample's pixel is its number."""
    target = torch.cat([torch.full((many,), label) for label, many in enumerate(counts)])
    target = target[torch.randperm(len(target), generator=torch.Generator().manual_seed(seed))]
    return Split.from_images(InMemory(torch.arange(float(len(target))).reshape(-1, 1)), target, first_id=first)


def numbers(piece):
    return set(piece.sample_ids.tolist())


def counts(piece, classes):
    return torch.bincount(piece.target[piece.target >= 0], minlength=classes).tolist()


@pytest.mark.parametrize("share", [0.01, 0.1, 0.25, 1 / 3, 0.5, 0.9])
def test_a_cut_is_disjoint_exhaustive_and_in_proportion(share):
    whole = part(400, 100, 37, 13)
    left, off = stratified_split(whole, share, seed=3)
    assert len(off) == round(share * 550)
    assert numbers(left).isdisjoint(numbers(off))
    assert numbers(left) | numbers(off) == numbers(whole)
    for had, got in zip((400, 100, 37, 13), counts(off, 4), strict=True):
        assert abs(got - share * had) <= 1


def test_samples_keep_their_image_label_and_number():
    whole = part(20, 10, first=500)
    for piece in stratified_split(stratified_subsample(hide_labels(whole, 12, seed=1), 20, seed=1), 0.4, seed=1):
        assert torch.equal(piece.read(torch.arange(len(piece))).squeeze(1), piece.sample_ids.float() - 500)
        expected = whole.target[piece.sample_ids - 500]
        assert ((piece.target == expected) | (piece.target == UNLABELED)).all()


def test_a_cut_is_by_seed_and_purpose():
    whole = part(100, 100)
    off = numbers(stratified_split(whole, 0.3, seed=0)[1])
    assert off == numbers(stratified_split(whole, 0.3, seed=0)[1])
    assert off != numbers(stratified_split(whole, 0.3, seed=1)[1])
    assert off != numbers(stratified_split(whole, 0.3, seed=0, purpose=9)[1])


def test_a_cut_never_changes():
    # A run resumed with another version must not train on what was its validation part.
    assert sorted(numbers(stratified_split(part(12, 8), 0.25, seed=0)[1])) == [5, 8, 11, 14, 15]


def test_every_sample_is_cut_off_by_some_seed_equally_often():
    whole, often = part(30, 10), torch.zeros(40)
    for seed in range(400):
        often[stratified_split(whole, 0.25, seed=seed)[1].sample_ids] += 1
    assert often.min() > 100 - 5 * 75**0.5
    assert often.max() < 100 + 5 * 75**0.5


@pytest.mark.parametrize("share", [0.0, 1.0, -0.2, 1.5, float("nan")])
def test_a_share_outside_0_to_1_is_refused(share):
    with pytest.raises(LimbeckError, match="a fraction between 0 and 1"):
        stratified_split(part(10), share, seed=0)


@pytest.mark.parametrize("many", [1, 7, 50, 99, 137])
def test_take_takes_exactly_so_many_in_proportion(many):
    whole = part(80, 40, 17)
    taken = stratified_subsample(whole, many, seed=0)
    assert len(taken) == many
    assert numbers(taken) <= numbers(whole)
    for had, got in zip((80, 40, 17), counts(taken, 3), strict=True):
        assert abs(got - many * had / 137) <= 1


@pytest.mark.parametrize("many", [0, -3, 138])
def test_take_refuses_what_there_is_not(many):
    with pytest.raises(LimbeckError, match=f"from 1 to 137, got {many}"):
        stratified_subsample(part(80, 40, 17), many, seed=0)


@pytest.mark.parametrize("many", [3, 30, 31, 32, 51, 97, 137])
def test_labels_are_left_on_exactly_so_many_and_evenly(many):
    whole = part(80, 40, 17)
    hidden = hide_labels(whole, many, seed=0)
    assert torch.equal(hidden.sample_ids, whole.sample_ids)
    assert len(hidden.select_labeled()) == many
    kept = counts(hidden, 3)
    # Evenly: no class is more than one below another, unless it has no member left to label.
    for label, (have, got) in enumerate(zip((80, 40, 17), kept, strict=True)):
        assert got == have or got >= max(kept) - 1, (label, kept)
    assert torch.equal(hidden.target[hidden.target >= 0], whole.target[hidden.target >= 0])


def test_more_labels_keep_the_ones_there_were():
    whole = part(80, 40, 17)
    few, more = (numbers(hide_labels(whole, many, seed=0).select_labeled()) for many in (12, 60))
    assert few < more


def test_labels_that_are_missing_already_count_for_nothing():
    whole = part(50, 50)
    target = whole.target.clone()
    target[::2] = UNLABELED
    some = Split(whole.images, whole.indices, target, whole.sample_ids)
    hidden = hide_labels(some, 12, seed=0)
    assert len(hidden.select_labeled()) == 12
    assert counts(hidden, 2) == [6, 6]
    with pytest.raises(LimbeckError, match=r"from 2 \(one per class\) to 50 training samples, got 51"):
        hide_labels(some, 51, seed=0)


@pytest.mark.parametrize("many", [0, 2, 138, -1])
def test_labels_refuses_fewer_than_one_a_class_and_more_than_there_are(many):
    with pytest.raises(LimbeckError, match=rf"from 3 \(one per class\) to 137 training samples, got {many}"):
        hide_labels(part(80, 40, 17), many, seed=0)


def test_a_part_without_any_label_cannot_keep_one():
    whole = part(5)
    bare = Split(whole.images, whole.indices, torch.full((5,), UNLABELED), whole.sample_ids)
    with pytest.raises(LimbeckError, match="`num_labeled` must be"):
        hide_labels(bare, 0, seed=0)


def test_hiding_labels_does_not_touch_the_part_it_was_given():
    whole = part(10, 10)
    before = whole.target.clone()
    hide_labels(whole, 4, seed=0)
    assert torch.equal(whole.target, before)


# Whole data sets


@pytest.mark.parametrize(
    "settings",
    [
        {"val_split": 0.1},
        {"val_split": 0.5},
        {"num_samples": 300},
        {"num_labeled": 20},
        {"num_samples": 50, "num_labeled": 10},
    ],
)
def test_the_test_part_is_the_same_whatever_else_is_asked_for(settings):
    usual, other = Digits().load(seed=4), Digits(**settings).load(seed=4)
    one, two = (data.test.unlock("a test") for data in (usual, other))
    assert torch.equal(one.sample_ids, two.sample_ids)
    assert torch.equal(one.target, two.target)


@pytest.mark.parametrize("settings", [{"num_samples": 300}, {"num_labeled": 20}])
def test_the_validation_part_does_not_depend_on_what_is_trained_on(settings):
    usual, other = Digits().load(seed=4), Digits(**settings).load(seed=4)
    assert torch.equal(usual.validation.sample_ids, other.validation.sample_ids)
    assert not (other.validation.target == UNLABELED).any()


@pytest.mark.parametrize("seed", [0, 1])
def test_parts_share_no_sample_and_together_are_all(seed):
    data = Digits().load(seed=seed)
    parts = [numbers(piece) for piece in (data.train, data.validation, data.test.unlock("a test"))]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 1797


def test_another_seed_cuts_another_test_part():
    one, two = (numbers(Digits().load(seed=seed).test.unlock("a test")) for seed in (0, 1))
    assert one != two


def test_the_parts_of_digits_never_change():
    # Figures of two versions can be compared only if they were measured on the same test images.
    data = Digits(num_labeled=50).load()
    labelled = data.train.select_labeled().sample_ids
    parts = (data.train.sample_ids, data.validation.sample_ids, data.test.unlock("a test").sample_ids, labelled)
    assert [part[:5].tolist() for part in parts] == [
        [0, 1, 2, 8, 9],
        [3, 4, 5, 6, 7],
        [11, 16, 17, 18, 22],
        [36, 77, 119, 133, 152],
    ]


def test_a_part_that_would_be_empty_is_refused():
    with pytest.raises(LimbeckError, match="the validation split of arrays must have samples"):
        from_tensors(torch.rand(20, 1, 2, 2), torch.arange(20) % 2, val_split=0.01)
    with pytest.raises(LimbeckError, match="the test split of arrays must have samples"):
        from_tensors(torch.rand(20, 1, 2, 2), torch.arange(20) % 2, test_split=0.001)
    with pytest.raises(LimbeckError, match="`num_samples` must be from 1 to 1078, got 5000"):
        Digits(num_samples=5000).load()
    with pytest.raises(LimbeckError, match=r"`num_labeled`.* to 40 training samples, got 50"):
        Digits(num_samples=40, num_labeled=50).load()
