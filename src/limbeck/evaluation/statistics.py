"""Confidence intervals and significance tests over the samples of a split and over training seeds.

An interval over samples is for another draw of test samples, one over seeds for another training run, which varies more
(Bouthillier et al., 2021, https://arxiv.org/abs/2103.03098). Every interval is of 95 %. The bootstrap is Efron's (1979,
https://doi.org/10.1214/aos/1176344552) with percentile intervals of ``n_resamples`` resamples drawn with ``seed``.

In all functions ``correct_a`` and ``correct_b`` are booleans, whether networks ``a`` and ``b`` are correct on each
sample; where they are paired, they are ``[n]`` for the same samples in the same order. Values over seeds are one per
seed, paired ones for the same seeds in the same order. Invalid arguments raise :class:`LimbeckError`.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError

__all__ = [
    "MIN_GAP",
    "adjust_p_values_holm",
    "bootstrap_mean_ci",
    "gap_recovered",
    "gap_recovered_ci",
    "mcnemar_test",
    "mean_ci",
    "paired_bootstrap",
    "paired_bootstrap_mean",
    "paired_bootstrap_over_seeds",
    "paired_bootstrap_statistic",
    "paired_mean_ci",
    "proportion_interval",
    "required_num_seeds",
    "unpaired_bootstrap",
]

MIN_GAP = 0.005
"""Half a point of accuracy: the fraction of a smaller gap between teacher and baseline is mostly noise."""

_MAX_CHUNK_ELEMENTS = 2_000_000
_MAX_SEEDS = 10_000
_ROUNDING_TOLERANCE = 1e-12  # relative


def paired_bootstrap(
    correct_a: Tensor, correct_b: Tensor, *, n_resamples: int = 10_000, seed: int = 0
) -> tuple[float, float, float]:
    """Difference in accuracy a − b in percentage points, and the low and high end of its interval over samples.

    >>> a, b = torch.tensor([True] * 90 + [False] * 10), torch.tensor([True] * 80 + [False] * 20)
    >>> paired_bootstrap(a, b)
    (10.0, 5.0, 16.0)
    """
    n, (only_a, only_b) = len(correct_a), _count_discordant(correct_a, correct_b)
    # The numbers of +1, −1 and 0 among n resampled differences are multinomial.
    fractions = [only_a / n, only_b / n, (n - only_a - only_b) / n]
    counts = _draw_counts(np.random.default_rng(seed), n, fractions, n_resamples)
    return 100.0 * (only_a - only_b) / n, *_percentiles((counts[:, 0] - counts[:, 1]) * (100.0 / n))


def paired_bootstrap_over_seeds(
    pairs: Sequence[tuple[Tensor, Tensor]], *, shared_samples: bool, n_resamples: int = 2_000, seed: int = 0
) -> dict[str, float]:
    """Difference in accuracy, mean over training seeds, with its interval over samples.

    ``pairs`` holds ``(correct_a, correct_b)`` of each seed. If all seeds have the same samples in the same order
    (``shared_samples``), these are resampled once for all seeds, since a hard sample is hard for each of them; else the
    samples of each seed are resampled separately. Returns ``mean``, ``low`` and ``high`` in percentage points.
    """
    if not pairs:
        raise LimbeckError("pairs must hold at least one seed, got none")
    differences = [a.int() - b.int() for a, b in (_check_correctness(*pair) for pair in pairs)]
    if shared_samples and len(lengths := {len(difference) for difference in differences}) > 1:
        raise LimbeckError(f"seeds with shared samples must have equally many, got {sorted(lengths)}")
    rng, resampled = np.random.default_rng(seed), np.zeros(n_resamples)
    for group in [torch.stack(differences).sum(dim=0)] if shared_samples else differences:
        values, counts = np.unique(group.numpy(), return_counts=True)
        resampled += _draw_counts(rng, len(group), counts / len(group), n_resamples) @ values / len(group)
    low, high = _percentiles(resampled * (100 / len(differences)))
    mean = sum(100 * int(difference.sum()) / len(difference) for difference in differences) / len(differences)
    return {"mean": mean, "low": low, "high": high}


def paired_bootstrap_statistic(
    statistic: Callable[[Tensor], float | Tensor], rows_a: Tensor, rows_b: Tensor, *, n_resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """``difference`` a − b of ``statistic`` of ``[n, ...]`` rows, its ``low`` and ``high`` end, and ``num_samples``."""
    n = _check_same_samples(rows_a, rows_b)
    generator, resampled = torch.Generator().manual_seed(seed), list[float]()
    for _ in range(n_resamples):
        indices = torch.randint(n, (n,), generator=generator)
        resampled.append(float(statistic(rows_a[indices])) - float(statistic(rows_b[indices])))
    return _difference_ci(float(statistic(rows_a)) - float(statistic(rows_b)), resampled, n)


def paired_bootstrap_mean(
    values_a: Tensor, values_b: Tensor, *, n_resamples: int = 10_000, seed: int = 0
) -> dict[str, Any]:
    """:func:`paired_bootstrap_statistic` of the mean of ``[n]`` values, vectorized."""
    n = _check_same_samples(values_a, values_b)
    generator, differences = torch.Generator().manual_seed(seed), values_a.double() - values_b.double()
    chunk_size = max(1, _MAX_CHUNK_ELEMENTS // n)
    resampled = [
        differences[torch.randint(n, (min(chunk_size, n_resamples - start), n), generator=generator)].mean(dim=1)
        for start in range(0, n_resamples, chunk_size)
    ]
    return _difference_ci(float(differences.mean()), torch.cat(resampled).numpy(), n)


def unpaired_bootstrap(
    correct_a: Tensor, correct_b: Tensor, *, n_resamples: int = 10_000, seed: int = 0
) -> dict[str, Any]:
    """Difference in accuracy on different samples in percentage points, as :func:`paired_bootstrap_statistic`."""
    if not len(correct_a) or not len(correct_b):
        raise LimbeckError(f"both sides must have at least one sample, got {len(correct_a)} and {len(correct_b)}")
    rng, accuracies, resampled = np.random.default_rng(seed), list[float](), list[Any]()
    for correct in (correct_a, correct_b):
        accuracies.append(float(correct.double().mean()))
        resampled.append(rng.binomial(len(correct), accuracies[-1], n_resamples) / len(correct))
    difference = round(100 * (accuracies[0] - accuracies[1]), 10)
    return _difference_ci(difference, 100 * (resampled[0] - resampled[1]), len(correct_a))


def proportion_interval(proportion: float | None, num_samples: int, *, seed: int = 0) -> tuple[float, float] | None:
    """Bootstrap interval of a proportion, such as accuracy, over its samples; ``None`` without samples.

    At 0 and 1, where every resample is the same, it is the exact one-sided bound ``0.05 ** (1 / n)`` ("rule of three").
    """
    if proportion is None or num_samples < 1 or not math.isfinite(proportion):
        return None
    if proportion >= 1:
        return 0.05 ** (1 / num_samples), 1.0
    if proportion <= 0:
        return 0.0, 1 - 0.05 ** (1 / num_samples)
    return _percentiles(np.random.default_rng(seed).binomial(num_samples, proportion, size=10_000) / num_samples)


def mcnemar_test(correct_a: Tensor, correct_b: Tensor) -> dict[str, Any]:
    """McNemar's exact test of two networks (1947, https://doi.org/10.1007/BF02295996), ``a`` is the variant.

    Returns the numbers of samples that only one classifies correctly, and the two-sided binomial ``p_value``, 1 without
    such samples.

    >>> mcnemar_test(torch.tensor([True] * 7 + [False]), torch.tensor([True] + [False] * 6 + [True]))
    {'only_variant_correct': 6, 'only_baseline_correct': 1, 'p_value': 0.125}
    """
    from scipy.stats import binomtest  # type: ignore[import-untyped,unused-ignore]

    only_a, only_b = _count_discordant(correct_a, correct_b)
    p_value = float(binomtest(only_a, only_a + only_b, 0.5).pvalue) if only_a + only_b else 1.0
    return {"only_variant_correct": only_a, "only_baseline_correct": only_b, "p_value": p_value}


def mean_ci(values: Sequence[float]) -> dict[str, Any]:
    """``mean`` over seeds, ``low`` and ``high`` of Student's t interval (``None`` for one seed), and ``num_seeds``."""
    values = _check_finite(values)
    low, high, _ = _t_test(values)
    return {"mean": fmean(values), "low": low, "high": high, "num_seeds": len(values)}


