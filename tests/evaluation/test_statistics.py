"""Intervals and tests over samples and over seeds, against NumPy, SciPy, tables and enumeration."""

from __future__ import annotations

import itertools
import math
import tracemalloc

import numpy as np
import pytest
import torch
from scipy import stats

from limbeck.core.errors import LimbeckError
from limbeck.evaluation import (
    adjust_p_values_holm,
    bootstrap_mean_ci,
    gap_recovered,
    gap_recovered_ci,
    mcnemar_test,
    mean_ci,
    paired_bootstrap,
    paired_bootstrap_over_seeds,
    paired_mean_ci,
    required_num_seeds,
)


@pytest.fixture
def correct():
    generator = torch.Generator().manual_seed(0)
    b = torch.rand(300, generator=generator) < 0.8
    flip = torch.rand(300, generator=generator)
    return torch.where(b, flip < 0.97, flip < 0.3), b


def test_paired_bootstrap_matches_resampling(correct):
    a, b = correct
    difference = a.numpy().astype(float) - b.numpy().astype(float)
    rng = np.random.default_rng(1)
    means = [100 * difference[rng.integers(0, 300, 300)].mean() for _ in range(10_000)]
    result, low, high = paired_bootstrap(a, b)
    assert result == pytest.approx(100 * difference.mean())
    # The quantiles of 10,000 draws are themselves uncertain, and samples make steps of a third of a point.
    assert low == pytest.approx(np.quantile(means, 0.025), abs=0.34)
    assert high == pytest.approx(np.quantile(means, 0.975), abs=0.34)
    assert low < result < high


def test_paired_interval_is_narrower_than_unpaired(correct):
    a, b = correct
    _, low, high = paired_bootstrap(a, b)
    apart = 100 * 2 * 1.96 * math.sqrt(float(a.float().var() + b.float().var()) / 300)
    assert high - low < 0.8 * apart


def test_paired_bootstrap_is_reproducible_and_antisymmetric(correct):
    a, b = correct
    assert paired_bootstrap(a, b, seed=3) == paired_bootstrap(a, b, seed=3)
    assert paired_bootstrap(a, b, seed=3, n_resamples=20) != paired_bootstrap(a, b, seed=4, n_resamples=20)
    (difference, low, high), (mirrored, low_b, high_b) = paired_bootstrap(a, b), paired_bootstrap(b, a)
    assert difference == -mirrored
    assert (low_b, high_b) == (pytest.approx(-high, abs=0.34), pytest.approx(-low, abs=0.34))


def test_equal_correctness_has_a_difference_of_zero(correct):
    assert paired_bootstrap(correct[0], correct[0]) == (0.0, 0.0, 0.0)


def test_paired_bootstrap_has_nominal_coverage():
    rng, hits = np.random.default_rng(0), 0
    for trial in range(400):
        draws = torch.from_numpy(rng.choice(3, 400, p=[0.08, 0.04, 0.88]))
        _, low, high = paired_bootstrap(draws == 0, draws == 1, n_resamples=1000, seed=trial)
        hits += low <= 4.0 <= high
    assert 0.91 < hits / 400 < 0.98


def test_mean_ci_is_students_interval():
    values = [0.91, 0.93, 0.92, 0.95, 0.90]
    result = mean_ci(values)
    half = 2.776445 * np.std(values, ddof=1) / math.sqrt(5)  # t of 4 degrees, from the table
    assert result["mean"] == pytest.approx(np.mean(values))
    assert (result["low"], result["high"]) == (
        pytest.approx(np.mean(values) - half, abs=1e-7),
        pytest.approx(np.mean(values) + half, abs=1e-7),
    )
    assert result["num_seeds"] == 5


def test_mean_ci_of_one_seed_has_no_interval():
    assert mean_ci([0.5]) == {"mean": 0.5, "low": None, "high": None, "num_seeds": 1}


