"""CounterRNG: uniform numbers that depend on (seed, sample, view, place) and on nothing else."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from limbeck.data.counter_rng import CounterRNG, derive_seed, make_generator

WORD = 2**64


def splitmix(word: int) -> int:
    """SplitMix64's step in plain integers, as the paper has it."""
    word = (word + 0x9E3779B97F4A7C15) % WORD
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) % WORD
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) % WORD
    return word ^ (word >> 31)


def by_hand(seed: int, sample: int, view: int, place: int, many: int) -> list[float]:
    start = splitmix(splitmix(seed % WORD) ^ place) >> 1
    key = splitmix(splitmix(sample ^ start) ^ view)
    return [(splitmix((key + i * 0x9E3779B97F4A7C15) % WORD) >> 40) / 2**24 for i in range(1, many + 1)]


def draws(sample, view=0, *, seed=0, place=0) -> CounterRNG:
    sample = torch.as_tensor(sample).reshape(-1)
    return CounterRNG.for_samples(sample, torch.as_tensor(view).expand(len(sample)), seed=seed, transform_index=place)


def test_splitmix_here_is_the_published_one():
    # The first outputs of the reference generator for the seed 1234567 (Vigna's test vector).
    assert splitmix(1234567) == 6457827717110365317
    assert splitmix((1234567 + 0x9E3779B97F4A7C15) % WORD) == 3203168211198807973


@pytest.mark.parametrize(("seed", "sample", "view", "place"), [(0, 0, 0, 0), (3, 17, 5, 1), (-1, 10**9, 299, 7)])
def test_numbers_are_those_worked_out_in_plain_integers(seed, sample, view, place):
    numbers = draws([sample], view, seed=seed, place=place).uniform(4)
    assert numbers.dtype == torch.float32
    assert numbers[0].tolist() == by_hand(seed, sample, view, place, 4)


def test_seeds_are_those_worked_out_in_plain_integers():
    key = splitmix(splitmix(17 ^ (splitmix(splitmix(3) ^ 1) >> 1)) ^ 5)
    assert draws([17], 5, seed=3, place=1).seeds() == [splitmix(~key % WORD) >> 1]


def test_numbers_never_change():
    # Cached teacher outputs depend on these numbers: a change makes them all silently wrong.
    assert (draws([17], 5, seed=3, place=1).uniform(3)[0] * 2**24).int().tolist() == [15299038, 13498487, 14811189]
    assert [derive_seed(0), derive_seed(0, 1), derive_seed(1, 0), derive_seed(-1)] == [
        8147104208329303767,
        313702574736366215,
        3395948882924712079,
        8245168133484221968,
    ]
    assert torch.randperm(8, generator=make_generator(0, 4, 0)).tolist() == [3, 7, 2, 4, 1, 6, 5, 0]


def test_numbers_are_the_same_in_another_process():
    code = (
        "import torch; from limbeck.data.counter_rng import CounterRNG;"
        "print(CounterRNG.for_samples(torch.arange(3), torch.tensor([0, 1, 2]), seed=9, "
        "transform_index=2).uniform(3).flatten().tolist())"
    )
    env = {**os.environ, "PYTHONHASHSEED": "77"}
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env).stdout
    assert output.strip() == str(
        draws([0, 1, 2], torch.tensor([0, 1, 2]), seed=9, place=2).uniform(3).flatten().tolist()
    )


def test_numbers_are_uniform_from_zero_to_below_one():
    numbers = draws(torch.arange(50_000)).uniform(4).double().numpy()
    assert numbers.min() >= 0
    assert numbers.max() < 1
    for column in numbers.T:
        assert column.mean() == pytest.approx(1 / 2, abs=5 * (1 / 12 / len(column)) ** 0.5)
        assert column.var() == pytest.approx(1 / 12, rel=0.02)
        counts, _ = np.histogram(column, bins=64, range=(0, 1))
        chi_square = ((counts - len(column) / 64) ** 2 / (len(column) / 64)).sum()
        assert chi_square < 63 + 5 * (2 * 63) ** 0.5


