"""Intervals of a metric of statistics, against NumPy: values, the resampling unit, targets that are missing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from limbeck.core.errors import LimbeckError
from limbeck.core.metric_spec import MetricSpec
from limbeck.core.task import reduce_statistics
from limbeck.evaluation import (
    metric_interval,
    metric_mcnemar_test,
    paired_bootstrap,
    paired_bootstrap_over_seeds,
    paired_gain,
    paired_gain_over_seeds,
    proportion_interval,
)
from limbeck.tasks import Classification

ACCURACY = Classification(2)


class ErrorRate:
    """Errors over length, as a phoneme error rate: lower is better."""

    primary_metric = MetricSpec(name="per", label="Phoneme error rate", higher_is_better=False)

    def metric_value(self, statistics, weights=None):
        return reduce_statistics(statistics, weights, lambda sums: sums[..., 0] / sums[..., 1])


class CountsRows(ErrorRate):
    def metric_value(self, statistics, weights=None):
        return reduce_statistics(statistics, weights, lambda sums: sums[..., 0]) / len(statistics)


def clips(n=40, seed=0):
    """Errors and lengths of two networks on the same ``n`` clips."""
    rng = np.random.default_rng(seed)
    length = rng.integers(2, 60, n)
    difficulty = rng.random(n)
    sides = [np.stack([rng.binomial(length, difficulty * rate), length], axis=1) for rate in (0.3, 0.5)]
    return [torch.from_numpy(side).double() for side in sides]


def resample_by_numpy(a, b, seed, draws=20_000):
    """Percentile intervals of the rate of ``a`` and of the gain of ``a`` over ``b`` in points, clip by clip."""
    indices = np.random.default_rng(seed).integers(0, len(a), (draws, len(a)))
    rates = [side.numpy()[indices].sum(axis=1) for side in (a, b)]
    rates = [sums[:, 0] / sums[:, 1] for sums in rates]
    return np.quantile(rates[0], (0.025, 0.975)), np.quantile(100 * (rates[1] - rates[0]), (0.025, 0.975))


def test_value_interval_and_paired_interval_of_a_ratio_are_those_of_resampled_clips():
    a, b = clips()
    interval, paired = resample_by_numpy(a, b, seed=7)
    assert metric_interval(ErrorRate(), a) == pytest.approx(tuple(interval), abs=0.004)
    gain = paired_gain(ErrorRate(), a, b)
    rates = [float(side[:, 0].sum() / side[:, 1].sum()) for side in (a, b)]
    assert gain.gain == pytest.approx(100 * (rates[1] - rates[0]))
    assert gain.interval == pytest.approx(tuple(paired), abs=0.4)
    assert gain.interval[0] < gain.gain < gain.interval[1]
    assert gain.num_resamples == 10_000


def test_the_other_way_round_has_the_opposite_gain():
    a, b = clips()
    forth, back = paired_gain(ErrorRate(), a, b), paired_gain(ErrorRate(), b, a)
    assert (back.gain, back.interval[0]) == pytest.approx((-forth.gain, -forth.interval[1]), abs=0.4)


def test_the_resampling_unit_is_the_sample():
    """One clip of 1000 phonemes is one sample: its width is that of 20 clips, not of 20,000 phonemes."""
    rng = np.random.default_rng(1)
    errors = torch.from_numpy(np.stack([rng.choice([0.0, 1000.0], 20), np.full(20, 1000.0)], axis=1))
    low, high = metric_interval(ErrorRate(), errors)
    rate = float(errors[:, 0].mean() / 1000)
    assert high - low == pytest.approx(2 * 1.96 * (rate * (1 - rate) / 20) ** 0.5, rel=0.15)


def test_many_different_samples_are_resampled_1000_times():
    a = torch.rand(6000, 2, generator=torch.Generator().manual_seed(0)) + 1
    assert paired_gain(ErrorRate(), a, a.flip(0)).num_resamples == 1000


def test_accuracy_keeps_its_exact_intervals():
    generator = torch.Generator().manual_seed(3)
    a, b = (torch.rand(200, 1, generator=generator) < rate for rate in (0.8, 0.7))
    assert metric_interval(ACCURACY, a.double()) == proportion_interval(float(a.double().mean()), 200)
    gain, low, high = paired_bootstrap(a[:, 0], b[:, 0])
    assert paired_gain(ACCURACY, a.double(), b.double())[:2] == (gain, (low, high))
    over_seeds = paired_gain_over_seeds(ACCURACY, [(a.double(), b.double())] * 2, shared_samples=True)
    expected = paired_bootstrap_over_seeds([(a[:, 0], b[:, 0])] * 2, shared_samples=True)
    assert (over_seeds.gain, *over_seeds.interval) == tuple(expected.values())


@pytest.mark.parametrize("task", [ACCURACY, ErrorRate()])
def test_samples_without_a_target_count_nowhere(task):
    """100 labeled samples, 80 % against 60 %, and 300 without a label: +20.0 points, not +5.0."""
    columns = 2 if isinstance(task, ErrorRate) else 1
    a, b = torch.zeros(2, 400, columns, dtype=torch.float64)
    right = 0 if columns == 2 else 1
    a[:, 0], b[:, 0] = 1 - right, 1 - right
    a[:80, 0], b[:60, 0] = right, right
    a[:, 1:], b[:, 1:] = 1, 1
    a[100:], b[100:] = torch.nan, torch.nan
    gain = paired_gain(task, a, b)
    assert gain.gain == pytest.approx(20.0)
    assert 11 < gain.interval[0] < 14
    assert 26 < gain.interval[1] < 29
    assert gain == paired_gain(task, a[:100], b[:100])
    assert metric_interval(task, a) == metric_interval(task, a[:100])
    assert paired_gain_over_seeds(task, [(a, b)], shared_samples=True).gain == pytest.approx(20.0)


def test_a_sample_without_a_target_in_one_network_is_left_out_of_both():
    a, b = clips()
    a[3] = torch.nan
    keep = torch.arange(40) != 3
    assert paired_gain(ErrorRate(), a, b) == paired_gain(ErrorRate(), a[keep], b[keep])


@pytest.mark.parametrize("shared", [True, False])
def test_over_seeds_the_same_or_other_samples_are_resampled(shared):
    pairs = [clips(seed=0), clips(seed=0)] if shared else [clips(seed=0), clips(seed=1)]
    result = paired_gain_over_seeds(ErrorRate(), pairs, shared_samples=shared, n_resamples=4000)
    singles = [paired_gain(ErrorRate(), *pair) for pair in pairs]
    assert result.gain == pytest.approx(np.mean([single.gain for single in singles]))
    widths = [single.interval[1] - single.interval[0] for single in singles]
    expected = widths[0] if shared else np.hypot(*widths) / 2  # separate samples average out
    assert result.interval[1] - result.interval[0] == pytest.approx(expected, rel=0.08)


def test_mcnemar_is_for_an_accuracy_only():
    a, b = clips()
    assert metric_mcnemar_test(ErrorRate(), a, b) is None
    right = torch.tensor([[1.0], [1.0], [0.0], [torch.nan]])
    assert metric_mcnemar_test(ACCURACY, right, 1 - right)["only_variant_correct"] == 2


def test_a_metric_that_counts_rows_is_refused():
    a, b = (torch.tensor([[1.0, 2.0], [1.0, 2.0], [3.0, 4.0]]) for _ in range(2))
    with pytest.raises(LimbeckError, match="use weights wherever samples are counted"):
        paired_gain(CountsRows(), a, b)


def test_what_cannot_be_compared_is_refused():
    a, b = clips()
    with pytest.raises(LimbeckError, match="of the same samples"):
        paired_gain(ErrorRate(), a, b[:3])
    with pytest.raises(LimbeckError, match="none has a target in all networks"):
        paired_gain(ErrorRate(), a * torch.nan, b)
    with pytest.raises(LimbeckError, match="at least one seed"):
        paired_gain_over_seeds(ErrorRate(), [], shared_samples=True)


def test_without_enough_defined_resamples_there_is_no_interval():
    """A rate over length is undefined in resamples of clips without a phoneme."""
    empty = torch.tensor([[0.0, 0.0]] * 5 + [[1.0, 4.0]])
    assert metric_interval(ErrorRate(), empty) is None
    assert paired_gain(ErrorRate(), empty, empty).interval is None
    assert metric_interval(ErrorRate(), torch.tensor([[1.0, 4.0]])) is None
