"""How ensembles of candidates are compared: by NLL where they have class probabilities, else by the primary metric."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from limbeck.evaluation import SplitScores, paired_gain
from limbeck.models.ensemble_model import MeanOutputModel, OutputShapeError
from limbeck.teachers import NLLCriterion
from limbeck.teachers.selection.rules import format_difference
from limbeck.teachers.selection.select import CriterionGain, EnsembleCriterion
from limbeck.workflows._job.job import Job
from limbeck.workflows._job.measure import evaluate_split

__all__ = ["MetricCriterion", "make_criterion"]


def make_criterion(
    job: Job, networks: Mapping[str, nn.Module], scores: Mapping[str, SplitScores]
) -> EnsembleCriterion:  # fmt: skip
    """The criterion for the candidates ``networks`` with these validation ``scores``."""
    first = next(iter(scores.values()))
    if first.logits is None or first.target is None:
        return MetricCriterion(job, networks, scores)
    probabilities = {
        name: entry.logits.double().softmax(dim=1) for name, entry in scores.items() if entry.logits is not None
    }

    def metric_of_logits(logits: Tensor) -> float:
        scores = evaluate_split(_Replay(logits), job.data, job.task, job.data.validation)
        return float(job.task.metric_value(scores.statistics[~scores.statistics.isnan().any(dim=1)]))

    return NLLCriterion(
        probabilities, first.target, metric=job.task.primary_metric, metric_of_logits=metric_of_logits
    )  # fmt: skip


@final
class MetricCriterion:
    """The primary metric of the mean of outputs, as of maps of logits or predicted numbers.

    Args:
        job: the recipe with its data.
        networks: the candidates by name.
        scores: of each on the validation split.
    """

    description = "validation metric of the mean of outputs, greedy forward"
    criterion_name = ""

    def __init__(self, job: Job, networks: Mapping[str, nn.Module], scores: Mapping[str, SplitScores]) -> None:
        self._job, self._networks, self._metric = job, networks, job.task.primary_metric
        self._statistics: dict[tuple[str, ...], Tensor | None] = {}
        self._statistics |= {(name,): entry.statistics for name, entry in scores.items()}
        self._is_labeled = ~next(iter(scores.values())).statistics.isnan().any(dim=1)

    @property
    def num_samples(self) -> int:
        """Number of samples with a target."""
        return int(self._is_labeled.sum())

    def criterion_value(self, names: Sequence[str]) -> float:
        """The metric as shown, with the sign that makes lower better."""
        return -self._metric.sign * self._metric.display_scale * self.metric_value(names)

    def metric_value(self, names: Sequence[str]) -> float:
        """The primary metric."""
        statistics = self._ensemble_statistics(names)
        if statistics is None:
            return math.nan
        return float(self._job.task.metric_value(statistics[~statistics.isnan().any(dim=1)]))

    def gain(self, selected: Sequence[str], name: str) -> CriterionGain | None:
        """The gain with its paired bootstrap interval; ``None`` where the outputs have different shapes."""
        before, after = self._ensemble_statistics(selected), self._ensemble_statistics([*selected, name])
        if before is None or after is None:
            return None
        result = paired_gain(self._job.task, after, before)
        return CriterionGain(result.gain, *(result.interval or (-math.inf, math.inf)))

    def describe(self, names: Sequence[str]) -> str:
        """The metric."""
        return f"best {self._metric.text} ({self._metric.format(self.metric_value(names))})"

    def describe_gain(self, selected: Sequence[str], name: str) -> str:
        """The gain and its interval."""
        gain = self.gain(selected, name)
        if gain is None:
            return "no gain"
        low, high = (f"{end:+.{self._metric.digits}f}" for end in (gain.low, gain.high))
        return f"{format_difference(gain.value, self._metric)} ({low} to {high})"

    def _ensemble_statistics(self, names: Sequence[str]) -> Tensor | None:
        key = tuple(names)
        if key not in self._statistics:
            ensemble = MeanOutputModel([self._networks[name] for name in names])
            try:
                scores = evaluate_split(ensemble, self._job.data, self._job.task, self._job.data.validation)
                self._statistics[key] = scores.statistics
            except OutputShapeError:
                self._statistics[key] = None
        return self._statistics[key]


class _Replay(nn.Module):
    """Returns the next rows of ``logits`` in each call, whatever the inputs."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self._rows: Iterator[Tensor] = iter(logits)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        inputs = args[0] if args else next(iter(kwargs.values()))
        return torch.stack([next(self._rows) for _ in range(len(inputs))])
