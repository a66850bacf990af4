"""Projections are built before the optimizer, or the Distiller raises an error; prepare changes nothing else."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

import limbeck
from limbeck.core.errors import LimbeckError
from limbeck.losses import CrossEntropyLoss, FitNetLoss, GramLoss, KDLoss
from limbeck.tasks import Classification

BATCH = (torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(4))


def net(width):
    return nn.Sequential(
        nn.Conv2d(3, width, 3, stride=2), nn.BatchNorm2d(width), nn.ReLU(inplace=True), nn.Dropout(0.5),
        nn.Flatten(), nn.Linear(9 * width, 4),
    )  # fmt: skip


def distiller(student=None, teacher=None, **settings):
    return limbeck.Distiller(
        student or net(4), teacher or net(6), task=Classification(4),
        objective={"kd": KDLoss(), "fitnet": FitNetLoss("mid"), "gram": GramLoss("mid")},
        feature_layers={"student": {"mid": "1"}, "teacher": {"mid": "1"}}, **settings,
    )  # fmt: skip


@pytest.mark.parametrize(
    "ask",
    [
        lambda made: list(made.parameters()),
        lambda made: list(made.named_parameters()),
        lambda made: torch.optim.SGD(made.parameters(), lr=0.1),
        lambda made: made(BATCH),
    ],
)
def test_parameters_before_preparing_is_an_error_that_names_what_to_do(ask):
    with pytest.raises(LimbeckError, match=r"learns a projection, which needs the shapes.*distiller.prepare\(batch\)"):
        ask(distiller())


def test_projections_are_parameters_and_state_after_preparing():
    made = distiller().prepare(BATCH)
    own = [
        f"objective.trainable.{loss_fn}.projection.layer.{kind}"
        for loss_fn in ("fitnet", "gram")
        for kind in ("weight", "bias")
    ]
    names = [name for name, _ in made.named_parameters()]
    assert set(own) <= set(names)
    assert set(own) <= set(made.state_dict())
    assert len(names) == len(list(net(4).parameters())) + 4


def test_a_training_step_moves_the_projections():
    made = distiller().prepare(BATCH)
    before = {name: p.clone() for name, p in made.objective.named_parameters()}
    optimizer = torch.optim.SGD(made.parameters(), lr=0.1)
    made(BATCH).total.backward()
    optimizer.step()
    assert all(not torch.equal(p, before[name]) for name, p in made.objective.named_parameters())


@pytest.mark.parametrize("training", [True, False])
def test_preparing_moves_no_statistics_and_no_training_mode(training):
    student, teacher = net(4), net(6)
    made = distiller(student, teacher).train(training)
    student[3].eval()
    before = [copy.deepcopy(network.state_dict()) for network in (student, teacher)]
    made.prepare(BATCH)
    assert [module.training for module in student] == [training, training, training, False, training, training]
    assert student.training is training
    for network, state in zip((student, teacher), before, strict=True):
        assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())
    assert all(p.grad is None for p in made.parameters())


def test_the_training_mode_comes_back_also_where_the_dry_pass_fails():
    made = distiller().train()
    with pytest.raises(RuntimeError):
        made.prepare((torch.zeros(4, 5, 8, 8), BATCH[1]))
    assert all(module.training for module in made.student.modules())
    made.prepare(BATCH)


def test_preparing_twice_keeps_the_first_projection():
    made = distiller().prepare(BATCH)
    first = list(made.parameters())
    made.prepare(BATCH)
    assert all(a is b for a, b in zip(first, made.parameters(), strict=True))


def test_preparing_an_objective_that_learns_nothing_runs_nothing():
    made = limbeck.Distiller(net(4), objective={"target": CrossEntropyLoss()}, task=Classification(4))
    assert made.prepare("not even a batch") is made
    assert list(made.parameters())


@pytest.mark.parametrize("moved", ["before", "after"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_another_precision_before_or_after_preparing_trains(dtype, moved):
    batch = (BATCH[0].to(dtype), BATCH[1])
    made = distiller().to(dtype).prepare(batch) if moved == "before" else distiller().prepare(BATCH).to(dtype)
    loss = made(batch)
    loss.total.backward()
    assert torch.isfinite(loss.total)
    assert all(p.grad is not None for p in made.parameters())


@pytest.mark.parametrize("through", [copy.deepcopy, lambda made: pickle.loads(pickle.dumps(made))])
def test_a_distiller_survives_copy_and_pickle(through):
    made = distiller(weights={"kd": limbeck.schedules.linear(1.0, 0.0)}).prepare(BATCH).eval()
    made.progress = limbeck.Progress(step=1, steps=4)
    other = through(made)
    assert torch.equal(made(BATCH).total, other(BATCH).total)
    shared = {id(part) for part in (*made.modules(), *made.parameters(), *made.teachers.values())}
    assert not shared & {id(part) for part in (*other.modules(), *other.parameters(), *other.teachers.values())}
    # The copy reads its own networks and learns its own projections.
    for parameter in (*other.parameters(), *other.teachers["teacher"].network.parameters()):
        nn.init.zeros_(parameter.detach())
    assert float(other(BATCH).by_loss["fitnet"]) == 0.0
    assert float(made(BATCH).by_loss["fitnet"]) > 0.0


def test_a_distiller_is_copied_and_prepared_later_as_well():
    made = copy.deepcopy(distiller()).prepare(BATCH)
    made(BATCH).total.backward()


def test_a_state_loads_into_a_prepared_distiller_and_gives_the_same_loss():
    teacher = net(6)
    made, other = (distiller(teacher=teacher).prepare(BATCH).eval() for _ in range(2))
    assert not torch.equal(made(BATCH).total, other(BATCH).total)
    other.load_state_dict(made.state_dict())
    assert torch.equal(made(BATCH).total, other(BATCH).total)
