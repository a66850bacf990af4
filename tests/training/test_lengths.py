"""How long a training is, apart from its schedules: stopped early, or one of several stages."""

from functools import partial

import pytest
import torch
from torch import nn

import limbeck
from limbeck.data import from_tensors
from limbeck.losses import CrossEntropyLoss
from limbeck.training import TrainingConfig

TASK = limbeck.tasks.Classification(4)
TRAINING = TrainingConfig(
    optimizer=partial(torch.optim.SGD, lr=0.1, momentum=0.9),
    scheduler=lambda optimizer, steps: torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps),
    batch_size=16, checkpoint_every_seconds=0.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def data():
    draw = torch.Generator().manual_seed(0)
    return from_tensors(torch.rand(120, 1, 4, 4, generator=draw), torch.arange(120) % 4, seed=0)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))


def distiller(weights=None, student=None):
    objective = {"truth": CrossEntropyLoss()}
    return limbeck.Distiller(student or network(), objective=objective, weights=weights, task=TASK)


def train(made, data, *, steps=12, **more):
    return limbeck.training.fit(made, data, steps=steps, training=TRAINING, callbacks=[], **more)


def copied(network):
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def test_stopped_early_is_the_full_training_at_that_step(data):
    """The scheduler has the full length: a training of 5 steps would have run down its learning rate by then."""
    full, seen = network(), []
    # The weights before each step are those after the step before it; BatchNorm moves within the step.
    full.register_forward_pre_hook(lambda module, _: seen.append(copied(module)) if module.training else None)
    train(distiller(student=full), data)
    stopped, short = train(distiller(), data, stop_after_steps=5), train(distiller(), data, steps=5)
    assert stopped.steps == 5
    assert all(torch.equal(seen[5][name], tensor) for name, tensor in stopped.student.state_dict().items())
    assert not torch.equal(stopped.student[1].weight, short.student[1].weight)


def test_a_schedule_of_a_stopped_training_is_cut_and_not_squeezed(data):
    seen = []
    train(distiller({"truth": lambda progress: seen.append(progress.fraction) or 1.0}), data, stop_after_steps=3)
    assert seen == pytest.approx([0, 1 / 12, 2 / 12])


@pytest.mark.parametrize("stop", [0, -1, 13])
def test_a_stop_outside_the_training_is_refused(data, stop):
    with pytest.raises(limbeck.LimbeckError, match=f"after 1 to 12 steps, not after {stop}"):
        train(distiller(), data, stop_after_steps=stop)


def test_a_checkpoint_of_another_stop_is_refused(data, tmp_path):
    train(distiller(), data, stop_after_steps=5, run_dir=tmp_path)
    with pytest.raises(limbeck.LimbeckError, match=r"its steps was '12, stopped at 5' and is now '12, stopped at 7'"):
        train(distiller(), data, stop_after_steps=7, run_dir=tmp_path, resume=True)
    with pytest.raises(limbeck.LimbeckError, match=r"its steps was '12, stopped at 5' and is now 12"):
        train(distiller(), data, run_dir=tmp_path, resume=True)


def test_the_clock_of_all_stages_goes_on_where_the_last_stage_ended(data):
    seen, student = [], network()
    weight = {"truth": limbeck.schedules.across_stages(lambda progress: seen.append(progress.fraction) or 1.0)}
    train(distiller(weight, student), data, steps=2, steps_before=0, total_steps=5)
    train(distiller(weight, student), data, steps=3, steps_before=2, total_steps=5)
    assert seen == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8])


def test_an_overall_schedule_without_the_other_stages_is_refused(data):
    with pytest.raises(limbeck.LimbeckError, match=r"give steps_before= and total_steps= to limbeck\.fit"):
        train(distiller({"truth": limbeck.schedules.across_stages(limbeck.schedules.linear(1, 0))}), data)


@pytest.mark.parametrize(("before", "total"), [(4, 14), (-1, 20), (3, 0), (0, 11)])
def test_stages_that_do_not_hold_this_one_are_refused(data, before, total):
    with pytest.raises(limbeck.LimbeckError, match=r"do not hold this stage of 12 steps"):
        train(distiller(), data, steps_before=before, total_steps=total)