@pytest.mark.parametrize(
    ("baseline", "distilled", "teacher", "fraction"),
    [
        (0.90, 0.93, 0.95, 0.6),
        (0.90, 0.88, 0.95, -0.4),
        (0.90, 0.96, 0.95, 1.2),
        (0.95, 0.96, 0.95, None),
        (0.96, 0.97, 0.95, None),
        (0.950, 0.953, 0.954, None),
    ],
)
def test_gap_recovered_needs_a_gap(baseline, distilled, teacher, fraction):
    assert gap_recovered(baseline, distilled, teacher) == (fraction if fraction is None else pytest.approx(fraction))


def test_gap_recovered_with_min_gap_zero():
    assert gap_recovered(0.950, 0.952, 0.954, min_gap=0.0) == pytest.approx(0.5)
    assert gap_recovered(0.95, 0.96, 0.95, min_gap=0.0) is None


def test_invalid_correctness_raises():
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


def correct_pairs(seeds, n, *, shared):
    """Pairs of seeds where a hard sample is hard for all seeds as far as ``shared`` says."""
    rng = np.random.default_rng(0)
    hard = rng.uniform(size=n)
    pairs = []
    for _ in range(seeds):
        uniform = rng.uniform(size=(2, n))
        mixed = [np.where(rng.uniform(size=n) < shared, hard, row) for row in uniform]
        pairs.append((torch.from_numpy(mixed[0] < 0.85), torch.from_numpy(mixed[1] < 0.8)))
    return pairs


def correct_by_counts(only_variant, only_baseline, both=5, neither=4):
    variant = [True] * (only_variant + both) + [False] * (only_baseline + neither)
    baseline = [False] * only_variant + [True] * (both + only_baseline) + [False] * neither
    return torch.tensor(variant), torch.tensor(baseline)


@pytest.mark.parametrize(("only_variant", "only_baseline"), [(6, 1), (1, 6), (12, 3), (7, 7), (1, 0), (40, 25)])
def test_mcnemar_p_value_is_binomial(only_variant, only_baseline):
    n = only_variant + only_baseline
    tail = sum(math.comb(n, k) for k in range(max(only_variant, only_baseline), n + 1)) / 2**n
    result = mcnemar_test(*correct_by_counts(only_variant, only_baseline))
    assert (result["only_variant_correct"], result["only_baseline_correct"]) == (only_variant, only_baseline)
    assert result["p_value"] == pytest.approx(min(1.0, 2 * tail))


def test_mcnemar_of_equal_correctness():
    assert mcnemar_test(*correct_by_counts(0, 0)) == {
        "only_variant_correct": 0,
        "only_baseline_correct": 0,
        "p_value": 1.0,
    }


@pytest.mark.parametrize("shared", [True, False])
def test_bootstrap_over_seeds_matches_resampling(shared):
    pairs = correct_pairs(3, 200, shared=0.9)
    gains = np.stack([variant.numpy().astype(float) - baseline.numpy() for variant, baseline in pairs])
    rng, means = np.random.default_rng(1), []
    for _ in range(4000):
        indices = np.tile(rng.integers(0, 200, 200), (3, 1)) if shared else rng.integers(0, 200, (3, 200))
        means.append(100 * np.take_along_axis(gains, indices, axis=1).mean())
    result = paired_bootstrap_over_seeds(pairs, shared_samples=shared, n_resamples=4000)
    assert result["mean"] == pytest.approx(100 * gains.mean())
    low, high = np.quantile(means, [0.025, 0.975])
    # Steps of a sixth of a point, and quantiles of 4,000 draws.
    assert (result["low"], result["high"]) == (pytest.approx(low, abs=0.35), pytest.approx(high, abs=0.35))


