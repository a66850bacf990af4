"""Peers: rows, targets and metrics of all students."""

from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import nn

import limbeck
from limbeck.core.outputs import Outputs
from limbeck.core.task import EvaluableTask, Scores
from limbeck.data import from_loaders
from limbeck.distiller import MutualTask, PeerStudents
from limbeck.losses import CrossEntropyLoss
from limbeck.training import TrainingConfig

TASK = limbeck.tasks.Classification(3)
INPUTS = torch.randn(24, 4, generator=torch.Generator().manual_seed(0))
TARGET = torch.arange(24) % 3
TARGET[-2:] = -100


def peers():
    torch.manual_seed(0)
    return PeerStudents({"a": nn.Linear(4, 3), "b": nn.Linear(4, 3)})


def test_a_mutual_task_has_the_metrics_of_its_task():
    task = MutualTask(TASK, 2)
    assert isinstance(task, EvaluableTask)
    for name in ("primary_metric", "monitored_metrics", "metric_specs", "supervised_loss", "temperatures", "classes"):
        assert getattr(task, name) == getattr(TASK, name)
    assert limbeck.Distiller(peers(), objective={"truth": CrossEntropyLoss()}, task=task)._default_temperature == 4.0


def test_validation_of_peers_is_the_mean_over_the_students():
    module, batch, task = peers(), (INPUTS, TARGET), MutualTask(TASK, 2)
    together = task.monitor(module, batch)
    apart = [TASK.monitor(student, batch) for student in module.students().values()]
    assert torch.equal(together, torch.cat(apart)) or (together.isnan() == torch.cat(apart).isnan()).all()
    labeled = together[~together.isnan().all(dim=1)]
    assert len(labeled) == 2 * 22
    for metric in TASK.monitored_metrics:
        values = [TASK.metric_value(one[:22], metric=metric) for one in apart]
        assert torch.isclose(task.metric_value(labeled, metric=metric), torch.stack(values).mean())
    # A single network, a student that is deployed, is itself.
    student = module.students()["a"]
    assert len(task.monitor(student, batch)) == 24
    assert isinstance(task.score(student, batch), Scores)


def test_fit_validates_peers():
    batches = [(INPUTS, TARGET)]
    distiller = limbeck.Distiller(peers(), objective={"truth": CrossEntropyLoss()}, task=MutualTask(TASK, 2))
    training = TrainingConfig(optimizer=partial(torch.optim.SGD, lr=0.1), keep_weights="best")
    row = limbeck.fit(distiller, from_loaders(batches, batches), epochs=2, training=training, callbacks=[]).history[-1]
    assert {"val/accuracy", "val/nll"} <= row.keys()


@dataclass(frozen=True)
class Pixels:
    """Two rows per sample, with tensors of every kind."""

    def outputs(self, network, batch):
        values = network(batch["input"])
        return Outputs(
            logits=values.repeat_interleave(2, dim=0), spatial_logits=values[:, :, None, None], embedding=values,
            by_row={"offset": values.repeat_interleave(2, dim=0)}, by_sample={"whole": values},
            row_to_sample=torch.arange(len(values)).repeat_interleave(2), valid=batch.get("valid"),
        )  # fmt: skip

    def target(self, batch):
        return batch["target"].repeat_interleave(2)

    def sample_targets(self, batch):
        return {"length": batch["target"]}


def test_every_kind_of_output_is_repeated():
    module, task = peers(), MutualTask(Pixels(), 2)
    batch = {"input": INPUTS[:5], "target": TARGET[:5]}
    a, b = (student(INPUTS[:5]) for student in module.students().values())
    outputs = task.outputs(module, batch)
    assert torch.equal(outputs.embedding, torch.cat([a, b]))
    assert torch.equal(outputs.by_sample["whole"], torch.cat([a, b]))
    assert torch.equal(outputs.by_row["offset"], outputs.logits)
    assert outputs.row_to_sample.tolist() == [i // 2 for i in range(20)]
    assert outputs.spatial_logits.shape == (10, 3, 1, 1)
    assert torch.equal(task.target(batch), Pixels().target(batch).repeat(2))
    assert task.sample_targets(batch)["length"].tolist() == [0, 1, 2, 0, 1] * 2
    teacher = task.outputs(nn.Linear(4, 3), batch | {"valid": torch.tensor([True, False, True, True, True])})
    assert teacher.valid.tolist() == [True, False, True, True, True] * 2
    assert teacher.masked_select(teacher.valid).require_logits().shape == (16, 3)
    assert task.monitored_metrics == ()


class Prepared(Pixels):
    def prepare_batch(self, student, batch, query_teachers):
        return batch, batch


def test_a_task_that_changes_batches_by_its_student_is_refused():
    with pytest.raises(limbeck.LimbeckError, match="prepare_batch of Prepared"):
        MutualTask(Prepared(), 2)
