"""Bootstrap intervals of the primary metric of a task, and of the gain of one network over another, over samples.

Samples are resampled, never rows: a resample draws as many samples as there are, with replacement (Efron, 1979,
https://doi.org/10.1214/aos/1176344552), the metric is computed of each resample, and the interval is from the 2.5 % to
the 97.5 % quantile. Two networks are compared on the same resamples. Samples with equal statistics are one group, and
a resample is a multinomial number of each group, which has the same distribution.

Statistics are ``[n, k]``, see :class:`limbeck.core.task.Scores`. A sample with NaN in one of the compared networks has
no target, and is left out of all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.core.metric_spec import MetricSpec
from limbeck.evaluation.statistics import (
    mcnemar_test,
    paired_bootstrap,
    paired_bootstrap_over_seeds,
    proportion_interval,
)

__all__ = [
    "MetricGain",
    "PrimaryMetric",
    "check_metric_value",
    "is_proportion",
    "labeled_pair",
    "metric_interval",
    "metric_mcnemar_test",
    "paired_gain",
    "paired_gain_over_seeds",
]

_NUM_RESAMPLES: Final = 10_000
_FEWER_RESAMPLES: Final = 1_000
_MAX_GROUPS: Final = 5_000
_MAX_ELEMENTS: Final = 200_000
_CHUNK_ELEMENTS: Final = 2_000_000
_MIN_DEFINED: Final = 0.95


class PrimaryMetric(Protocol):
    """The part of :class:`limbeck.core.task.EvaluableTask` that an interval needs.

    The optional attribute ``max_resamples`` limits the default number of resamples of a metric that takes long.
    """

    @property
    def primary_metric(self) -> MetricSpec: ...

    def metric_value(self, statistics: Tensor, weights: Tensor | None = None) -> Tensor:
        """See :meth:`limbeck.core.task.EvaluableTask.metric_value`."""


class MetricGain(NamedTuple):
    """How much better one network is than another, in the unit of differences of the metric; above zero is better.

    Attributes:
        gain: on all samples.
        interval: both ends of the 95 % interval, or ``None``: of a single sample, or where the metric is undefined in
            more than 5 % of the resamples.
        num_resamples: of the bootstrap.
    """

    gain: float
    interval: tuple[float, float] | None
    num_resamples: int


def metric_interval(
    task: PrimaryMetric, statistics: Tensor, *, n_resamples: int | None = None, seed: int = 0
) -> tuple[float, float] | None:
    """The 95 % interval of the primary metric over samples, in its own scale.

    That of an accuracy (:func:`is_proportion`) is :func:`limbeck.evaluation.proportion_interval`.

    Args:
        task: computes the metric.
        statistics: ``[n, k]`` of one network.
        n_resamples: ``None``: 10,000, or 1,000 of more than 5,000 different samples or 200,000 different values.
        seed: of the resamples.

    Returns:
        Both ends, or ``None`` as in :class:`MetricGain`.
    """
    (labeled,) = _select_labeled(statistics)
    if is_proportion(task, labeled):
        return proportion_interval(float(labeled.mean()), len(labeled), seed=seed)
    return None if len(labeled) < 2 else _percentiles(_resample(task, [labeled], seed, n_resamples)[0])


def paired_gain(
    task: PrimaryMetric, statistics_a: Tensor, statistics_b: Tensor, *, n_resamples: int | None = None, seed: int = 0
) -> MetricGain:
    """How much better ``a`` is than ``b`` by the primary metric, with the interval over samples.

    That of an accuracy (:func:`is_proportion`) is :func:`limbeck.evaluation.paired_bootstrap`.

    Args:
        task: computes the metric.
        statistics_a: ``[n, k]``.
        statistics_b: of the same samples in the same order.
        n_resamples: see :func:`metric_interval`.
        seed: of the resamples.
    """
    a, b = labeled_pair(statistics_a, statistics_b)
    if is_proportion(task, a, b):
        num_resamples, factor = n_resamples or _NUM_RESAMPLES, _factor(task) / 100
        gain, *ends = paired_bootstrap(a[:, 0] == 1, b[:, 0] == 1, n_resamples=num_resamples, seed=seed)
        low, high = sorted(factor * end for end in ends)
        return MetricGain(factor * gain, (low, high), num_resamples)
    values = _resample(task, [a, b], seed, n_resamples)
    interval = None if len(a) < 2 else _percentiles(_factor(task) * (values[0] - values[1]))
    return MetricGain(_gain(task, a, b), interval, values.shape[1])


def paired_gain_over_seeds(
    task: PrimaryMetric, pairs: Sequence[tuple[Tensor, Tensor]], *, shared_samples: bool, n_resamples: int = 2_000,
    seed: int = 0,
) -> MetricGain:  # fmt: skip
    """:func:`paired_gain`, the mean over training seeds.

    Args:
        task: computes the metric.
        pairs: the statistics of ``a`` and ``b`` of each seed.
        shared_samples: whether all seeds have the same samples in the same order. These are resampled once for all
            seeds, since a hard sample is hard for each of them; else those of each seed are resampled separately.
        n_resamples: number of resamples, at most ``max_resamples`` of the task.
        seed: of the resamples.
    """
    if not pairs:
        raise LimbeckError("pairs must hold at least one seed, got none")
    if shared_samples:
        sides = _select_labeled(*(side for pair in pairs for side in pair))
        pairs = list(zip(sides[::2], sides[1::2], strict=True))
    else:
        pairs = [labeled_pair(*pair) for pair in pairs]
    if all(is_proportion(task, *pair) for pair in pairs):
        correct, factor = [(a[:, 0] == 1, b[:, 0] == 1) for a, b in pairs], _factor(task) / 100
        result = paired_bootstrap_over_seeds(correct, shared_samples=shared_samples, n_resamples=n_resamples, seed=seed)
        low, high = sorted(factor * result[end] for end in ("low", "high"))
        return MetricGain(factor * result["mean"], (low, high), n_resamples)
    n_resamples = _limit_resamples(task, n_resamples)
    resampled = np.zeros(n_resamples)
    groups = [[side for pair in pairs for side in pair]] if shared_samples else pairs
    for offset, group in enumerate(groups):
        values = _resample(task, group, seed + offset, n_resamples)
        resampled += (values[::2] - values[1::2]).sum(axis=0)
    interval = None if min(len(a) for a, _ in pairs) < 2 else _percentiles(_factor(task) * resampled / len(pairs))
    return MetricGain(fmean(_gain(task, a, b) for a, b in pairs), interval, n_resamples)


def metric_mcnemar_test(task: PrimaryMetric, statistics_a: Tensor, statistics_b: Tensor) -> dict[str, Any] | None:
    """:func:`limbeck.evaluation.mcnemar_test` of an accuracy (:func:`is_proportion`); ``None`` of another metric."""
    a, b = labeled_pair(statistics_a, statistics_b)
    return mcnemar_test(a[:, 0] == 1, b[:, 0] == 1) if is_proportion(task, a, b) else None


def is_proportion(task: PrimaryMetric, *statistics: Tensor) -> bool:
    """Whether the metric is the mean of one column of zeros and ones, as accuracy is, for which exact tests exist."""
    if any(rows.shape[1] != 1 or not len(rows) or bool(((rows != 0) & (rows != 1)).any()) for rows in statistics):
        return False
    probe = torch.tensor([[1.0], [0.0], [0.0]], dtype=torch.float64)
    return abs(float(task.metric_value(probe)) - 1 / 3) < 1e-12


def labeled_pair(statistics_a: Tensor, statistics_b: Tensor) -> tuple[Tensor, Tensor]:
    """The statistics of the samples that have a target in both."""
    a, b = _select_labeled(statistics_a, statistics_b)
    return a, b


def check_metric_value(task: PrimaryMetric, statistics: Tensor) -> None:
    """Refuse a metric that counts rows where it must count weights: its intervals would be of another metric.

    Args:
        task: computes the metric.
        statistics: ``[n, k]`` of some samples with a target.
    """
    twice = torch.full((len(statistics),), 2)
    _check_weights(task, statistics.repeat(2, 1), statistics, twice)


def _select_labeled(*statistics: Tensor) -> list[Tensor]:
    """The samples with a target in all of ``statistics``, in float64 on the CPU."""
    rows = [values.detach().cpu().double() for values in statistics]
    if any(values.ndim != 2 or not values.shape[1] or values.shape != rows[0].shape for values in rows):
        shapes = " and ".join(str(list(values.shape)) for values in rows)
        raise LimbeckError(f"statistics must be [n, k] of the same samples, got {shapes}")
    is_labeled = ~torch.cat(rows, dim=1).isnan().any(dim=1)
    if not bool(is_labeled.any()):
        both = "" if len(rows) == 1 else " in all networks"
        raise LimbeckError(f"of {len(is_labeled)} samples none has a target{both}; use a labeled split")
    return [values[is_labeled] for values in rows]


def _resample(task: PrimaryMetric, statistics: Sequence[Tensor], seed: int, n_resamples: int | None) -> Any:
    """``[len(statistics), resamples]`` metrics, all on the same resamples of the samples."""
    joined = torch.cat(list(statistics), dim=1)
    rows, counts = joined.unique(dim=0, return_counts=True)  # type: ignore[no-untyped-call]
    groups = [group.contiguous() for group in rows.chunk(len(statistics), dim=1)]
    for side, group in zip(statistics, groups, strict=True):
        _check_weights(task, side, group, counts)
    if n_resamples is None:
        is_cheap = len(rows) <= _MAX_GROUPS and rows.numel() <= _MAX_ELEMENTS
        n_resamples = _NUM_RESAMPLES if is_cheap else _FEWER_RESAMPLES
        n_resamples = _limit_resamples(task, n_resamples)
    values = [
        np.stack([task.metric_value(group, weights).double().numpy() for group in groups])
        for weights in _draw_weights(counts, n_resamples, seed)
    ]
    return np.concatenate(values, axis=1)


def _limit_resamples(task: PrimaryMetric, n_resamples: int) -> int:
    return min(n_resamples, getattr(task, "max_resamples", n_resamples))


def _draw_weights(counts: Tensor, n_resamples: int, seed: int) -> Iterator[Tensor]:
    """Chunks ``[resamples, groups]`` of how often each resample holds a sample of each group."""
    if n_resamples < 1:
        raise LimbeckError(f"n_resamples must be at least 1, got {n_resamples}")
    rng, num_samples = np.random.default_rng(seed), int(counts.sum())
    fractions, chunk_size = counts.numpy() / num_samples, max(1, _CHUNK_ELEMENTS // len(counts))
    for start in range(0, n_resamples, chunk_size):
        size = min(chunk_size, n_resamples - start)
        yield torch.from_numpy(rng.multinomial(num_samples, fractions, size=size)).double()


def _check_weights(task: PrimaryMetric, statistics: Tensor, group: Tensor, counts: Tensor) -> None:
    """:func:`check_metric_value` of ``statistics``, and of its groups of equal samples with their numbers."""
    value, weighted = task.metric_value(statistics), task.metric_value(group, counts[None].double())
    if weighted.shape != (1,):
        raise LimbeckError(
            f"{type(task).__name__}.metric_value must return [resamples] for weights [resamples, n], got "
            f"{list(weighted.shape)} for one resample"
        )
    if not torch.allclose(value.double(), weighted[0].double(), rtol=1e-6, atol=1e-9, equal_nan=True):
        raise LimbeckError(
            f"{type(task).__name__}.metric_value must be the same for a sample of weight 2 as for the sample twice, "
            f"got {float(weighted[0]):g} and {float(value):g}; use weights wherever samples are counted"
        )


def _factor(task: PrimaryMetric) -> float:
    return task.primary_metric.sign * task.primary_metric.display_scale


def _gain(task: PrimaryMetric, a: Tensor, b: Tensor) -> float:
    return task.primary_metric.gain(float(task.metric_value(a)), float(task.metric_value(b)))


def _percentiles(values: Any) -> tuple[float, float] | None:
    defined = values[np.isfinite(values)]
    if len(defined) < _MIN_DEFINED * len(values):
        return None
    low, high = np.quantile(defined, (0.025, 0.975))
    return float(low), float(high)