def bootstrap_mean_ci(values: Sequence[float], *, n_resamples: int = 10_000, seed: int = 0) -> dict[str, Any]:
    """``mean`` and ``std`` (n − 1) over seeds, the bootstrap interval ``low`` to ``high``, and ``num_seeds``.

    ``std``, ``low`` and ``high`` are ``None`` for one seed.
    """
    values = _check_finite(values)
    low, high = _percentile_interval(_bootstrap_means([values], n_resamples, seed)[0], len(values))
    return {"mean": fmean(values), "std": _std(values), "low": low, "high": high, "num_seeds": len(values)}


def paired_mean_ci(
    values_a: Sequence[float], values_b: Sequence[float], *, n_resamples: int = 10_000, seed: int = 0
) -> dict[str, Any]:
    """Mean difference a − b over seeds, with two intervals and the paired t-test.

    For few seeds the bootstrap interval is too narrow (`benchmarks/coverage.py` measures by how much); Student's
    interval (1908, https://doi.org/10.1093/biomet/6.1.1) is exact for normal differences. Where all differences are
    equal up to rounding, both intervals are the mean itself and ``p_value`` is 1 for a difference of zero, else 0.

    Returns:
        ``mean``, ``std`` (with n − 1), ``low`` and ``high`` (bootstrap), ``t_low`` and ``t_high`` (Student's t), the
        two-sided ``p_value``, and ``num_seeds``; for one seed all but ``mean`` and ``num_seeds`` are ``None``.

    >>> gain = paired_mean_ci([92.0, 93.5, 94.0], [91.0, 91.5, 91.0])
    >>> {name: round(value, 3) for name, value in gain.items() if name not in ("low", "high")}
    {'mean': 2.0, 'std': 1.0, 't_low': -0.484, 't_high': 4.484, 'p_value': 0.074, 'num_seeds': 3}
    """
    differences = _paired_differences(values_a, values_b)
    summary = bootstrap_mean_ci(differences, n_resamples=n_resamples, seed=seed)
    t_low, t_high, p_value = _t_test(differences)
    num_seeds = summary.pop("num_seeds")
    return {**summary, "t_low": t_low, "t_high": t_high, "p_value": p_value, "num_seeds": num_seeds}