def test_separate_resampling_of_shared_samples_is_too_narrow():
    variant, baseline = correct_pairs(1, 300, shared=0.0)[0]
    joint = paired_bootstrap_over_seeds([(variant, baseline)] * 9, shared_samples=True)
    separate = paired_bootstrap_over_seeds([(variant, baseline)] * 9, shared_samples=False)
    assert joint["mean"] == pytest.approx(separate["mean"])
    assert 2.5 < (joint["high"] - joint["low"]) / (separate["high"] - separate["low"]) < 3.5  # √9


def test_bootstrap_over_one_seed_is_the_paired_bootstrap():
    pair = correct_pairs(1, 300, shared=0.5)[0]
    mean, low, high = paired_bootstrap(*pair)
    for shared in (True, False):
        result = paired_bootstrap_over_seeds([pair], shared_samples=shared, n_resamples=10_000)
        assert result["mean"] == pytest.approx(mean)
        assert (result["low"], result["high"]) == (pytest.approx(low, abs=0.34), pytest.approx(high, abs=0.34))


def test_seeds_with_separate_samples_may_differ_in_length():
    result = paired_bootstrap_over_seeds(
        [correct_by_counts(2, 0, both=8, neither=0), correct_by_counts(0, 1, both=3, neither=0)], shared_samples=False
    )
    assert result["mean"] == pytest.approx((20 - 25) / 2)


def test_bootstrap_over_seeds_takes_little_memory():
    pairs = correct_pairs(10, 10_000, shared=0.9)
    for shared in (True, False):
        tracemalloc.start()
        paired_bootstrap_over_seeds(pairs, shared_samples=shared)
        peak_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak_bytes < 4e6


def test_bootstrap_over_seeds_depends_on_the_seed():
    pairs = correct_pairs(3, 200, shared=0.5)
    assert paired_bootstrap_over_seeds(pairs, shared_samples=True) == paired_bootstrap_over_seeds(
        pairs, shared_samples=True
    )
    few = [paired_bootstrap_over_seeds(pairs, shared_samples=True, n_resamples=20, seed=seed) for seed in (0, 1)]
    assert few[0] != few[1]


def test_unpaired_correctness_raises():
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


VARIANT = [0.931, 0.942, 0.925, 0.951, 0.938]
BASELINE = [0.920, 0.925, 0.921, 0.938, 0.941]


def holds_95_of_100_draws(low, high, values):
    """Whether the ends are the quantiles of all nⁿ draws, as far as 10,000 random ones can find them."""
    means = np.array([np.mean(draw) for draw in itertools.product(values, repeat=len(values))])
    below, above = (means < low - 1e-9).mean(), (means > high + 1e-9).mean()
    until, since = (means <= low + 1e-9).mean(), (means >= high - 1e-9).mean()
    return below < 0.031 and above < 0.031 and until > 0.02 and since > 0.02


def test_bootstrap_mean_ci_matches_numpy_and_enumeration():
    result = bootstrap_mean_ci(VARIANT)
    assert (result["mean"], result["num_seeds"]) == (pytest.approx(np.mean(VARIANT)), 5)
    assert result["std"] == pytest.approx(np.std(VARIANT, ddof=1))
    assert holds_95_of_100_draws(result["low"], result["high"], VARIANT)
    assert not holds_95_of_100_draws(result["low"] - 0.002, result["high"], VARIANT)


def test_bootstrap_of_three_seeds_matches_enumeration():
    means = sorted(np.mean(draw) for draw in itertools.product([1.0, 2.0, 6.0], repeat=3))
    result = bootstrap_mean_ci([1.0, 2.0, 6.0])
    assert (result["low"], result["high"]) == (means[0], means[-1])  # each has 1/27 of the draws, more than 2.5 %


def test_one_seed_has_only_a_mean():
    assert bootstrap_mean_ci([0.5]) == {"mean": 0.5, "std": None, "low": None, "high": None, "num_seeds": 1}
    assert paired_mean_ci([0.5], [0.25]) == {
        "mean": 0.25, "std": None, "low": None, "high": None, "t_low": None, "t_high": None,
        "p_value": None, "num_seeds": 1,
    }  # fmt: skip
    assert gap_recovered_ci([0.5], [0.6], [0.7]) == {
        "fraction": pytest.approx(0.5), "low": None, "high": None, "num_seeds": 1,
    }  # fmt: skip


