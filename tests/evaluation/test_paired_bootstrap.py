"""Intervals against plain resampling and tables of Student's t."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from limbeck.core.errors import LimbeckError
from limbeck.evaluation import gap_recovered, mean_ci, paired_bootstrap


@pytest.fixture
def correct():
    generator = torch.Generator().manual_seed(0)
    b = torch.rand(300, generator=generator) < 0.8
    flip = torch.rand(300, generator=generator)
    return torch.where(b, flip < 0.97, flip < 0.3), b


def test_the_interval_is_that_of_drawing_the_samples_again(correct):
    a, b = correct
    difference = a.numpy().astype(float) - b.numpy().astype(float)
    rng = np.random.default_rng(1)
    means = [100 * difference[rng.integers(0, 300, 300)].mean() for _ in range(10_000)]
    found, low, high = paired_bootstrap(a, b)
    assert found == pytest.approx(100 * difference.mean())
    # The quantiles of 10,000 draws are themselves uncertain, and samples make steps of a third of a point.
    assert low == pytest.approx(np.quantile(means, 0.025), abs=0.34)
    assert high == pytest.approx(np.quantile(means, 0.975), abs=0.34)
    assert low < found < high


def test_pairing_makes_the_interval_narrower_than_two_apart(correct):
    a, b = correct
    _, low, high = paired_bootstrap(a, b)
    apart = 100 * 2 * 1.96 * math.sqrt(float(a.float().var() + b.float().var()) / 300)
    assert high - low < 0.8 * apart


def test_the_same_seed_gives_the_same_interval_and_the_other_order_its_mirror(correct):
    a, b = correct
    assert paired_bootstrap(a, b, seed=3) == paired_bootstrap(a, b, seed=3)
    assert paired_bootstrap(a, b, seed=3, n_resamples=20) != paired_bootstrap(a, b, seed=4, n_resamples=20)
    (here, low, high), (there, low_b, high_b) = paired_bootstrap(a, b), paired_bootstrap(b, a)
    assert here == -there
    assert (low_b, high_b) == (pytest.approx(-high, abs=0.34), pytest.approx(-low, abs=0.34))


def test_networks_right_on_the_same_samples_differ_by_nothing(correct):
    assert paired_bootstrap(correct[0], correct[0]) == (0.0, 0.0, 0.0)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng, hits = np.random.default_rng(0), 0
    for trial in range(400):
        draws = torch.from_numpy(rng.choice(3, 400, p=[0.08, 0.04, 0.88]))
        _, low, high = paired_bootstrap(draws == 0, draws == 1, n_resamples=1000, seed=trial)
        hits += low <= 4.0 <= high
    assert 0.91 < hits / 400 < 0.98


def test_seeds_make_students_interval():
    values = [0.91, 0.93, 0.92, 0.95, 0.90]
    found = mean_ci(values)
    half = 2.776445 * np.std(values, ddof=1) / math.sqrt(5)  # t of 4 degrees, from the table
    assert found["mean"] == pytest.approx(np.mean(values))
    assert (found["low"], found["high"]) == (
        pytest.approx(np.mean(values) - half, abs=1e-7),
        pytest.approx(np.mean(values) + half, abs=1e-7),
    )
    assert found["num_seeds"] == 5


def test_one_seed_has_no_interval():
    assert mean_ci([0.5]) == {"mean": 0.5, "low": None, "high": None, "num_seeds": 1}


@pytest.mark.parametrize(
    ("alone", "distilled", "teacher", "share"),
    [
        (0.90, 0.93, 0.95, 0.6),
        (0.90, 0.88, 0.95, -0.4),
        (0.90, 0.96, 0.95, 1.2),
        (0.95, 0.96, 0.95, None),
        (0.96, 0.97, 0.95, None),
        (0.950, 0.953, 0.954, None),
    ],
)
def test_the_share_of_the_gap_is_told_only_where_there_is_a_gap(alone, distilled, teacher, share):
    assert gap_recovered(alone, distilled, teacher) == (share if share is None else pytest.approx(share))


def test_any_gap_above_zero_counts_where_asked():
    assert gap_recovered(0.950, 0.952, 0.954, min_gap=0.0) == pytest.approx(0.5)
    assert gap_recovered(0.95, 0.96, 0.95, min_gap=0.0) is None


def test_what_has_no_interval_is_told_in_a_sentence():
    yes = torch.ones(3, dtype=torch.bool)
    with pytest.raises(LimbeckError, match=r"\[3\] and \[2\]"):
        paired_bootstrap(yes, yes[:2])
    with pytest.raises(LimbeckError, match="at least one"):
        paired_bootstrap(yes[:0], yes[:0])
    with pytest.raises(LimbeckError, match=r"booleans, got torch.float32"):
        paired_bootstrap(yes.float(), yes)
    with pytest.raises(LimbeckError, match="resamples must be at least 1"):
        paired_bootstrap(yes, yes, n_resamples=0)
    for values in ([], [0.1, math.nan]):
        with pytest.raises(LimbeckError, match="at least one value, all finite"):
            mean_ci(values)