def gap_recovered(baseline: float, distilled: float, teacher: float, *, min_gap: float = MIN_GAP) -> float | None:
    """Fraction of the gap between baseline and teacher that distillation closes.

    Negative where the distilled student is below the baseline, above 1 where it is above its teacher. ``None`` where
    the teacher is not above the baseline by at least ``min_gap``.

    >>> round(gap_recovered(0.90, 0.93, 0.95), 4), gap_recovered(0.95, 0.96, 0.95)
    (0.6, None)
    """
    gap = teacher - baseline
    return (distilled - baseline) / gap if gap > 0 and gap >= min_gap else None


def gap_recovered_ci(
    baseline: Sequence[float], distilled: Sequence[float], teacher: Sequence[float] | float, *,
    min_gap: float = MIN_GAP, n_resamples: int = 10_000, seed: int = 0,
) -> dict[str, Any] | None:  # fmt: skip
    """:func:`gap_recovered` over seeds: mean gain over mean gap, with the bootstrap interval over seeds.

    A ratio of means, since in a mean of ratios one seed with a small gap would dominate. ``teacher`` is one accuracy
    per seed or one for all.

    Returns:
        ``fraction``, ``low``, ``high`` and ``num_seeds``, or ``None`` where the mean gap is below ``min_gap``. An end
        of the interval is ``None`` for one seed, and where it falls on a resample without a gap.
    """
    teacher_values = [float(value) for value in np.ravel(teacher)]
    teacher_per_seed = teacher_values if np.ndim(teacher) else teacher_values * len(baseline)
    gains, gaps = _paired_differences(distilled, baseline), _paired_differences(teacher_per_seed, baseline)
    if not (fmean(gaps) > 0 and fmean(gaps) >= min_gap):
        return None
    gain, gap = _bootstrap_means([gains, gaps], n_resamples, seed)
    ratios = np.where(gap > 0, gain / np.where(gap > 0, gap, 1.0), np.where(gain < 0, -np.inf, np.inf))
    low, high = _percentile_interval(ratios, len(gains))
    return {"fraction": fmean(gains) / fmean(gaps), "low": low, "high": high, "num_seeds": len(gains)}