def test_paired_mean_ci_matches_scipy():
    result, baseline = paired_mean_ci(VARIANT, BASELINE), stats.ttest_rel(VARIANT, BASELINE)
    assert result["p_value"] == pytest.approx(baseline.pvalue)
    ends = baseline.confidence_interval(0.95)
    assert (result["t_low"], result["t_high"]) == (pytest.approx(ends.low), pytest.approx(ends.high))
    difference = np.subtract(VARIANT, BASELINE)
    assert (result["mean"], result["std"]) == (pytest.approx(difference.mean()), pytest.approx(difference.std(ddof=1)))
    assert holds_95_of_100_draws(result["low"], result["high"], difference)


def test_pairing_by_seed_removes_common_variation():
    shared = [0.90, 0.92, 0.94, 0.96]
    variant = [value + gain for value, gain in zip(shared, [0.010, 0.012, 0.011, 0.009], strict=True)]
    assert paired_mean_ci(variant, shared)["p_value"] < 0.001 < 0.5 < stats.ttest_ind(variant, shared).pvalue


def test_paired_mean_ci_is_antisymmetric_and_depends_on_the_seed():
    forward, mirrored = paired_mean_ci(VARIANT, BASELINE), paired_mean_ci(BASELINE, VARIANT)
    assert (forward["mean"], forward["t_low"], forward["p_value"]) == (
        -mirrored["mean"],
        -mirrored["t_high"],
        mirrored["p_value"],
    )
    assert forward["low"] == pytest.approx(-mirrored["high"], abs=1e-3)  # draws are random, and make steps
    assert paired_mean_ci(VARIANT, BASELINE) == forward
    assert bootstrap_mean_ci(VARIANT, n_resamples=20, seed=1) != bootstrap_mean_ci(VARIANT, n_resamples=20, seed=2)


@pytest.mark.parametrize(
    ("variant", "baseline", "mean", "p"),
    [
        ([0.5, 0.7], [0.5, 0.7], 0.0, 1.0),
        ([0.1 + 0.2, 0.7], [0.3, 0.7], 0.0, 1.0),  # 0.1 + 0.2 is 0.3 and rounding
        ([0.93, 0.92, 0.91], [0.90, 0.89, 0.88], 0.03, 0.0),
        ([92.35, 91.02, 90.81], [92.34, 91.01, 90.80], 0.01, 0.0),  # one sample of 10,000
    ],
)
def test_equal_differences_have_no_spread(variant, baseline, mean, p):
    result = paired_mean_ci(variant, baseline)
    assert (result["std"], result["p_value"]) == (0.0, p)
    for end in ("mean", "low", "high", "t_low", "t_high"):
        assert result[end] == pytest.approx(mean, rel=1e-9, abs=0)


def test_coverage_of_bootstrap_and_students_interval_of_five_seeds():
    rng, bootstrap, students = np.random.default_rng(0), 0, 0
    for trial in range(400):
        result = paired_mean_ci(rng.normal(1.0, 1.0, 5), np.zeros(5), n_resamples=500, seed=trial)
        bootstrap += result["low"] <= 1 <= result["high"]
        students += result["t_low"] <= 1 <= result["t_high"]
    assert 0.79 < bootstrap / 400 < 0.89
    assert 0.92 < students / 400 < 0.98


def test_gap_recovered_ci_resamples_gain_and_gap_jointly():
    baseline, distilled, teacher = [0.90, 0.91, 0.92], [0.93, 0.93, 0.96], [0.95, 0.96, 0.96]
    result = gap_recovered_ci(baseline, distilled, teacher)
    assert result["fraction"] == pytest.approx((0.03 + 0.02 + 0.04) / (0.05 + 0.05 + 0.04))
    seeds = [(0.03, 0.05), (0.02, 0.05), (0.04, 0.04)]
    shares = [sum(g for g, _ in draw) / sum(t for _, t in draw) for draw in itertools.product(seeds, repeat=3)]
    assert (result["low"], result["high"]) == (pytest.approx(min(shares)), pytest.approx(max(shares)))


