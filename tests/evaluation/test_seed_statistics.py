"""Figures over seeds against NumPy, SciPy, tables and counting by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from limbeck.core.errors import LimbeckError
from limbeck.evaluation import (
    adjust_p_values_holm,
    bootstrap_mean_ci,
    gap_recovered_ci,
    paired_mean_ci,
    required_num_seeds,
)

OURS = [0.931, 0.942, 0.925, 0.951, 0.938]
THEIRS = [0.920, 0.925, 0.921, 0.938, 0.941]


def holds_95_of_100_draws(low, high, values):
    """Whether the ends are the quantiles of all nⁿ draws, as far as 10,000 random ones can find them."""
    means = np.array([np.mean(draw) for draw in itertools.product(values, repeat=len(values))])
    below, above = (means < low - 1e-9).mean(), (means > high + 1e-9).mean()
    until, since = (means <= low + 1e-9).mean(), (means >= high - 1e-9).mean()
    return below < 0.031 and above < 0.031 and until > 0.02 and since > 0.02


def test_mean_and_deviation_are_numpys_and_the_interval_that_of_drawing_again():
    found = bootstrap_mean_ci(OURS)
    assert (found["mean"], found["num_seeds"]) == (pytest.approx(np.mean(OURS)), 5)
    assert found["std"] == pytest.approx(np.std(OURS, ddof=1))
    assert holds_95_of_100_draws(found["low"], found["high"], OURS)
    assert not holds_95_of_100_draws(found["low"] - 0.002, found["high"], OURS)


def test_interval_of_three_seeds_is_that_of_all_27_draws():
    means = sorted(np.mean(draw) for draw in itertools.product([1.0, 2.0, 6.0], repeat=3))
    found = bootstrap_mean_ci([1.0, 2.0, 6.0])
    assert (found["low"], found["high"]) == (means[0], means[-1])  # each has 1/27 of the draws, more than 2.5 %


def test_one_seed_has_a_mean_and_nothing_else():
    assert bootstrap_mean_ci([0.5]) == {"mean": 0.5, "std": None, "low": None, "high": None, "num_seeds": 1}
    assert paired_mean_ci([0.5], [0.25]) == {
        "mean": 0.25, "std": None, "low": None, "high": None, "t_low": None, "t_high": None, "p_value": None, "num_seeds": 1,
    }  # fmt: skip
    assert gap_recovered_ci([0.5], [0.6], [0.7]) == {
        "fraction": pytest.approx(0.5), "low": None, "high": None, "num_seeds": 1,
    }  # fmt: skip


def test_paired_difference_is_scipys_paired_t_test():
    found, theirs = paired_mean_ci(OURS, THEIRS), stats.ttest_rel(OURS, THEIRS)
    assert found["p_value"] == pytest.approx(theirs.pvalue)
    ends = theirs.confidence_interval(0.95)
    assert (found["t_low"], found["t_high"]) == (pytest.approx(ends.low), pytest.approx(ends.high))
    difference = np.subtract(OURS, THEIRS)
    assert (found["mean"], found["std"]) == (pytest.approx(difference.mean()), pytest.approx(difference.std(ddof=1)))
    assert holds_95_of_100_draws(found["low"], found["high"], difference)


def test_pairing_by_seed_takes_off_what_the_seeds_share():
    shared = [0.90, 0.92, 0.94, 0.96]
    ours = [value + gain for value, gain in zip(shared, [0.010, 0.012, 0.011, 0.009], strict=True)]
    assert paired_mean_ci(ours, shared)["p_value"] < 0.001 < 0.5 < stats.ttest_ind(ours, shared).pvalue


def test_the_other_order_is_the_mirror_and_the_seed_decides_the_draws():
    here, there = paired_mean_ci(OURS, THEIRS), paired_mean_ci(THEIRS, OURS)
    assert (here["mean"], here["t_low"], here["p_value"]) == (-there["mean"], -there["t_high"], there["p_value"])
    assert here["low"] == pytest.approx(-there["high"], abs=1e-3)  # draws are random, and make steps
    assert paired_mean_ci(OURS, THEIRS) == here
    assert bootstrap_mean_ci(OURS, n_resamples=20, seed=1) != bootstrap_mean_ci(OURS, n_resamples=20, seed=2)


@pytest.mark.parametrize(
    ("ours", "theirs", "mean", "p"),
    [
        ([0.5, 0.7], [0.5, 0.7], 0.0, 1.0),
        ([0.1 + 0.2, 0.7], [0.3, 0.7], 0.0, 1.0),  # 0.1 + 0.2 is 0.3 and rounding
        ([0.93, 0.92, 0.91], [0.90, 0.89, 0.88], 0.03, 0.0),
        ([92.35, 91.02, 90.81], [92.34, 91.01, 90.80], 0.01, 0.0),  # one sample of 10,000
    ],
)
def test_differences_all_alike_have_no_spread_and_no_nan(ours, theirs, mean, p):
    found = paired_mean_ci(ours, theirs)
    assert (found["std"], found["p_value"]) == (0.0, p)
    for end in ("mean", "low", "high", "t_low", "t_high"):
        assert found[end] == pytest.approx(mean, rel=1e-9, abs=0)


def test_bootstrap_of_five_seeds_is_too_narrow_where_students_interval_is_right():
    rng, bootstrap, students = np.random.default_rng(0), 0, 0
    for trial in range(400):
        found = paired_mean_ci(rng.normal(1.0, 1.0, 5), np.zeros(5), n_resamples=500, seed=trial)
        bootstrap += found["low"] <= 1 <= found["high"]
        students += found["t_low"] <= 1 <= found["t_high"]
    assert 0.79 < bootstrap / 400 < 0.89
    assert 0.92 < students / 400 < 0.98


def test_the_share_is_mean_gain_over_mean_gap_with_seeds_drawn_jointly():
    alone, distilled, teacher = [0.90, 0.91, 0.92], [0.93, 0.93, 0.96], [0.95, 0.96, 0.96]
    found = gap_recovered_ci(alone, distilled, teacher)
    assert found["fraction"] == pytest.approx((0.03 + 0.02 + 0.04) / (0.05 + 0.05 + 0.04))
    seeds = [(0.03, 0.05), (0.02, 0.05), (0.04, 0.04)]
    shares = [sum(g for g, _ in draw) / sum(t for _, t in draw) for draw in itertools.product(seeds, repeat=3)]
    assert (found["low"], found["high"]) == (pytest.approx(min(shares)), pytest.approx(max(shares)))


def test_one_teacher_stands_for_all_seeds():
    alone, distilled = [0.90, 0.91], [0.93, 0.93]
    assert gap_recovered_ci(alone, distilled, 0.95) == gap_recovered_ci(alone, distilled, [0.95] * 2)
    assert gap_recovered_ci(alone, distilled, np.float32(0.95))["fraction"] == pytest.approx(5 / 9, abs=1e-5)
    assert gap_recovered_ci(alone, distilled, 1)["num_seeds"] == 2


@pytest.mark.parametrize("teacher", [0.90, 0.92, 0.9249])
def test_a_gap_below_half_a_point_has_no_share(teacher):
    assert gap_recovered_ci([0.91, 0.93], [0.95, 0.96], teacher) is None


def test_a_share_has_no_end_where_seeds_drawn_again_have_no_gap():
    found = gap_recovered_ci([0.90, 0.96], [0.91, 0.97], 0.95)  # a quarter of the draws is the second seed only
    assert (found["fraction"], found["high"]) == (pytest.approx(0.5), None)
    assert found["low"] == pytest.approx(0.2)
    assert gap_recovered_ci([0.9, 0.9], [0.8, 0.95], [0.95, 0.9])["low"] == pytest.approx(-2)
    assert gap_recovered_ci([0.95, 0.95], [0.96, 0.96], 0.95, min_gap=0.0) is None


@pytest.mark.parametrize(("size", "seeds"), [(0.2, 199), (0.5, 34), (0.8, 15), (1.0, 10)])
def test_seeds_needed_are_those_of_the_tables_of_power(size, seeds):
    differences = [size - math.sqrt(0.5), size + math.sqrt(0.5)]  # a deviation of 1
    assert required_num_seeds(differences) == seeds
    assert required_num_seeds([-difference for difference in differences]) == seeds


def test_so_many_seeds_tell_the_difference_as_often_as_asked():
    differences = np.array([0.2, 1.4, 0.9, 1.8])
    n = required_num_seeds(differences, power=0.9)
    draws = np.random.default_rng(0).normal(differences.mean(), differences.std(ddof=1), (20_000, n))
    told = stats.ttest_1samp(draws, 0.0, axis=1).pvalue < 0.05
    fewer = stats.ttest_1samp(draws[:, :-1], 0.0, axis=1).pvalue < 0.05
    assert fewer.mean() < 0.9 < told.mean() + 0.007  # three standard errors of 20,000 draws


@pytest.mark.parametrize(
    ("differences", "seeds"),
    [([], None), ([1.0], None), ([-1.0, 1.0], None), ([-0.3, 0.1, 0.2], None), ([0.0, 0.0], None), ([0.1, 0.1], 2),
     ([1.0, 1.0 + 1e-9], 2), ([-1.0, 1.001], None)],
)  # fmt: skip
def test_seeds_needed_at_the_edges(differences, seeds):
    assert required_num_seeds(differences) == seeds


def test_holm_is_the_worked_example_and_keeps_the_order():
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1, and never below the one before.
    assert adjust_p_values_holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert adjust_p_values_holm([0.9, 0.8]) == [1.0, 1.0]
    assert (adjust_p_values_holm([]), adjust_p_values_holm([0.2])) == ([], [0.2])


def test_holm_finds_something_false_in_at_most_5_of_100_studies():
    rng = np.random.default_rng(0)
    false = sum(min(adjust_p_values_holm(p)) < 0.05 for p in rng.uniform(size=(4000, 6)).tolist())
    assert false / 4000 == pytest.approx(0.05, abs=0.0105)


def test_what_cannot_be_told_over_seeds_is_told_in_a_sentence():
    for values in ([], [0.1, math.nan], [math.inf]):
        with pytest.raises(LimbeckError, match="at least one value, all finite"):
            bootstrap_mean_ci(values)
    with pytest.raises(LimbeckError, match="got 2 and 1"):
        paired_mean_ci([0.1, 0.2], [0.1])
    with pytest.raises(LimbeckError, match="got 1 and 2"):
        gap_recovered_ci([0.1, 0.2], [0.1], 0.5)
    with pytest.raises(LimbeckError, match="at least one value"):
        paired_mean_ci([], [])
    with pytest.raises(LimbeckError, match="resamples must be at least 1, got 0"):
        bootstrap_mean_ci([1.0], n_resamples=0)
    with pytest.raises(LimbeckError, match=r"between 0 and 1, such as 0\.8, got 80"):
        required_num_seeds([1.0, 2.0], power=80)
    with pytest.raises(LimbeckError, match="at least one value, all finite"):
        required_num_seeds([1.0, math.nan])
    with pytest.raises(LimbeckError, match=r"p-values must be between 0 and 1, got \[0\.5, nan\]"):
        adjust_p_values_holm([0.5, math.nan])
