"""A baseline keeps every supervised loss of the objective, and no loss that distills."""

from __future__ import annotations

from dataclasses import dataclass

from limbeck import schedules
from limbeck.core.loss_context import LossContext
from limbeck.core.protocols import loss_attribute
from limbeck.losses import CrossEntropyLoss, DKDLoss, KDLoss
from limbeck.workflows._job.stages import baseline_objective


@dataclass(frozen=True)
class DiceLoss:
    """A supervised loss of a plugin, which inherits nothing."""

    supervised = True

    def __call__(self, context: LossContext):
        probabilities = context.student.require_logits().softmax(1)
        return 1 - probabilities.gather(1, context.require_target().unsqueeze(1)).mean()


def test_every_supervised_loss_is_kept_at_the_ratio_of_its_weight():
    losses = {"target": CrossEntropyLoss(label_smoothing=0.1), "dice": DiceLoss(), "kd": KDLoss(), "dkd": DKDLoss()}
    weights = {"target": 0.2, "dice": 0.1, "kd": 0.9, "dkd": schedules.linear(1.0, 0.0)}
    objective, kept = baseline_objective(losses, weights)
    assert objective == {"target": CrossEntropyLoss(label_smoothing=0.1), "dice": DiceLoss()}
    assert kept == {"target": 1.0, "dice": 0.5}


def test_a_scheduled_weight_becomes_one():
    objective, weights = baseline_objective({"labels": CrossEntropyLoss()}, {"labels": schedules.linear(0.0, 1.0)})
    assert (list(objective), weights) == (["labels"], {"labels": 1.0})


def test_an_objective_without_a_supervised_loss_becomes_a_cross_entropy():
    assert baseline_objective({"kd": KDLoss()}, {}) == ({"target": CrossEntropyLoss()}, {"target": 1.0})


def test_losses_that_declare_nothing_distill_from_a_teacher():
    def loss(context):
        return context.student.require_logits().sum()

    names = ("knowledge", "supervised", "uses_temperature", "uses_task_temperature", "needs_teacher")
    assert [loss_attribute(loss, name) for name in names] == ["other", False, False, False, True]
