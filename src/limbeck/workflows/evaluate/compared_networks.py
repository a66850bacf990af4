"""The networks of a run on the same samples: their statistics and logits, and the differences of pairs of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor, nn

from limbeck import evaluation
from limbeck.core.metric_spec import MetricSpec
from limbeck.core.task import EvaluableTask, Scores
from limbeck.data import DataModule, Split, iterate_batches
from limbeck.data.normalization import NormalizedModel
from limbeck.evaluation.checks import model_device

__all__ = ["ComparedNetworks", "LogitsModel", "with_normalization"]


@final
class LogitsModel(nn.Module):
    """A network with its normalization and task: maps pixels in 0..1, ``[n, channels, ...]``, to ``[n, classes]``."""

    def __init__(self, network: nn.Module, data: DataModule, task: EvaluableTask) -> None:
        super().__init__()
        self.model, self.task = with_normalization(network, data), task

    def forward(self, pixels: Tensor) -> Tensor:
        return self.task.outputs(self.model, {"input": pixels}).require_logits()


def with_normalization(network: nn.Module, data: DataModule) -> NormalizedModel:
    """``network`` with the normalization of its images, on its device."""
    model = NormalizedModel(network, data.normalization, num_dims=len(data.input_shape))
    return model.to(model_device(network))


def _proportion_difference(correct_a: Tensor, correct_b: Tensor) -> dict[str, Any]:
    difference, low, high = evaluation.paired_bootstrap(correct_a, correct_b)
    return {"difference": difference, "low": low, "high": high, "num_samples": len(correct_a)}


def _mean_difference(fractions_a: Tensor, fractions_b: Tensor) -> dict[str, Any]:
    return evaluation.paired_bootstrap_mean(100 * fractions_a, 100 * fractions_b)


@final
@dataclass(frozen=True, slots=True)
class _MeanMetric:
    """The mean of the primary metric over ``count`` conditions, of statistics ``[n, count · k]``."""

    task: EvaluableTask
    count: int

    @property
    def primary_metric(self) -> MetricSpec:
        return self.task.primary_metric

    def metric_value(self, statistics: Tensor, weights: Tensor | None = None) -> Tensor:
        values = [self.task.metric_value(part, weights) for part in statistics.chunk(self.count, dim=1)]
        return torch.stack(values).mean(dim=0)


@final
@dataclass(frozen=True, slots=True)
class ComparedNetworks:
    """Networks that are measured on the same samples.

    Attributes:
        networks: by name; each takes inputs as ``data`` normalizes them.
        task: what a batch means.
        data: gives the normalization.
        pairs: names of the networks whose differences are computed.
        differences: of each pair and metric so far.
    """

    networks: Mapping[str, nn.Module]
    task: EvaluableTask
    data: DataModule
    pairs: Sequence[tuple[str, str]]
    differences: list[dict[str, Any]] = field(default_factory=list)

    def logits_models(self) -> dict[str, LogitsModel]:
        """Each network from pixels to logits."""
        return {name: LogitsModel(network, self.data, self.task) for name, network in self.networks.items()}

    def image_models(self) -> dict[str, nn.Module]:
        """Each network from pixels to its output."""
        return {name: with_normalization(network, self.data) for name, network in self.networks.items()}

    def statistics(self, split: Split) -> dict[str, Tensor]:
        """For each network, what each sample adds to the primary metric, ``[n, k]``."""
        return {
            name: torch.cat([s.statistics.cpu().double() for s in self._score(name, split)]) for name in self.networks
        }

    def logits(self, split: Split) -> dict[str, Tensor]:
        """The logits of each network for all of ``split``, ``[n, classes]`` float32 on the CPU."""
        chunks = {name: [scores.logits for scores in self._score(name, split)] for name in self.networks}
        return {name: torch.cat([t.float().cpu() for t in rows if t is not None]) for name, rows in chunks.items()}

    def predict_correct(self, split: Split) -> dict[str, Tensor]:
        """For each network, whether it is correct on each sample, ``[n]`` booleans."""
        return {name: logits.argmax(dim=1) == split.target for name, logits in self.logits(split).items()}

    def value(self, statistics: Tensor) -> float:
        """The primary metric."""
        return float(self.task.metric_value(statistics))

    def compare(self, metric: str, statistics: Mapping[str, Tensor]) -> None:
        """Add the differences of all pairs in the primary metric under ``metric``, from statistics by network."""
        self._compare_metric(metric, statistics, self.task)

    def compare_means(self, metric: str, statistics: Mapping[str, Tensor]) -> dict[str, float]:
        """The mean over the first axis of ``[conditions, n, k]`` by network, whose differences are added."""
        if all(evaluation.is_proportion(self.task, rows.flatten(0, 1)) for rows in statistics.values()):
            fractions = {name: rows[..., 0].mean(dim=0) for name, rows in statistics.items()}
            self.compare_values(metric, fractions, _mean_difference)
            return {name: float(values.mean()) for name, values in fractions.items()}
        mean = _MeanMetric(self.task, len(next(iter(statistics.values()))))
        columns = {name: torch.cat(list(rows), dim=1) for name, rows in statistics.items()}
        self._compare_metric(metric, columns, mean)
        return {name: float(mean.metric_value(rows)) for name, rows in columns.items()}

    def compare_values(
        self,
        metric: str,
        values: Mapping[str, Any],
        difference: Callable[[Any, Any], dict[str, Any]] = _proportion_difference,
        *,
        unit: str = "points",
    ) -> None:
        """Add the differences of all pairs in ``metric``, from ``values`` by network."""
        for a, b in self.pairs:
            row = {"model": a, "reference": b, "metric": metric, "unit": unit}
            self.differences.append({**row, **difference(values[a], values[b])})

    def _compare_metric(self, metric: str, statistics: Mapping[str, Tensor], task: Any) -> None:
        spec = self.task.primary_metric

        def difference(a: Tensor, b: Tensor) -> dict[str, Any]:
            result = evaluation.paired_gain(task, a, b)
            low, high = (None, None) if result.interval is None else sorted(spec.sign * end for end in result.interval)
            return {"difference": spec.sign * result.gain, "low": low, "high": high, "num_samples": len(a)}

        self.compare_values(metric, statistics, difference, unit=spec.difference_unit or "1")

    def _score(self, name: str, split: Split) -> Iterator[Scores]:
        batches = iterate_batches(split, self.data.normalization, batch_size=256)
        return (evaluation.score_batch(self.networks[name], batch, self.task) for batch in batches)
