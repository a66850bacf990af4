"""Metrics of networks on a split by their task, batch by batch."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.core.task import EvaluableTask, Scores
from limbeck.evaluation.checks import score_batch
from limbeck.evaluation.metric_bootstrap import check_metric_value
from limbeck.losses._ops import IGNORE_INDEX, hard_labels
from limbeck.teachers.external.external_teacher import missing_rows
from limbeck.utils.count_samples import count_samples

__all__ = [
    "SplitScores",
    "check_scores",
    "evaluate_network",
    "sample_correlation",
    "sample_gains",
    "sample_values",
    "score_networks",
]

_MAX_LEFT_OUT = 2_000


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SplitScores:
    """The scores of one network on one split, on the CPU.

    Attributes:
        statistics: ``[n, k]`` float64, what each sample adds to the primary metric; NaN without a target.
        sample_ids: ``[n]``.
        metrics: the metrics by name, in their own scale; ``None`` where one is undefined.
        num_samples: samples with a target.
        per_class: for each class ``class``, ``value`` and ``num_samples``; empty for a task without classes.
        details: further plain data of the task's metrics for the record, such as ``reliability``.
        logits: ``[n, classes]`` of a task with one row for each sample, else ``None``.
        target: ``[n]`` class indices beside ``logits``, −100 for no label.
    """

    statistics: Tensor
    sample_ids: Tensor
    metrics: Mapping[str, float | None]
    num_samples: int
    per_class: Sequence[Mapping[str, Any]]
    details: Mapping[str, Any]
    logits: Tensor | None = None
    target: Tensor | None = None


def score_networks(
    networks: Mapping[str, nn.Module], batches: Iterable[Any], task: EvaluableTask, *, class_names: Sequence[str] = ()
) -> dict[str, SplitScores]:
    """Evaluate ``networks`` on the same batches, each in eval mode on its device. Keeps statistics, not predictions.

    A teacher with ``allow_missing`` is evaluated on the samples that it has outputs for; its logits for the others are
    zero.

    Args:
        networks: by name.
        batches: batches of one split; iterated over once.
        task: its metrics.
        class_names: by class index, for ``per_class``; empty: the indices.

    Raises:
        LimbeckError: no batch, no sample with a target, metrics that the task does not compute, or statistics that are
            not one row per sample, not finite, or missing for a sample with a target.
    """
    collectors = {name: _Collector(name, network, task) for name, network in networks.items()}
    for batch in batches:
        for collector in collectors.values():
            collector.add(batch)
    scores = {name: collector.compute(class_names) for name, collector in collectors.items()}
    _check_same_targets({
        name: entry.statistics for name, entry in scores.items() if not collectors[name].allows_missing
    })  # fmt: skip
    return scores


def evaluate_network(
    network: nn.Module, batches: Iterable[Any], task: EvaluableTask, *, class_names: Sequence[str] = ()
) -> SplitScores:
    """:func:`score_networks` of one network.

    >>> from limbeck.tasks import Classification
    >>> batches = [(torch.eye(2), torch.tensor([0, 0])), (torch.eye(2)[:1], torch.tensor([-100]))]
    >>> scores = evaluate_network(nn.Identity(), batches, Classification(2))
    >>> scores.metrics["accuracy"], scores.num_samples, scores.statistics.tolist()
    (0.5, 2, [[1.0], [0.0], [nan]])
    """
    return score_networks({"the network": network}, batches, task, class_names=class_names)["the network"]


def check_scores(network: nn.Module, batch: Any, task: EvaluableTask) -> None:
    """Score one small batch as :func:`score_networks` does, so that a task that fails there fails before training."""
    collector = _Collector("the network", network, task)
    collector.add(batch)
    statistics = torch.cat(collector.statistics)
    labeled = statistics[~statistics.isnan().any(dim=1)]
    if not len(labeled):
        return
    check_metric_value(task, labeled)
    try:
        collector.compute(())
    except LimbeckError:
        raise
    except Exception as error:  # torchmetrics and a user's metrics raise errors of any type
        warnings.warn(
            f"metrics of {type(task).__name__} failed on {len(labeled)} samples ({type(error).__name__}: {error}); "
            "check that they only need more samples",
            stacklevel=2,
        )


def sample_values(task: EvaluableTask, statistics: Tensor, *, chunk_size: int = 256) -> Tensor:
    """The primary metric of each sample by itself, ``[n]`` in its own scale; NaN without a target."""
    values = torch.full((len(statistics),), torch.nan, dtype=torch.float64)
    indices = (~statistics.isnan().any(dim=1)).nonzero()[:, 0]
    for chunk in torch.split(indices, chunk_size):
        values[chunk] = task.metric_value(statistics[chunk], torch.eye(len(chunk), dtype=torch.float64)).double()
    return values


def sample_gains(task: EvaluableTask, statistics: Tensor, reference: Tensor) -> Tensor:
    """How much better a network is than a reference on each sample, ``[n]``; 0 without a target.

    The difference of the metric computed on each sample. If all differences are zero, as of metrics that rank samples
    (mean average precision), the difference of leave-one-out contributions, of at most 2,000 evenly spaced samples.

    Args:
        task: its primary metric.
        statistics: ``[n, k]`` of the network.
        reference: of the same samples.
    """
    sign = task.primary_metric.sign
    gains = sign * (sample_values(task, statistics) - sample_values(task, reference))
    if bool((gains.nan_to_num() == 0).all()):
        gains = sign * (_sample_contributions(task, statistics) - _sample_contributions(task, reference))
    return gains.nan_to_num()


def sample_correlation(task: EvaluableTask, statistics_a: Tensor, statistics_b: Tensor) -> float | None:
    """Pearson's correlation of the metric by sample of two networks; ``None`` where it is the same for every sample.

    As in :func:`sample_gains`, of each sample by itself, or of what each adds to the metric of all.
    """
    for by_sample in (sample_values, _sample_contributions):
        values = torch.stack([by_sample(task, statistics) for statistics in (statistics_a, statistics_b)])
        values = values[:, values.isfinite().all(dim=0)]
        if values.shape[1] > 1 and bool((values.std(dim=1) > 0).all()):
            return float(torch.corrcoef(values)[0, 1])
    return None


def _sample_contributions(task: EvaluableTask, statistics: Tensor) -> Tensor:
    """The primary metric of all samples minus that of all others, ``[n]``; NaN without a target."""
    contributions = torch.full((len(statistics),), torch.nan, dtype=torch.float64)
    indices = (~statistics.isnan().any(dim=1)).nonzero()[:, 0]
    indices = indices[:: -(-len(indices) // _MAX_LEFT_OUT)]
    rows = statistics[indices]
    if len(rows) > 1:
        value = task.metric_value(rows).double()
        for positions in torch.split(torch.arange(len(rows)), 256):
            weights = torch.ones(len(positions), len(rows), dtype=torch.float64)
            weights[torch.arange(len(positions)), positions] = 0.0
            contributions[indices[positions]] = value - task.metric_value(rows, weights).double()
    return contributions


class _Collector:
    """Collects the scores of one network."""

    def __init__(self, name: str, network: nn.Module, task: EvaluableTask) -> None:
        self._name, self._network, self._task, self._metrics = name, network, task, task.metrics()
        self.statistics, self._sample_ids = list[Tensor](), list[Tensor]()
        self._logits, self._targets = list[Tensor](), list[Tensor]()
        self._num_samples = 0
        self.allows_missing = bool(getattr(network, "allow_missing", False))

    def add(self, cpu_batch: Any) -> None:
        """Score one batch."""
        scores = score_batch(self._network, cpu_batch, self._task)
        if self.allows_missing and scores.logits is not None:
            scores = _drop_missing(scores)
        statistics = self._check_statistics(scores.statistics.detach().cpu().double(), count_samples(cpu_batch))
        ids = cpu_batch.get("sample_id") if isinstance(cpu_batch, Mapping) else None
        positions = torch.arange(self._num_samples, self._num_samples + len(statistics))
        self._sample_ids.append(ids.cpu() if isinstance(ids, Tensor) else positions)
        self._num_samples += len(statistics)
        self.statistics.append(statistics)
        if scores.logits is not None:
            target = self._task.target(cpu_batch)
            labels = torch.full((len(statistics),), IGNORE_INDEX) if target is None else hard_labels(target)
            self._logits.append(scores.logits.detach().float().cpu())
            self._targets.append(labels.cpu().long())
        if not bool(statistics.isnan().any(dim=1).all()):
            self._metrics.update(*scores.metric_args)

    def compute(self, class_names: Sequence[str]) -> SplitScores:
        """The scores of all batches."""
        if not self.statistics:
            raise LimbeckError("the split must have at least one batch, got no batch")
        statistics, task = torch.cat(self.statistics), self._task
        labeled = statistics[~statistics.isnan().any(dim=1)]
        if not len(labeled):
            raise LimbeckError(
                f"metrics need labels, and of {len(statistics)} samples none has a label; use a labeled split"
            )
        # The primary metric is that of the statistics, as its interval and its tests.
        values = {**self._metrics.compute(), task.primary_metric.name: float(task.metric_value(labeled))}
        by_class, counts = values.pop("per_class", ()), values.pop("class_num_samples", ())
        names = [spec.name for spec in task.metric_specs]
        if missing := [name for name in names if name not in values]:
            raise LimbeckError(f"metrics() of {type(task).__name__} must compute {missing[0]!r}, got {sorted(values)}")
        return SplitScores(
            statistics=statistics,
            sample_ids=torch.cat(self._sample_ids),
            metrics={name: _to_float(values.pop(name)) for name in names},
            num_samples=len(labeled),
            per_class=_per_class(by_class, counts, class_names),
            details=values,
            logits=torch.cat(self._logits) if self._logits else None,
            target=torch.cat(self._targets) if self._targets else None,
        )

    def _check_statistics(self, statistics: Tensor, num_samples: int) -> Tensor:
        if statistics.ndim != 2 or not statistics.shape[1] or num_samples not in (0, len(statistics)):
            raise LimbeckError(
                f"statistics of {type(self._task).__name__} must be [{num_samples or 'batch'}, k], one row for each "
                f"sample, got {list(statistics.shape)}"
            )
        is_nan = statistics.isnan()
        if bool((is_nan.any(dim=1) & ~is_nan.all(dim=1)).any() or statistics.isinf().any()):
            raise LimbeckError(
                f"statistics of {self._name} are not finite; look for NaN or infinity in its weights and inputs"
            )
        return statistics


def _check_same_targets(statistics: Mapping[str, Tensor]) -> None:
    """Whether a sample has a target does not depend on the network: other rows of NaN are those of its outputs."""
    if not statistics:
        return
    masks = {name: ~rows.isnan().any(dim=1) for name, rows in statistics.items()}
    is_labeled = torch.stack(list(masks.values())).any(dim=0)
    for name, mask in masks.items():
        if num_missing := int((is_labeled & ~mask).sum()):
            raise LimbeckError(
                f"statistics of {name} are NaN for {num_missing} samples with a target; look for NaN in its weights"
            )


def _drop_missing(scores: Scores) -> Scores:
    """``scores`` without the samples that the network has no output for; their logits become zero."""
    assert scores.logits is not None
    missing = missing_rows(scores.logits)
    args = tuple(
        value[~missing.to(value.device)] if isinstance(value, Tensor) and len(value) == len(missing) else value
        for value in scores.metric_args
    )
    statistics = scores.statistics.masked_fill(missing.to(scores.statistics.device)[:, None], torch.nan)
    return scores._replace(
        statistics=statistics, metric_args=args, logits=scores.logits.masked_fill(missing[:, None], 0.0)
    )


def _per_class(values: Iterable[Any], counts: Sequence[int], class_names: Sequence[str]) -> list[dict[str, Any]]:
    numbers = [_to_float(value) for value in values]
    names = list(class_names) if len(class_names) == len(numbers) else [str(index) for index in range(len(numbers))]
    num_samples = list(counts) if len(counts) == len(numbers) else [0] * len(numbers)
    return [
        {"class": name, "value": value, "num_samples": int(count)}
        for name, value, count in zip(names, numbers, num_samples, strict=True)
    ]


def _to_float(value: Any) -> float | None:
    number = math.nan if value is None else float(value)
    return number if math.isfinite(number) else None
