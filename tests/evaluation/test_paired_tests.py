"""Two networks on the same samples, against binomial sums and plain resampling."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
import torch

from limbeck.core.errors import LimbeckError
from limbeck.evaluation import mcnemar_test, paired_bootstrap, paired_bootstrap_over_seeds


def answers(seeds, n, *, together):
    """Pairs of seeds where a hard sample is hard for all seeds as far as ``together`` says."""
    rng = np.random.default_rng(0)
    hard = rng.uniform(size=n)
    pairs = []
    for _ in range(seeds):
        own = rng.uniform(size=(2, n))
        mixed = [np.where(rng.uniform(size=n) < together, hard, row) for row in own]
        pairs.append((torch.from_numpy(mixed[0] < 0.85), torch.from_numpy(mixed[1] < 0.8)))
    return pairs


def split(only_ours, only_theirs, both=5, neither=4):
    ours = [True] * (only_ours + both) + [False] * (only_theirs + neither)
    theirs = [False] * only_ours + [True] * (both + only_theirs) + [False] * neither
    return torch.tensor(ours), torch.tensor(theirs)


@pytest.mark.parametrize(("only_ours", "only_theirs"), [(6, 1), (1, 6), (12, 3), (7, 7), (1, 0), (40, 25)])
def test_mcnemar_is_twice_the_tail_of_a_fair_coin(only_ours, only_theirs):
    n = only_ours + only_theirs
    tail = sum(math.comb(n, k) for k in range(max(only_ours, only_theirs), n + 1)) / 2**n
    found = mcnemar_test(*split(only_ours, only_theirs))
    assert (found["only_variant_correct"], found["only_baseline_correct"]) == (only_ours, only_theirs)
    assert found["p_value"] == pytest.approx(min(1.0, 2 * tail))


def test_networks_right_on_the_same_samples_are_equal_for_mcnemar():
    assert mcnemar_test(*split(0, 0)) == {"only_variant_correct": 0, "only_baseline_correct": 0, "p_value": 1.0}


@pytest.mark.parametrize("shared", [True, False])
def test_the_interval_is_that_of_drawing_samples_for_the_seeds(shared):
    pairs = answers(3, 200, together=0.9)
    gains = np.stack([ours.numpy().astype(float) - theirs.numpy() for ours, theirs in pairs])
    rng, means = np.random.default_rng(1), []
    for _ in range(4000):
        places = np.tile(rng.integers(0, 200, 200), (3, 1)) if shared else rng.integers(0, 200, (3, 200))
        means.append(100 * np.take_along_axis(gains, places, axis=1).mean())
    found = paired_bootstrap_over_seeds(pairs, shared_samples=shared, n_resamples=4000)
    assert found["mean"] == pytest.approx(100 * gains.mean())
    low, high = np.quantile(means, [0.025, 0.975])
    # Steps of a sixth of a point, and quantiles of 4,000 draws.
    assert (found["low"], found["high"]) == (pytest.approx(low, abs=0.35), pytest.approx(high, abs=0.35))


def test_shared_samples_drawn_apart_would_give_an_interval_that_is_too_narrow():
    ours, theirs = answers(1, 300, together=0.0)[0]
    joint = paired_bootstrap_over_seeds([(ours, theirs)] * 9, shared_samples=True)
    apart = paired_bootstrap_over_seeds([(ours, theirs)] * 9, shared_samples=False)
    assert joint["mean"] == pytest.approx(apart["mean"])
    assert 2.5 < (joint["high"] - joint["low"]) / (apart["high"] - apart["low"]) < 3.5  # √9


def test_one_seed_is_the_paired_bootstrap():
    pair = answers(1, 300, together=0.5)[0]
    mean, low, high = paired_bootstrap(*pair)
    for shared in (True, False):
        found = paired_bootstrap_over_seeds([pair], shared_samples=shared, n_resamples=10_000)
        assert found["mean"] == pytest.approx(mean)
        assert (found["low"], found["high"]) == (pytest.approx(low, abs=0.34), pytest.approx(high, abs=0.34))


def test_seeds_with_their_own_samples_may_have_different_numbers_of_them():
    found = paired_bootstrap_over_seeds(
        [split(2, 0, both=8, neither=0), split(0, 1, both=3, neither=0)], shared_samples=False
    )
    assert found["mean"] == pytest.approx((20 - 25) / 2)


def test_ten_seeds_of_ten_thousand_samples_take_little_memory():
    pairs = answers(10, 10_000, together=0.9)
    for shared in (True, False):
        tracemalloc.start()
        paired_bootstrap_over_seeds(pairs, shared_samples=shared)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert most < 4e6


def test_the_seed_decides_the_draws():
    pairs = answers(3, 200, together=0.5)
    assert paired_bootstrap_over_seeds(pairs, shared_samples=True) == paired_bootstrap_over_seeds(
        pairs, shared_samples=True
    )
    few = [paired_bootstrap_over_seeds(pairs, shared_samples=True, n_resamples=20, seed=seed) for seed in (0, 1)]
    assert few[0] != few[1]


def test_what_is_not_paired_is_told_in_a_sentence():
    yes = torch.ones(3, dtype=torch.bool)
    with pytest.raises(LimbeckError, match=r"\[3\] and \[2\]"):
        mcnemar_test(yes, yes[:2])
    with pytest.raises(LimbeckError, match="at least one"):
        mcnemar_test(yes[:0], yes[:0])
    with pytest.raises(LimbeckError, match=r"booleans, got torch\.float32 and torch\.bool"):
        paired_bootstrap_over_seeds([(yes.float(), yes)], shared_samples=True)
    with pytest.raises(LimbeckError, match="at least one seed"):
        paired_bootstrap_over_seeds([], shared_samples=False)
    with pytest.raises(LimbeckError, match=r"equally many, got \[2, 3\]"):
        paired_bootstrap_over_seeds([(yes, yes), (yes[:2], yes[:2])], shared_samples=True)
    with pytest.raises(LimbeckError, match="resamples must be at least 1, got 0"):
        paired_bootstrap_over_seeds([(yes, yes)], shared_samples=True, n_resamples=0)
