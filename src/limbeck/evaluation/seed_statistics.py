"""Did it help, over seeds: means with intervals, differences paired by seed, and how many seeds would tell.

A run's seed draws the first weights and the order of the batches, and is the larger part of what makes two trainings
differ (Bouthillier et al., 2021, https://arxiv.org/abs/2103.03098). Arms of a study share their seeds, so differences
are taken seed by seed. The bootstrap is Efron's (1979, https://doi.org/10.1214/aos/1176344552), with percentile
intervals; all intervals are of 95 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from limbeck.core.errors import LimbeckError
from limbeck.evaluation.paired_bootstrap import MIN_GAP

__all__ = ["adjust_p_values_holm", "bootstrap_mean_ci", "gap_recovered_ci", "paired_mean_ci", "required_num_seeds"]

_MAX_SEEDS = 10_000
_ROUNDING_TOLERANCE = 1e-12  # relative: what float64 arithmetic may leave where there is nothing


def bootstrap_mean_ci(values: Sequence[float], *, n_resamples: int = 10_000, seed: int = 0) -> dict[str, Any]:
    """The mean of one figure over seeds, its standard deviation, and the percentile bootstrap's interval.

    Args:
        values: the figure, one value for each seed.
        n_resamples: how many times the seeds are drawn again.
        seed: of the draws.

    Returns:
        ``mean``, ``std`` (with n − 1), ``low``, ``high`` and ``num_seeds``; from one seed ``std``, ``low`` and ``high`` are
        ``None``.

    Raises:
        LimbeckError: no value, or one that is not finite.

    >>> {name: round(value, 2) for name, value in bootstrap_mean_ci([1.0, 2.0, 3.0]).items()}
    {'mean': 2.0, 'std': 1.0, 'low': 1.0, 'high': 3.0, 'num_seeds': 3}
    """
    checked_values = _require_finite(values, "a mean over seeds")
    low, high = _percentile_interval(_bootstrap_means([checked_values], n_resamples, seed)[0], len(checked_values))
    return {
        "mean": _mean(checked_values),
        "std": _std(checked_values),
        "low": low,
        "high": high,
        "num_seeds": len(checked_values),
    }


def paired_mean_ci(
    values_a: Sequence[float], values_b: Sequence[float], *, n_resamples: int = 10_000, seed: int = 0
) -> dict[str, Any]:
    """The mean difference ours − theirs over seeds, paired by seed, with two intervals and the paired t-test.

    A percentile bootstrap of few seeds is too narrow: it knows no value beyond those seen, and of normal differences
    its 95 % interval holds the truth far less often (`benchmarks/coverage.py` measures how often). Student's t
    interval (1908, https://doi.org/10.1093/biomet/6.1.1) is right for normal differences at any n, and told beside it.

    Differences that are equal but for rounding have no spread: both intervals are then the mean itself, and ``p_value`` is 1
    where they are zero and 0 otherwise, which is the limit of the formula and no proof (see
    :data:`limbeck.report.RULE_OVER_SEEDS`).

    Args:
        values_a: a figure of one variant, one value for each seed.
        values_b: of the other variant, for the same seeds in the same order.
        n_resamples: how many times the seeds are drawn again.
        seed: of the draws.

    Returns:
        ``mean``, ``std`` (with n − 1), ``low`` and ``high`` by bootstrap, ``t_low`` and ``t_high`` by Student's t, the
        two-sided ``p_value`` of the paired t-test, and ``num_seeds``; from one seed all but ``mean`` and ``num_seeds`` are ``None``.

    Raises:
        LimbeckError: different numbers of seeds, none, or a value that is not finite.

    >>> gain = paired_mean_ci([92.0, 93.5, 94.0], [91.0, 91.5, 91.0])
    >>> {name: round(value, 3) for name, value in gain.items() if name not in ("low", "high")}
    {'mean': 2.0, 'std': 1.0, 't_low': -0.484, 't_high': 4.484, 'p_value': 0.074, 'num_seeds': 3}
    >>> gain["low"], gain["high"]
    (1.0, 3.0)
    """
    differences = _paired_differences(values_a, values_b)
    summary = bootstrap_mean_ci(differences, n_resamples=n_resamples, seed=seed)
    t_low, t_high, p = _t_interval(differences)
    num_seeds = summary.pop("num_seeds")
    return {**summary, "t_low": t_low, "t_high": t_high, "p_value": p, "num_seeds": num_seeds}


def gap_recovered_ci(
    baseline: Sequence[float],
    distilled: Sequence[float],
    teacher: Sequence[float] | float,
    *,
    min_gap: float = MIN_GAP,
    n_resamples: int = 10_000,
    seed: int = 0,
) -> dict[str, Any] | None:
    """The share of the gap to the teacher that distillation closed: the mean gain over the mean gap.

    A ratio of means and not a mean of ratios, since one seed with hardly a gap would carry all others. Seeds are drawn
    again jointly, with all their figures. A draw without a gap has a share beyond all numbers, and an interval's end
    that falls on such a draw is ``None``.

    Args:
        baseline: accuracy of the same student without a teacher, a fraction for each seed.
        distilled: accuracy of the distilled student, for the same seeds in the same order.
        teacher: accuracy of the teacher, for each seed or one for all.
        min_gap: the smallest mean gap, in the same unit, of which a share is told.
        n_resamples: how many times the seeds are drawn again.
        seed: of the draws.

    Returns:
        ``fraction``, ``low``, ``high`` and ``num_seeds``, or ``None`` where the mean gap is smaller than ``min_gap``; from one
        seed ``low`` and ``high`` are ``None``.

    Raises:
        LimbeckError: different numbers of seeds, none, or a value that is not finite.

    >>> found = gap_recovered_ci([0.90, 0.92], [0.93, 0.94], 0.96)
    >>> {name: round(value, 3) for name, value in found.items()}
    {'fraction': 0.5, 'low': 0.5, 'high': 0.5, 'num_seeds': 2}
    """
    import numpy as np

    teacher_values = [float(value) for value in np.ravel(teacher)]
    teacher_per_seed = teacher_values if np.ndim(teacher) else teacher_values * len(baseline)
    gains, gaps = _paired_differences(distilled, baseline), _paired_differences(teacher_per_seed, baseline)
    if not (_mean(gaps) > 0 and _mean(gaps) >= min_gap):
        return None
    gain, gap = _bootstrap_means([gains, gaps], n_resamples, seed)
    ratios = np.where(gap > 0, gain / np.where(gap > 0, gap, 1.0), np.where(gain < 0, -np.inf, np.inf))
    low, high = _percentile_interval(ratios, len(gains))
    return {"fraction": _mean(gains) / _mean(gaps), "low": low, "high": high, "num_seeds": len(gains)}


def required_num_seeds(differences: Sequence[float], *, power: float = 0.8) -> int | None:
    """How many seeds would tell a difference of this size at this spread, by the paired t-test at 95 %.

    The smallest n at which the test, two-sided, finds the difference in its own direction with probability ``power``,
    by the noncentral t distribution (Cohen, 1988, chapter 2). The mean and the spread seen are taken for the true ones,
    which of few seeds is a rough guess.

    Args:
        differences: ours − theirs, one for each seed.
        power: the wished probability of telling it.

    Returns:
        At least 2; where there is no spread, 2. ``None`` from fewer than two differences, where their mean is zero, and
        where 10,000 seeds would not do.

    Raises:
        LimbeckError: a difference that is not finite, or a power outside (0, 1).

    >>> required_num_seeds([1.0, 2.0, 3.0]), required_num_seeds([-1.0, 1.0, 0.9]), required_num_seeds([0.5])
    (5, 113, None)
    """
    if not 0 < power < 1:
        raise LimbeckError(f"the power is a probability between 0 and 1, such as 0.8, not {power}")
    if len(differences) < 2:
        return None
    checked_differences = _require_finite(differences, "a number of seeds")
    mean, std = abs(_mean(checked_differences)), _std(checked_differences) or 0.0
    if mean <= _ROUNDING_TOLERANCE * max(map(abs, checked_differences)):
        return None
    if std <= _ROUNDING_TOLERANCE * mean or _t_test_power(2, mean / std) >= power:
        return 2
    if _t_test_power(_MAX_SEEDS, mean / std) < power:
        return None
    too_few, enough = 2, _MAX_SEEDS  # the power grows with n
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        too_few, enough = (too_few, middle) if _t_test_power(middle, mean / std) >= power else (middle, enough)
    return enough


def adjust_p_values_holm(p_values: Sequence[float]) -> list[float]:
    """P-values of several comparisons, adjusted so that the chance of any false finding stays at 5 % below 0.05.

    Holm's step-down method (1979, https://www.jstor.org/stable/4615733); it asks nothing about how the tests depend on
    each other.

    Raises:
        LimbeckError: a value outside [0, 1].

    >>> adjust_p_values_holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    if not all(0 <= p <= 1 for p in p_values):
        raise LimbeckError(f"a p-value is between 0 and 1, not {list(p_values)}")
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * float(p_values[index])))
        adjusted[index] = highest
    return adjusted