def test_one_teacher_is_used_for_all_seeds():
    baseline, distilled = [0.90, 0.91], [0.93, 0.93]
    assert gap_recovered_ci(baseline, distilled, 0.95) == gap_recovered_ci(baseline, distilled, [0.95] * 2)
    assert gap_recovered_ci(baseline, distilled, np.float32(0.95))["fraction"] == pytest.approx(5 / 9, abs=1e-5)
    assert gap_recovered_ci(baseline, distilled, 1)["num_seeds"] == 2


@pytest.mark.parametrize("teacher", [0.90, 0.92, 0.9249])
def test_gap_below_half_a_point_is_none(teacher):
    assert gap_recovered_ci([0.91, 0.93], [0.95, 0.96], teacher) is None


def test_interval_end_on_a_resample_without_gap_is_none():
    result = gap_recovered_ci([0.90, 0.96], [0.91, 0.97], 0.95)  # a quarter of the draws is the second seed only
    assert (result["fraction"], result["high"]) == (pytest.approx(0.5), None)
    assert result["low"] == pytest.approx(0.2)
    assert gap_recovered_ci([0.9, 0.9], [0.8, 0.95], [0.95, 0.9])["low"] == pytest.approx(-2)
    assert gap_recovered_ci([0.95, 0.95], [0.96, 0.96], 0.95, min_gap=0.0) is None


@pytest.mark.parametrize(("size", "seeds"), [(0.2, 199), (0.5, 34), (0.8, 15), (1.0, 10)])
def test_required_num_seeds_matches_power_tables(size, seeds):
    differences = [size - math.sqrt(0.5), size + math.sqrt(0.5)]  # a deviation of 1
    assert required_num_seeds(differences) == seeds
    assert required_num_seeds([-difference for difference in differences]) == seeds


def test_required_num_seeds_reaches_the_power():
    differences = np.array([0.2, 1.4, 0.9, 1.8])
    n = required_num_seeds(differences, power=0.9)
    draws = np.random.default_rng(0).normal(differences.mean(), differences.std(ddof=1), (20_000, n))
    detected = stats.ttest_1samp(draws, 0.0, axis=1).pvalue < 0.05
    fewer = stats.ttest_1samp(draws[:, :-1], 0.0, axis=1).pvalue < 0.05
    assert fewer.mean() < 0.9 < detected.mean() + 0.007  # three standard errors of 20,000 draws


@pytest.mark.parametrize(
    ("differences", "seeds"),
    [([], None), ([1.0], None), ([-1.0, 1.0], None), ([-0.3, 0.1, 0.2], None), ([0.0, 0.0], None), ([0.1, 0.1], 2),
     ([1.0, 1.0 + 1e-9], 2), ([-1.0, 1.001], None)],
)  # fmt: skip
def test_required_num_seeds_at_the_edges(differences, seeds):
    assert required_num_seeds(differences) == seeds


def test_holm_matches_the_worked_example():
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1, and never below the one before.
    assert adjust_p_values_holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert adjust_p_values_holm([0.9, 0.8]) == [1.0, 1.0]
    assert (adjust_p_values_holm([]), adjust_p_values_holm([0.2])) == ([], [0.2])


def test_holm_controls_the_family_wise_error_rate():
    rng = np.random.default_rng(0)
    num_false = sum(min(adjust_p_values_holm(p)) < 0.05 for p in rng.uniform(size=(4000, 6)).tolist())
    assert num_false / 4000 == pytest.approx(0.05, abs=0.0105)


def test_invalid_values_over_seeds_raise():
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