def required_num_seeds(differences: Sequence[float], *, power: float = 0.8) -> int | None:
    """Number of seeds at which the paired t-test detects a difference of this size and spread (two-sided, 5 %).

    By the noncentral t distribution (Cohen, 1988, chapter 2), with the observed mean and spread taken as the true ones.
    At least 2; ``None`` for fewer than two differences, a mean of zero, or more than 10,000 seeds.

    >>> required_num_seeds([1.0, 2.0, 3.0]), required_num_seeds([-1.0, 1.0, 0.9]), required_num_seeds([0.5])
    (5, 113, None)
    """
    if not 0 < power < 1:
        raise LimbeckError(f"power must be between 0 and 1, such as 0.8, got {power}")
    if len(differences) < 2:
        return None
    values = _check_finite(differences)
    mean, std = abs(fmean(values)), _std(values) or 0.0
    if mean <= _ROUNDING_TOLERANCE * max(map(abs, values)):
        return None
    if std <= _ROUNDING_TOLERANCE * mean:
        return 2
    from scipy.stats import nct, t

    # Above an effect size of 10,000 the noncentral t overflows, and the power is 1.
    effect_size = min(mean / std, 1e4)
    num_seeds = bisect_left(
        range(_MAX_SEEDS + 1), power, lo=2,
        key=lambda n: float(nct.sf(t.ppf(0.975, n - 1), n - 1, effect_size * math.sqrt(n))),
    )  # fmt: skip
    return num_seeds if num_seeds <= _MAX_SEEDS else None