def _require_finite(values: Sequence[float], name: str) -> list[float]:
    if not len(values) or not all(math.isfinite(value) for value in values):
        raise LimbeckError(f"{name} takes at least one value, all finite, not {list(values)}")
    return [float(value) for value in values]


def _paired_differences(values_a: Sequence[float], values_b: Sequence[float]) -> list[float]:
    """Seed by seed, without what subtracting leaves behind the 12th digit: gains alike are then exactly alike."""
    if len(values_a) != len(values_b):
        raise LimbeckError(
            f"figures are paired by seed, so both variants have one for each seed, not {len(values_a)} and {len(values_b)}"
        )
    values_a, values_b = (
        _require_finite(values_a, "a difference over seeds"),
        _require_finite(values_b, "a difference over seeds"),
    )
    largest = max(map(abs, (*values_a, *values_b)))
    digits = 12 - math.floor(math.log10(largest)) if largest else 12
    return [round(a - b, digits) for a, b in zip(values_a, values_b, strict=True)]


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _std(values: Sequence[float]) -> float | None:
    """The standard deviation with n − 1, where rounding counts as no spread."""
    if len(values) < 2:
        return None
    mean = _mean(values)
    std = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
    return 0.0 if std <= _ROUNDING_TOLERANCE * abs(mean) else std