@pytest.mark.parametrize("what", ["sample", "view", "seed", "place", "column"])
def test_neighbours_do_not_correlate(what):
    # Under independence a correlation of n numbers is normal with a spread of 1/sqrt(n).
    many = 20_000
    if what == "sample":
        numbers = draws(torch.arange(many)).uniform(1)[:, 0]
    elif what == "view":
        numbers = CounterRNG.for_samples(torch.full((many,), 5), torch.arange(many), seed=0, transform_index=0).uniform(
            1
        )[:, 0]
    elif what == "column":
        numbers = draws([5]).uniform(many)[0]
    else:
        many = 4_000
        numbers = torch.cat([draws([5], **{what: i}).uniform(1)[0] for i in range(many)])
    numbers = numbers.double().numpy()
    for lag in (1, 2, 3):
        assert abs(np.corrcoef(numbers[:-lag], numbers[lag:])[0, 1]) < 4.5 / many**0.5


def test_diagonals_of_sample_and_view_do_not_correlate():
    # A weak mix of the two (sample + view, sample ^ view) would repeat along a diagonal.
    sample, view = torch.meshgrid(torch.arange(200), torch.arange(200), indexing="ij")
    numbers = (
        CounterRNG.for_samples(sample.flatten(), view.flatten(), seed=0, transform_index=0)
        .uniform(1)
        .double()
        .reshape(200, 200)
        .numpy()
    )
    assert len(np.unique(numbers)) > 0.99 * numbers.size
    for one, other in (
        (numbers[:-1, :-1], numbers[1:, 1:]),
        (numbers[:-1, 1:], numbers[1:, :-1]),
        (numbers, numbers.T),
    ):
        off = ~np.eye(200, dtype=bool)[: len(one), : len(one)]
        assert abs(np.corrcoef(one[off], other[off])[0, 1]) < 4.5 / off.sum() ** 0.5


@pytest.mark.parametrize("change", [{"seed": 1}, {"sample": 1}, {"view": 1}, {"place": 1}, {"seed": -1}])
def test_another_seed_sample_view_or_place_gives_other_numbers(change):
    before = {"sample": 0, "view": 0, "seed": 0, "place": 0}
    one, other = (draws([s["sample"]], s["view"], seed=s["seed"], place=s["place"]) for s in (before, before | change))
    assert not torch.isclose(one.uniform(8), other.uniform(8)).any()


def test_numbers_do_not_depend_on_the_batch_or_its_order():
    sample, view = torch.arange(40) * 7, torch.arange(40) % 5
    whole = CounterRNG.for_samples(sample, view, seed=1, transform_index=0).uniform(3)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        CounterRNG.for_samples(sample[order], view[order], seed=1, transform_index=0).uniform(3),
        whole[order],
        rtol=0,
        atol=0,
    )
    for i in (0, 13, 39):
        single = CounterRNG.for_samples(sample[i : i + 1], view[i : i + 1], seed=1, transform_index=0)
        assert torch.equal(single.uniform(3)[0], whole[i])


def test_the_first_numbers_do_not_depend_on_how_many_are_asked_for():
    assert torch.equal(draws([3]).uniform(9)[:, :2], draws([3]).uniform(2))


def test_between_stays_in_its_columns():
    numbers = draws(torch.arange(10_000)).uniform_between(torch.tensor([-2.0, 5.0, 1.0]), torch.tensor([2.0, 5.5, 1.0]))
    assert (numbers[:, 0].min() < -1.99, numbers[:, 0].max() > 1.99) == (True, True)
    assert (numbers[:, 0] >= -2).all()
    assert (numbers[:, 0] < 2).all()
    assert ((numbers[:, 1] >= 5) & (numbers[:, 1] <= 5.5)).all()
    assert (numbers[:, 2] == 1).all()


def test_drawing_leaves_the_generator_of_torch_unchanged():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    draws([1, 2]).uniform(5)
    make_generator(1, 2)
    assert torch.equal(torch.get_rng_state(), before)


def test_mix_tells_the_order_and_the_number_of_words():
    assert (
        len(
            {
                derive_seed(),
                derive_seed(0),
                derive_seed(0, 0),
                derive_seed(1),
                derive_seed(0, 1),
                derive_seed(1, 0),
                derive_seed(2**64 - 2),
                derive_seed(-1),
            }
        )
        == 8
    )
    assert derive_seed(-1) == derive_seed(2**64 - 1)
    assert all(0 <= derive_seed(i) < 2**63 for i in range(100))
