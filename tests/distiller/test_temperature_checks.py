"""An objective keeps the state of temperatures, records them, and warns of those outside the range of the task."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import limbeck
from limbeck import schedules
from limbeck.core.errors import LimbeckError
from limbeck.distiller import Objective, loss_per_teacher, temperature_warnings
from limbeck.losses import CrossEntropyLoss, DISTLoss, KDLoss, NKDLoss
from limbeck.losses.temperature import (
    CLASSIFICATION,
    DETECTION,
    Learned,
    LogitStandardization,
    LossAdaptive,
    PerSample,
    Range,
    temperature_warning,
)
from limbeck.testing import make_context

TASK = limbeck.tasks.Classification(classes=5)


def test_a_temperature_with_state_is_part_of_the_objective():
    objective = Objective({"target": CrossEntropyLoss(), "kd": KDLoss(temperature=LossAdaptive())})
    assert set(objective.state_dict()) == {
        f"trainable.kd.{name}" for name in ("temperature", "fast", "slow", "initialized")
    }
    learned = Objective({"kd": KDLoss(temperature=Learned())})
    assert [name for name, _ in learned.named_parameters()] == ["trainable.kd.theta"]


def test_a_learned_temperature_is_shaped_with_the_losses():
    distiller = limbeck.Distiller(
        nn.Linear(4, 5),
        nn.Linear(4, 5),
        objective={"kd": KDLoss(temperature=Learned(granularity="sample"))},
        task=TASK,
    )
    with pytest.raises(LimbeckError, match=r"call distiller\.prepare"):
        list(distiller.parameters())
    distiller.prepare((torch.randn(3, 4), torch.zeros(3).long()))
    assert any("network" in name for name, _ in distiller.named_parameters())


def test_the_loss_records_every_temperature():
    objective = Objective(
        {
            "target": CrossEntropyLoss(), "plain": KDLoss(temperature=3.0),
            "moving": KDLoss(temperature=schedules.linear(6.0, 2.0)),
            "each": KDLoss(temperature=PerSample()), "own": KDLoss(temperature=LossAdaptive(start=5.0)),
        }
    )  # fmt: skip
    loss = objective(make_context())
    assert set(loss.temperatures) == {"plain", "moving", "each", "own"}
    assert loss.temperatures["plain"] == (3.0,)
    assert loss.temperatures["moving"] == (5.0,)
    assert loss.temperatures["each"][0].shape == (6,)
    assert loss.temperatures["own"][0].tolist() == [5.0]
    assert not loss.teacher_entropy
    objective.collect_diagnostics = True
    assert set(objective(make_context()).teacher_entropy) == {"plain", "moving", "each", "own"}


def test_losses_with_their_gradients_sum_to_the_loss():
    loss = Objective({"target": CrossEntropyLoss(), "kd": KDLoss()}, {"kd": 0.5})(make_context())
    torch.testing.assert_close(sum(loss.by_loss_with_grad.values()), loss.total)
    assert all(loss_fn.requires_grad for loss_fn in loss.by_loss_with_grad.values())
    assert not any(part.requires_grad for part in loss.by_loss.values())


def test_a_temperature_continues_in_the_next_stage():
    first, second = (Objective({"kd": KDLoss(temperature=LossAdaptive(rate=0.1, high=9.0))}) for _ in range(2))
    for _ in range(3):
        first(make_context())
    second.load_previous(first)
    assert second.losses["kd"].temperature.temperature == first.losses["kd"].temperature.temperature != 4.0


def test_each_teacher_gets_a_temperature_of_its_own():
    loss_fns, _ = loss_per_teacher({"kd": KDLoss(temperature=LossAdaptive())}, {}, ["a", "b"])
    assert loss_fns["kd-a"].temperature is not loss_fns["kd-b"].temperature
    Objective(loss_fns)


def test_two_losses_cannot_share_a_temperature_that_moves():
    shared = LossAdaptive()
    with pytest.raises(LimbeckError, match="'a' and 'b' share one LossAdaptive"):
        Objective({"a": KDLoss(temperature=shared), "b": KDLoss(temperature=shared)})


@pytest.mark.parametrize(
    ("temperature", "message"),
    [
        (4.0, None), (3.0, None), (6.0, None), (2.0, "is 2,"), (20.0, "is 20,"), (schedules.linear(6.0, 1.0), None),
        (schedules.linear(2.0, 1.0), "is 1 to 2,"), (PerSample(), None), (PerSample(confident=9.0, uncertain=8.0),
        "is 8 to 9,"),
        (Learned(), None), (LogitStandardization(), None),
    ],
)  # fmt: skip
def test_a_temperature_gives_a_warning_only_where_all_of_it_is_out_of_range(temperature, message):
    warnings = temperature_warnings({"kd": KDLoss(temperature=temperature)}, TASK)
    assert (message is None) == (not warnings)
    assert message is None or message in warnings[0]


def test_an_unusual_temperature_is_a_warning_of_the_distiller():
    with pytest.warns(UserWarning, match="the usual range of Classification is 3 to 6"):
        limbeck.Distiller(nn.Linear(4, 5), nn.Linear(4, 5), objective={"kd": KDLoss(temperature=1.0)}, task=TASK)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        limbeck.Distiller(nn.Linear(4, 5), nn.Linear(4, 5), objective={"kd": KDLoss()}, task=TASK)


def test_the_task_declares_its_usual_range_and_the_default_of_kd_is_its_usual():
    assert TASK.temperatures == Range(default=4.0, low=3.0, high=6.0)
    assert KDLoss().temperature is None
    assert make_context().default_temperature == TASK.temperatures.default
    assert temperature_warnings({"kd": KDLoss(temperature=1.0)}, object()) == [], (
        "a task without a range gives no warning"
    )


def test_each_kind_of_task_has_a_range():
    assert limbeck.tasks.Classification(classes=2).temperatures == CLASSIFICATION == Range(default=4, low=3, high=6)
    assert Range(default=1, low=1, high=3) == DETECTION
    assert temperature_warning(4.0, 4.0, expected=DETECTION, loss_name="kd", task="Detection") is not None


def test_losses_with_the_temperature_of_their_paper_give_no_warning():
    assert temperature_warnings({"dist": DISTLoss(temperature=1.0), "nkd": NKDLoss(temperature=1.0)}, TASK) == []
    assert len(temperature_warnings({"kd": KDLoss(temperature=1.0)}, TASK)) == 1