def _bootstrap_means(values_by_metric: Sequence[Sequence[float]], n_resamples: int, seed: int) -> Any:
    """``[figures, resamples]`` means of drawing the seeds again, the same draws for all figures."""
    import numpy as np

    if n_resamples < 1:
        raise LimbeckError(f"n_resamples is at least 1, not {n_resamples}")
    values = np.asarray(values_by_metric, dtype=float)
    n = values.shape[1]
    # How often each seed is drawn says all of a draw, and is a product of matrices instead of an index.
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=n_resamples)
    return values @ counts.T / n


def _percentile_interval(resampled: Any, n: int) -> tuple[float | None, float | None]:
    """The percentile interval of drawn values; an end that is not finite, or from one seed, is ``None``."""
    import numpy as np

    if n < 2:
        return None, None
    # A value that was drawn, not one between two: there is none between a number and infinity.
    low, high = (float(end) for end in np.quantile(resampled, [0.025, 0.975], method="nearest"))
    return (low if math.isfinite(low) else None), (high if math.isfinite(high) else None)


def _t_interval(differences: Sequence[float]) -> tuple[float | None, float | None, float | None]:
    """Low and high end of Student's interval, and the p of the test against zero."""
    mean, std, n = _mean(differences), _std(differences), len(differences)
    if std is None:
        return None, None, None
    if not std:
        return mean, mean, 0.0 if mean else 1.0
    from scipy.stats import t  # type: ignore[import-untyped,unused-ignore]

    error = std / math.sqrt(n)
    half_width = float(t.ppf(0.975, n - 1)) * error
    return mean - half_width, mean + half_width, 2 * float(t.sf(abs(mean) / error, n - 1))


def _t_test_power(n: int, effect_size: float) -> float:
    """The chance that the paired t-test of n seeds finds a difference of ``effect_size`` standard deviations."""
    from scipy.stats import nct, t

    # Beyond 10,000 deviations the distribution's own arithmetic fails, and the chance has long been 1.
    return float(nct.sf(t.ppf(0.975, n - 1), n - 1, min(effect_size, 1e4) * math.sqrt(n)))
