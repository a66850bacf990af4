"""Scores of networks on a split: metrics by the statistics of the task, samples without a target, what is refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn

from limbeck.core.errors import LimbeckError
from limbeck.core.metric_spec import MetricSpec
from limbeck.core.outputs import Outputs
from limbeck.core.task import Scores, reduce_statistics
from limbeck.evaluation import evaluate_network, sample_gains, sample_values, score_networks
from limbeck.tasks import Classification

RMSE = MetricSpec(name="rmse", label="RMSE", unit="m", higher_is_better=False, digits=3)
MAE = MetricSpec(name="mae", label="MAE", unit="m", higher_is_better=False, digits=3)


class MeanAbsoluteError:
    def __init__(self):
        self.errors = []

    def update(self, errors):
        self.errors.append(errors)

    def compute(self):
        return {"mae": torch.cat(self.errors).mean()}


@dataclass(frozen=True)
class Regression:
    """A number for each sample; NaN is no target."""

    primary_metric: ClassVar[MetricSpec] = RMSE
    monitored_metrics: ClassVar[tuple[MetricSpec, ...]] = (RMSE,)
    metric_specs: ClassVar[tuple[MetricSpec, ...]] = (RMSE, MAE)
    supervised_loss: ClassVar[str] = "MSELoss"

    def outputs(self, network, batch):
        return Outputs(by_row={"value": network(batch[0])})

    def target(self, batch):
        return batch[1]

    def monitor(self, network, batch):
        return self.score(network, batch).statistics

    def score(self, network, batch):
        predicted = network(batch[0])[:, 0]
        errors = (predicted - batch[1]).double()
        return Scores((errors**2)[:, None], predicted.tolist(), (errors[~errors.isnan()].abs(),))

    def metric_value(self, statistics, weights=None, *, metric=None):
        pairs = torch.cat([statistics, torch.ones_like(statistics)], dim=1)
        return reduce_statistics(pairs, weights, lambda sums: (sums[..., 0] / sums[..., 1]).sqrt())

    def metrics(self):
        return MeanAbsoluteError()


class Nothing(MeanAbsoluteError):
    def compute(self):
        return {}


class Incomplete(Regression):
    def metrics(self):
        return Nothing()


BATCHES = [
    (torch.tensor([[1.0], [2.0]]), torch.tensor([1.0, 4.0])),
    (torch.tensor([[3.0], [5.0]]), torch.tensor([torch.nan, torch.nan])),
    (torch.tensor([[0.0]]), torch.tensor([4.0])),
]


def test_a_regression_is_scored_over_batches():
    scores = score_networks({"a": nn.Identity(), "b": nn.Flatten()}, iter(BATCHES), Regression())
    a = scores["a"]
    assert a.metrics == pytest.approx({"rmse": (20 / 3) ** 0.5, "mae": 2.0})
    assert (a.num_samples, a.sample_ids.tolist()) == (3, [0, 1, 2, 3, 4])
    assert a.statistics.nan_to_num(nan=-1.0).flatten().tolist() == [0.0, 4.0, -1.0, -1.0, 16.0]
    assert a.logits is a.target is None
    assert scores["b"].metrics == a.metrics
    assert sample_values(Regression(), a.statistics).nan_to_num(nan=-1.0).tolist() == [0.0, 2.0, -1.0, -1.0, 4.0]


def test_gains_by_sample_of_a_metric_that_ranks_samples_are_of_leaving_each_out():
    class Ranking(Regression):
        """The fraction of pairs of a positive and a negative sample in the right order."""

        def metric_value(self, statistics, weights=None, *, metric=None):
            weights = torch.ones(1, len(statistics)).double() if weights is None else weights
            (scores, labels), values = statistics.T, []
            for w in weights:
                pairs = (w * labels)[:, None] * (w * (1 - labels))
                values.append((pairs * (scores[:, None] > scores)).sum() / pairs.sum())
            return torch.stack(values) if len(weights) > 1 else values[0]

    labels = [1, 0, 1, 0]
    better, worse = ([[score, label] for score, label in zip(scores, labels, strict=True)]
                     for scores in ((0.9, 0.2, 0.6, 0.4), (0.1, 0.2, 0.6, 0.4)))  # fmt: skip
    better, worse = (torch.tensor([*rows, [torch.nan, torch.nan]]).double() for rows in (better, worse))
    # Of 4 pairs, worse has 2 right, all of the third sample; the metric of Regression is lower where it is better.
    without = ([1.0] * 4, [1.0, 0.5, 0.0, 0.5])
    expected = [-((1.0 - a) - (0.5 - b)) for a, b in zip(*without, strict=True)]
    assert sample_gains(Ranking(), better, worse).tolist() == pytest.approx([*expected, 0.0])
    errors = (torch.tensor([[4.0], [torch.nan]]).double(), torch.tensor([[1.0], [torch.nan]]).double())
    assert sample_gains(Regression(), *errors).tolist() == [-1.0, 0.0]


def test_a_network_that_gives_nan_is_an_error_and_no_unlabeled_sample():
    """With another network, NaN is distinguished from a sample without a target."""

    class Broken(nn.Module):
        def forward(self, x):
            return torch.where(x > 1, torch.nan, x)

    with pytest.raises(LimbeckError, match="statistics of broken are NaN for 1 samples with a target"):
        score_networks({"fine": nn.Identity(), "broken": Broken()}, BATCHES, Regression())
    with pytest.raises(LimbeckError, match="statistics of the network are not finite"):
        evaluate_network(nn.Identity(), [(torch.tensor([[torch.inf]]), torch.tensor([0.0]))], Regression())


def test_a_split_without_targets_and_a_metric_that_is_not_computed_are_refused():
    with pytest.raises(LimbeckError, match="of 2 samples none has a label"):
        evaluate_network(nn.Identity(), BATCHES[1:2], Regression())
    with pytest.raises(LimbeckError, match="must compute 'mae'"):
        evaluate_network(nn.Identity(), BATCHES, Incomplete())
    with pytest.raises(LimbeckError, match="at least one batch"):
        evaluate_network(nn.Identity(), [], Regression())


def test_statistics_must_be_by_sample():
    class ByRow(Regression):
        def score(self, network, batch):
            scores = super().score(network, batch)
            return scores._replace(statistics=scores.statistics.repeat(3, 1))

    with pytest.raises(LimbeckError, match=r"must be \[2, k\], one row for each sample, got \[6, 1\]"):
        evaluate_network(nn.Identity(), BATCHES, ByRow())


def test_a_teacher_without_some_outputs_is_scored_on_the_others():
    class Partial(nn.Module):
        allow_missing = True

        def forward(self, x):
            return x.index_fill(0, torch.tensor([0]), torch.nan)

    batch = (torch.eye(3), torch.tensor([0, 1, 0]))
    scores = score_networks({"teacher": Partial(), "student": nn.Identity()}, [batch], Classification(3))
    assert scores["teacher"].metrics["accuracy"] == 0.5
    assert scores["teacher"].logits[0].tolist() == [0.0, 0.0, 0.0]
    assert scores["student"].num_samples == 3
