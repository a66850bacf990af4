"""Listening to each teacher is the mean of listening to one after the other, at the same weight in all."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from limbeck import schedules
from limbeck.core.errors import LimbeckError
from limbeck.core.progress import Progress
from limbeck.distiller import Objective, loss_per_teacher
from limbeck.losses import CrossEntropyLoss, FitNetLoss, KDLoss
from limbeck.testing import make_context

NAMES = ["big", "mid", "small"]


def log_softmax(outputs, *, tau=1.0):
    logits = outputs.require_logits().detach().double().numpy() / tau
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def test_it_is_the_mean_over_the_teachers():
    context = make_context(teacher_names=NAMES)
    loss_fns, weights = loss_per_teacher(
        {"target": CrossEntropyLoss(), "kd": KDLoss(temperature=2.0)}, {"kd": 0.9}, NAMES
    )
    loss = Objective(loss_fns, weights)(context)
    student, soft = log_softmax(context.student, tau=2.0), 0.0
    for name in NAMES:
        teacher = log_softmax(context.teachers[name], tau=2.0)
        soft += 0.9 * 4 * (np.exp(teacher) * (teacher - student)).sum(axis=1).mean() / 3
    target_loss = -log_softmax(context.student)[np.arange(6), context.target.numpy()].mean()
    assert float(loss.total.detach()) == pytest.approx(soft + target_loss, rel=1e-6)
    assert sum(loss.weights.values()) == pytest.approx(1.9)


def test_a_schedule_is_shared_at_every_moment():
    _, weights = loss_per_teacher({"kd": KDLoss()}, {"kd": schedules.linear(3.0, 0.0)}, NAMES)
    assert [weight(Progress(1, 4)) for weight in weights.values()] == [0.75] * 3
    assert str(weights["kd-big"]) == "(3→0)/3"


def test_a_loss_that_learns_learns_for_each_teacher():
    loss_fns, weights = loss_per_teacher({"fitnet": FitNetLoss("mid")}, {}, NAMES)
    objective = Objective(loss_fns, weights)
    objective.prepare(make_context(teacher_names=NAMES, teacher_feature_shapes={"mid": (4, 4, 4)}))
    assert len({id(loss_fns[f"fitnet-{name}"].projection) for name in NAMES}) == 3
    assert len(list(objective.parameters())) == 6


def test_losses_that_name_a_teacher_or_know_none_stay_as_they_are():
    given = {"target": CrossEntropyLoss(), "named": KDLoss(teacher="mid"), "own": lambda context: torch.tensor(1.0)}
    loss_fns, weights = loss_per_teacher(given, {}, NAMES)
    assert loss_fns == given
    assert set(weights.values()) == {1.0}


@pytest.mark.parametrize("teachers", [[], ["big"]])
def test_with_one_teacher_nothing_changes(teachers):
    given = {"kd": KDLoss()}
    assert loss_per_teacher(given, {"kd": 0.5}, teachers) == (given, {"kd": 0.5})


def test_a_name_that_is_taken_is_refused():
    with pytest.raises(LimbeckError, match=r"is called 'kd-mid': rename the other"):
        loss_per_teacher({"kd": KDLoss(), "kd-mid": CrossEntropyLoss()}, {}, NAMES)