def adjust_p_values_holm(p_values: Sequence[float]) -> list[float]:
    """P-values of several tests, adjusted by Holm's step-down method (1979, https://www.jstor.org/stable/4615733).

    >>> adjust_p_values_holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    if not all(0 <= p_value <= 1 for p_value in p_values):
        raise LimbeckError(f"p-values must be between 0 and 1, got {list(p_values)}")
    values, num_tests = np.asarray(p_values, dtype=float), len(p_values)
    order, adjusted = values.argsort(kind="stable"), np.empty(num_tests)
    adjusted[order] = np.maximum.accumulate(np.minimum(1.0, np.arange(num_tests, 0, -1) * values[order]))
    return [float(value) for value in adjusted]


def _check_correctness(correct_a: Tensor, correct_b: Tensor) -> tuple[Tensor, Tensor]:
    if correct_a.dtype != torch.bool or correct_b.dtype != torch.bool:
        raise LimbeckError(f"correctness must be booleans, got {correct_a.dtype} and {correct_b.dtype}")
    _check_same_samples(correct_a, correct_b)
    return correct_a.detach().cpu(), correct_b.detach().cpu()


def _check_same_samples(rows_a: Tensor, rows_b: Tensor) -> int:
    if rows_a.shape != rows_b.shape or not rows_a.ndim or not len(rows_a):
        raise LimbeckError(
            "paired rows must be of the same samples, at least one, and of one shape, "
            f"got {list(rows_a.shape)} and {list(rows_b.shape)}"
        )
    return len(rows_a)


def _check_finite(values: Sequence[float]) -> list[float]:
    if not len(values) or not all(math.isfinite(value) for value in values):
        raise LimbeckError(f"values over seeds must be at least one value, all finite, got {list(values)}")
    return [float(value) for value in values]


def _count_discordant(correct_a: Tensor, correct_b: Tensor) -> tuple[int, int]:
    """Numbers of samples on which only ``a``, and on which only ``b`` is correct."""
    correct_a, correct_b = _check_correctness(correct_a, correct_b)
    return int((correct_a & ~correct_b).sum()), int((correct_b & ~correct_a).sum())


def _paired_differences(values_a: Sequence[float], values_b: Sequence[float]) -> list[float]:
    """Differences by seed, rounded to 12 digits so that equal gains are exactly equal."""
    if len(values_a) != len(values_b):
        raise LimbeckError(f"paired values must have the same number of seeds, got {len(values_a)} and {len(values_b)}")
    values_a, values_b = _check_finite(values_a), _check_finite(values_b)
    largest = max(map(abs, (*values_a, *values_b)))
    digits = 12 - math.floor(math.log10(largest)) if largest else 12
    return [round(a - b, digits) for a, b in zip(values_a, values_b, strict=True)]


def _draw_counts(rng: np.random.Generator, n: int, fractions: Any, n_resamples: int) -> Any:
    """``[resamples, groups]`` numbers of draws out of each group, of ``n`` in all."""
    if n_resamples < 1:
        raise LimbeckError(f"n_resamples must be at least 1, got {n_resamples}")
    return rng.multinomial(n, fractions, size=n_resamples)


def _bootstrap_means(metrics: Sequence[Sequence[float]], n_resamples: int, seed: int) -> Any:
    """``[metrics, resamples]`` means of resampled seeds, with the same resamples for every metric."""
    values = np.asarray(metrics, dtype=float)
    n = values.shape[1]
    return values @ _draw_counts(np.random.default_rng(seed), n, np.full(n, 1 / n), n_resamples).T / n


def _percentiles(resampled: Any, method: Any = "linear") -> tuple[float, float]:
    low, high = np.quantile(resampled, (0.025, 0.975), method=method)
    return float(low), float(high)


def _difference_ci(difference: float, resampled: Any, num_samples: int) -> dict[str, Any]:
    low, high = _percentiles(resampled)
    return {"difference": difference, "low": low, "high": high, "num_samples": num_samples}


def _percentile_interval(resampled: Any, num_seeds: int) -> tuple[float | None, float | None]:
    """Ends of the percentile interval; an end that is not finite, or of one seed, is ``None``."""
    if num_seeds < 2:
        return None, None
    # "nearest", since a linear interpolation with an infinite value is NaN.
    low, high = _percentiles(resampled, "nearest")
    return (low if math.isfinite(low) else None), (high if math.isfinite(high) else None)


def _std(values: Sequence[float]) -> float | None:
    """Standard deviation with n − 1; 0 where only rounding differs."""
    if len(values) < 2:
        return None
    std = stdev(values)
    return 0.0 if std <= _ROUNDING_TOLERANCE * abs(fmean(values)) else std


def _t_test(values: Sequence[float]) -> tuple[float | None, float | None, float | None]:
    """Ends of Student's interval of the mean, and the p-value of the test against zero."""
    mean, std = fmean(values), _std(values)
    if std is None:
        return None, None, None
    if not std:
        return mean, mean, 0.0 if mean else 1.0
    from scipy.stats import ttest_1samp

    result = ttest_1samp(values, 0.0)
    interval = result.confidence_interval(0.95)
    return float(interval.low), float(interval.high), float(result.pvalue)
