"""Metrics of a network on a split by its task, batch by batch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from limbeck.core.errors import LimbeckError
from limbeck.core.task import EvaluableTask, Scores
from limbeck.evaluation.checks import model_device
from limbeck.utils.eval_mode import eval_mode

__all__ = ["SplitScores", "evaluate_network", "sample_values"]


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


def evaluate_network(
    network: nn.Module, batches: Iterable[Any], task: EvaluableTask, *, class_names: Sequence[str] = (),
    missing_as_unlabeled: bool = False,
) -> SplitScores:  # fmt: skip
    """Evaluate ``network`` on ``batches``, in eval mode on its device. Keeps statistics, not outputs.

    Args:
        network: the network.
        batches: batches of one split.
        task: its metrics.
        class_names: by class index, for ``per_class``; empty: the indices.
        missing_as_unlabeled: whether a row of NaN logits is a sample that the network has no output for.

    Raises:
        LimbeckError: no batch, no sample with a target, or statistics that are not one row per sample.

    >>> from limbeck.tasks import Classification
    >>> batches = [(torch.eye(2), torch.tensor([0, 0])), (torch.eye(2)[:1], torch.tensor([-100]))]
    >>> scores = evaluate_network(nn.Identity(), batches, Classification(2))
    >>> scores.metrics["accuracy"], scores.num_samples, scores.statistics.tolist()
    (0.5, 2, [[1.0], [0.0], [nan]])
    """
    statistics, sample_ids, logits, targets = list[Tensor](), list[Tensor](), list[Tensor](), list[Tensor]()
    metrics, device, has_target = task.metrics(), model_device(network), False
    with eval_mode(network):
        for cpu_batch in batches:
            batch = cpu_batch if device.type == "cpu" else tree_map(_to(device), cpu_batch)
            scores = task.score(network, batch)
            if missing_as_unlabeled and scores.logits is not None:
                scores = _drop_missing(scores)
            ids = _sample_ids(cpu_batch, len(scores.predictions), sum(map(len, sample_ids)))
            if scores.statistics.ndim != 2 or len(scores.statistics) != len(ids):
                raise LimbeckError(
                    f"statistics of {type(task).__name__} must be [{len(ids)}, k], one row for each sample, got "
                    f"{list(scores.statistics.shape)}"
                )
            statistics.append(scores.statistics.cpu().double())
            sample_ids.append(ids)
            if scores.logits is not None:
                logits.append(scores.logits.float().cpu())
                targets.append(_labels(task, cpu_batch, len(ids)))
            if not bool(statistics[-1].isnan().any(dim=1).all()):
                has_target = True
                metrics.update(*scores.metric_args)
    if not statistics:
        raise LimbeckError("the split must have at least one batch, got no batch")
    if not has_target:
        raise LimbeckError(
            f"metrics need labels, and of {sum(map(len, statistics))} samples none has a label; use a labeled split"
        )
    all_statistics, values = torch.cat(statistics), dict(metrics.compute())
    labeled = all_statistics[~all_statistics.isnan().any(dim=1)]
    primary = task.primary_metric.name
    values = {primary: float(task.metric_value(labeled)), **values} if primary not in values else values
    by_class, counts = values.pop("per_class", ()), values.pop("class_num_samples", ())
    names = [spec.name for spec in task.metric_specs]
    if missing := [name for name in names if name not in values]:
        raise LimbeckError(f"metrics() of {type(task).__name__} must compute {missing[0]!r}, got {sorted(values)}")
    return SplitScores(
        statistics=all_statistics,
        sample_ids=torch.cat(sample_ids),
        metrics={name: _to_float(values.pop(name)) for name in names},
        num_samples=len(labeled),
        per_class=_per_class(by_class, counts, class_names),
        details=values,
        logits=torch.cat(logits) if logits else None,
        target=torch.cat(targets) if targets else None,
    )


def sample_values(task: EvaluableTask, statistics: Tensor, *, chunk_size: int = 256) -> Tensor:
    """The primary metric of each sample alone, ``[n]`` in its own scale; NaN without a target."""
    values = torch.full((len(statistics),), torch.nan, dtype=torch.float64)
    indices = (~statistics.isnan().any(dim=1)).nonzero()[:, 0]
    for chunk in torch.split(indices, chunk_size):
        values[chunk] = task.metric_value(statistics[chunk], torch.eye(len(chunk), dtype=torch.float64)).double()
    return values


def _drop_missing(scores: Scores) -> Scores:
    """``scores`` without the samples that the network has no output for; their logits become zero."""
    assert scores.logits is not None
    missing = scores.logits.isnan().all(dim=1)
    args = tuple(
        value[~missing] if isinstance(value, Tensor) and len(value) == len(missing) else value
        for value in scores.metric_args
    )
    statistics = scores.statistics.masked_fill(missing[:, None], torch.nan)
    return scores._replace(
        statistics=statistics, metric_args=args, logits=scores.logits.masked_fill(missing[:, None], 0.0)
    )


def _sample_ids(batch: Any, num_samples: int, first: int) -> Tensor:
    ids = batch.get("sample_id") if isinstance(batch, Mapping) else None
    return ids.cpu() if isinstance(ids, Tensor) else torch.arange(first, first + num_samples)


def _labels(task: EvaluableTask, batch: Any, num_samples: int) -> Tensor:
    from limbeck.losses._ops import IGNORE_INDEX, hard_labels

    target = task.target(batch)
    return torch.full((num_samples,), IGNORE_INDEX) if target is None else hard_labels(target).cpu().long()


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


def _to(device: torch.device) -> Any:
    return lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf
