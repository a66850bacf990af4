"""What a recipe needs of its task is checked before training."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from limbeck.core.errors import LimbeckError
from limbeck.core.metric_spec import MetricSpec
from limbeck.core.task import Scores, reduce_statistics
from limbeck.data import from_tensors
from limbeck.recipe import Recipe
from limbeck.recipe.schema import validate
from limbeck.tasks import Classification
from limbeck.workflows._job.validate_task import validate_task

RECIPE = {
    "task": "Classification", "data": "Digits", "student": "small_cnn",
    "name": "tiny",
    "stages": [{"name": "a", "steps": 1, "objective": {"target": "CrossEntropyLoss"}}],
}  # fmt: skip
DATA = from_tensors(torch.rand(40, 1, 4, 4), torch.arange(40) % 4)
RMSE = MetricSpec(name="rmse", label="RMSE", unit="", higher_is_better=False)


class NoMetrics:
    def update(self):
        pass

    def compute(self):
        return {}


@dataclass(frozen=True)
class ClassAsNumber:
    """The index of the class as a number, by its root mean squared error."""

    primary_metric = RMSE
    monitored_metrics = (RMSE,)
    metric_specs = (RMSE,)
    supervised_loss = "MSELoss"

    def outputs(self, network, batch):
        raise NotImplementedError

    def target(self, batch):
        return batch["target"]

    def monitor(self, network, batch):
        return self.score(network, batch).statistics

    def score(self, network, batch):
        predicted = network(batch["input"])[:, 0]
        return Scores(((predicted - batch["target"]) ** 2).double()[:, None], predicted.tolist())

    def metric_value(self, statistics, weights=None, *, metric=None):
        pairs = torch.cat([statistics, torch.ones_like(statistics)], dim=1)
        return reduce_statistics(pairs, weights, lambda sums: (sums[..., 0] / sums[..., 1]).sqrt())

    def metrics(self):
        return NoMetrics()


class CountsRows(ClassAsNumber):
    def metric_value(self, statistics, weights=None, *, metric=None):
        return reduce_statistics(statistics, weights, lambda sums: sums[..., 0]) / len(statistics)


class MissingMetric(ClassAsNumber):
    metric_specs = (RMSE, MetricSpec(name="mae", label="MAE"))


def network(width=4):
    return nn.Sequential(nn.Flatten(), nn.Linear(16, width))


def recipe(**changes):
    return validate(Recipe, {**RECIPE, **changes})


def test_a_task_with_metrics_is_enough_without_cache_and_export():
    validate_task(ClassAsNumber(), network(), DATA, recipe(export={"to": []}))
    validate_task(Classification(4), network(), DATA, recipe(export={"to": ["onnx"]}))


def test_a_cache_and_an_export_need_a_deployable_task():
    with pytest.raises(LimbeckError, match=r"export\.to: onnx needs a deployable task, and ClassAsNumber has no"):
        validate_task(ClassAsNumber(), network(), DATA, recipe(export={"to": ["onnx"]}))
    with pytest.raises(LimbeckError, match="a cache of teacher outputs needs a deployable task"):
        validate_task(ClassAsNumber(), network(), DATA, recipe(export={"to": []}, cache={"root": "cache"}))


def test_a_task_that_fails_after_training_fails_before_it():
    no_export = recipe(export={"to": []})
    with pytest.raises(LimbeckError, match="use weights wherever samples are counted"):
        validate_task(CountsRows(), network(), DATA, no_export)
    with pytest.raises(LimbeckError, match="must compute 'mae'"):
        validate_task(MissingMetric(), network(), DATA, no_export)
    with pytest.raises(LimbeckError, match=r"must be \[batch, 4\]"):
        validate_task(Classification(4), network(7), DATA, no_export)
