"""Metrics are computed from per-sample statistics, and a task that lacks something is refused by name."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn

from limbeck import Distiller, LimbeckError, Outputs
from limbeck.core.metric_spec import MetricSpec
from limbeck.core.task import (
    DeployableTask,
    EvaluableTask,
    reduce_statistics,
    require_deployable,
    require_evaluable,
)
from limbeck.losses import CrossEntropyLoss, KDLoss
from limbeck.tasks import Classification

TASK = Classification(classes=3)
LOGITS = torch.tensor([[2.0, 0.0, 1.0], [0.0, 3.0, 1.0], [0.0, 1.0, 4.0], [1.0, 0.0, 0.0]])
BATCH = {"input": LOGITS, "target": torch.tensor([0, 1, 1, -100]), "sample_id": torch.tensor([7, 8, 9, 10])}


def test_gain_follows_the_direction_of_the_metric():
    accuracy = MetricSpec(name="accuracy", label="Accuracy")
    loss = MetricSpec(name="nll", label="NLL", unit="nats", higher_is_better=False)
    assert accuracy.gain(0.9, 0.8) == pytest.approx(10.0)
    assert loss.gain(0.9, 0.8) == pytest.approx(-0.1)
    assert (accuracy.difference_unit, loss.difference_unit) == ("points", "nats")
    assert (accuracy.format(0.125), loss.format(None)) == ("12.5 %", "–")


@pytest.mark.parametrize("wrong", [{"name": "top 1"}, {"scale": 0.0}, {"min_gap": -1.0}])
def test_a_metric_that_cannot_be_shown_is_refused(wrong):
    with pytest.raises(LimbeckError):
        replace(MetricSpec(name="accuracy", label="Accuracy"), **wrong)


def test_statistics_reduce_by_weights():
    rng = np.random.default_rng(0)
    statistics, weights = rng.random((6, 4)), rng.multinomial(6, [1 / 6] * 6, size=5)
    expected = [np.mean([(w @ statistics[:, i]) / (w @ statistics[:, 2 + i]) for i in range(2)]) for w in weights]
    value = reduce_statistics(
        torch.tensor(statistics), torch.tensor(weights), lambda sums: (sums[..., :2] / sums[..., 2:]).mean(-1)
    )
    np.testing.assert_allclose(value.numpy(), expected, rtol=1e-12)


def test_statistics_of_classification_give_its_metrics():
    scores, monitored = TASK.score(nn.Identity(), BATCH), TASK.monitor(nn.Identity(), BATCH)
    assert scores.statistics[:3, 0].tolist() == [1.0, 1.0, 0.0]
    assert scores.statistics[3].isnan().all()
    assert monitored[3].isnan().all()
    assert list(scores.predictions) == [0, 1, 2, 0]
    log_p = np.log(np.exp(LOGITS.double().numpy()) / np.exp(LOGITS.double().numpy()).sum(1, keepdims=True))
    nll = -log_p[[0, 1, 2], [0, 1, 1]]
    accuracy_spec, nll_spec = TASK.monitored_metrics
    assert float(TASK.metric_value(monitored[:3], metric=accuracy_spec)) == pytest.approx(2 / 3)
    assert float(TASK.metric_value(monitored[:3], metric=nll_spec)) == pytest.approx(nll.mean(), rel=1e-6)
    weights = torch.tensor([[3, 0, 0], [0, 1, 2]])
    assert TASK.metric_value(scores.statistics[:3], weights).tolist() == pytest.approx([1.0, 1 / 3])
    metrics = TASK.metrics()
    metrics.update(*scores.metric_args)
    values = metrics.compute()
    assert values["accuracy"] == pytest.approx(2 / 3)
    assert values["nll"] == pytest.approx(nll.mean(), rel=1e-6)
    assert values["per_class"] == [1.0, 0.5, None]
    assert values["class_num_samples"] == [1, 2, 0]


def test_examples_of_classification_name_the_classes():
    batch = {**BATCH, "input": torch.rand(4, 1, 8, 8)}
    scores = TASK.score(nn.Identity(), BATCH)
    examples = TASK.examples(batch, {"teacher": scores}, {"class_names": ["ant", "bee", "cat"]})
    assert [example.sample_id for example in examples] == [7, 8, 9, 10]
    assert [example.target.text for example in examples] == ["ant", "bee", "bee", "no label"]
    assert [example.predictions["teacher"].correct for example in examples] == [True, True, False, None]
    assert examples[0].input.image.startswith(b"\x89PNG")


@dataclass(frozen=True)
class TrainOnly:
    """A task that can be trained and no more."""

    def outputs(self, network, batch):
        return Outputs(logits=network(batch["input"]))

    def target(self, batch):
        return batch["target"]


def test_what_a_task_lacks_is_named():
    assert isinstance(TASK, DeployableTask)
    assert not isinstance(TrainOnly(), EvaluableTask)
    with pytest.raises(LimbeckError, match=r"a cache needs a deployable task, and TrainOnly has no decode_outputs, "):
        require_deployable(TrainOnly(), "a cache")
    assert require_evaluable(TASK, "fit") is TASK


@dataclass(frozen=True)
class Shifted(TrainOnly):
    """Adds to the student's input what the teacher computes, and gives a target by sample."""

    def sample_targets(self, batch):
        return {"length": batch["length"]}

    def prepare_batch(self, student, batch, query_teachers):
        teacher = query_teachers(batch)["teacher"].require_logits()
        return {**batch, "input": batch["input"] + teacher}, batch


class Recorded(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x):
        self.x = x
        return x * self.weight


def test_a_task_prepares_the_batch_and_gives_targets_by_sample():
    student, teacher = Recorded(), Recorded()
    objective = {"target": CrossEntropyLoss(), "kd": KDLoss()}
    distiller = Distiller(student, teacher, objective=objective, task=Shifted())
    batch = {**BATCH, "target": torch.tensor([0, 1, 1, 2]), "length": torch.tensor([3, 1, 2, 2])}
    context = distiller.train().forward_context(batch)
    assert torch.equal(student.x, 2 * LOGITS)
    assert torch.equal(teacher.x, LOGITS)
    assert context.sample_target("length").tolist() == [3, 1, 2, 2]
    with pytest.raises(LimbeckError, match="'tokens' of each sample, and the task gives length"):
        context.sample_target("tokens")
    distiller.eval().forward_context(batch)
    assert torch.equal(student.x, LOGITS)  # prepared in training only
