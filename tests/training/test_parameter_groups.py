"""Parameter groups: settings of the optimizer by the names of parameters."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CyclicLR, LinearLR, OneCycleLR

import limbeck
from limbeck.data import from_tensors
from limbeck.distiller import MutualTask, PeerStudents
from limbeck.losses import CrossEntropyLoss, FitNetLoss
from limbeck.training import TrainingConfig, freeze_modules

TASK = limbeck.tasks.Classification(3)
SGD = partial(torch.optim.SGD, lr=0.1, weight_decay=0.1, momentum=0.9)
GROUPS = [
    {"match": "1.*", "weight_decay": 0.0},  # the norm
    {"match": "losses.hint.*", "lr": 0.5},
    {"match": "*.bias", "weight_decay": 0.0, "lr": "2e-2"},
]


@pytest.fixture
def data():
    return from_tensors(
        torch.randn(60, 4, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 3, normalize="none"
    )


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def make(student=None, *, hint=True):
    objective = {"truth": CrossEntropyLoss()} | ({"hint": FitNetLoss("mid")} if hint else {})
    layers = {"student": {"mid": "2"}, "teacher": {"mid": "2"}} if hint else {}
    torch.manual_seed(1)
    teacher = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))
    student = network() if student is None else student
    return limbeck.Distiller(student, teacher if hint else None, objective=objective, feature_layers=layers, task=TASK)


def train(data, distiller, *, groups=GROUPS, optimizer=SGD, **options):
    training = TrainingConfig(
        optimizer=optimizer, batch_size=16, parameter_groups=groups, checkpoint_every_seconds=0,
        **{key: options.pop(key) for key in ("scheduler", "max_grad_norm") if key in options},
    )  # fmt: skip
    return limbeck.training.fit(distiller, data, **{"steps": 5, "callbacks": []} | options, training=training)


def test_groups_train_as_the_plain_loop(data):
    candidate, reference = make(), make()
    train(data, candidate, groups=GROUPS)
    stream = data.batches(batch_size=16)
    torch.manual_seed(limbeck.training.training_length.training_seed(0, "distilled", "distill"))
    reference.prepare(stream.batch(0))
    student, hint = reference.student, reference.objective.losses["hint"]
    optimizer = torch.optim.SGD(
        [
            {"params": [student[0].weight, student[3].weight]},
            {"params": list(student[1].parameters()), "weight_decay": 0.0},
            {"params": [student[0].bias, student[3].bias], "weight_decay": 0.0, "lr": 0.02},
            {"params": list(hint.parameters()), "lr": 0.5},
        ],
        lr=0.1, weight_decay=0.1, momentum=0.9,
    )  # fmt: skip
    reference.train()
    for step in range(5):
        optimizer.zero_grad()
        reference(stream.batch(step)).total.backward()
        optimizer.step()
    for value, expected in zip(candidate.state_dict().values(), reference.state_dict().values(), strict=True):
        assert torch.equal(value, expected)


def test_no_groups_are_one_list(data):
    seen = []

    def optimizer(parameters):
        seen.append(parameters)
        return SGD(parameters)

    train(data, make(), groups=(), optimizer=optimizer)
    assert all(isinstance(parameter, nn.Parameter) for parameter in seen[0])


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (
            [{"match": "head.*", "lr": 1.0}],
            r"parameter_groups.0: 'head\.\*' must match a trainable .* names are .*weight",
        ),
        ([{"match": "*", "lr": 1.0}, {"match": "0.*", "lr": 1.0}], r"parameter_groups.1: '0\.\*' .* no earlier group"),
        ([{"match": "0.*", "weight_dcay": 0.0}], "SGD has no setting 'weight_dcay'; available: weight_decay"),
        ([{"match": "0.*", "lr": -1.0}], "parameter_groups.0: SGD: Invalid learning rate: -1"),
        ([{"match": "0.*", "lr": "fast"}], "parameter_groups.0: SGD: "),
    ],
)
def test_a_group_that_cannot_work_is_refused_before_training(data, groups, message):
    student = network()
    student.register_forward_hook(lambda module, *_: pytest.fail("trained") if module.training else None)
    with pytest.raises(limbeck.LimbeckError, match=message):
        train(data, make(student, hint=False), groups=groups)


@pytest.mark.parametrize(
    "group", [{"lr": 0.1}, {"match": "0.*"}, {"match": 3, "lr": 0.1}, {"match": "*", "params": []}]
)
def test_a_group_needs_a_pattern_and_a_setting(group):
    with pytest.raises(limbeck.LimbeckError, match=r"training.parameter_groups: a group must have match"):
        TrainingConfig(parameter_groups=[group])


def test_a_frozen_parameter_is_not_matched(data):
    distiller = make(hint=False)
    with (
        freeze_modules(distiller.student, ["0"]),
        pytest.raises(limbeck.LimbeckError, match=r"'0\.\*' must match a trainable parameter"),
    ):
        train(data, distiller, groups=[{"match": "0.*", "lr": 0.1}])


def test_peers_are_matched_by_the_names_of_a_student(data):
    peers = PeerStudents({"a": network(), "b": network()})
    distiller = limbeck.Distiller(peers, objective={"truth": CrossEntropyLoss()}, task=MutualTask(TASK, 2))
    before = [student[3].weight.clone() for student in peers.students().values()]
    train(data, distiller, groups=[{"match": "3.*", "lr": 0.0}])
    assert all(
        torch.equal(student[3].weight, weight)
        for student, weight in zip(peers.students().values(), before, strict=True)
    )


def test_groups_are_resumed_and_other_groups_refused(data, tmp_path):
    whole = make()
    scheduler = partial(LinearLR, start_factor=0.5)
    settings = {"scheduler": lambda optimizer, _: scheduler(optimizer), "max_grad_norm": 1.0}
    train(data, whole, run_dir=tmp_path / "whole", **settings)

    cut = make()
    cut.student.register_forward_hook(lambda module, *_: _stop_at(module, 3))
    with pytest.raises(KeyboardInterrupt):
        train(data, cut, run_dir=tmp_path / "cut", **settings)
    for groups in (GROUPS[:2], ()):
        with pytest.raises(limbeck.LimbeckError, match=r"its parameter_groups was .* and is now"):
            train(data, make(), groups=groups, run_dir=tmp_path / "cut", resume=True, **settings)
    resumed = make()
    train(data, resumed, run_dir=tmp_path / "cut", resume=True, **settings)
    for one, other in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def _stop_at(module, step):
    if module.training:
        module.calls = getattr(module, "calls", 0) + 1
        if module.calls > step:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("scheduler", "is_refused"),
    [
        (lambda optimizer, steps: OneCycleLR(optimizer, 0.1, total_steps=steps), True),
        (lambda optimizer, steps: OneCycleLR(optimizer, [0.1, 0.02], total_steps=steps), False),
        (lambda optimizer, steps: CyclicLR(optimizer, 0.01, 0.1), True),
        (lambda optimizer, steps: LinearLR(optimizer, start_factor=0.1), False),
    ],
)
def test_a_scheduler_that_overwrites_the_rates_of_groups_is_refused(data, scheduler, is_refused):
    groups = [{"match": "*.bias", "lr": 0.02}]
    if not is_refused:
        assert train(data, make(hint=False), groups=groups, scheduler=scheduler).steps == 5
        return
    with pytest.raises(limbeck.LimbeckError, match=r"sets one learning rate for all of training\.parameter_groups"):
        train(data, make(hint=False), groups=groups, scheduler=scheduler)


def test_validation_uses_its_batch_size(data):
    sizes, student = [], network()
    student.register_forward_hook(lambda module, args, _: sizes.append(len(args[0])) if not module.training else None)
    for setting, largest in ((None, 4), (5, 5)):
        training = TrainingConfig(optimizer=SGD, batch_size=4, validation_batch_size=setting)
        limbeck.training.fit(make(student, hint=False), data, steps=1, training=training, callbacks=[])
        assert max(sizes) == largest
        sizes.clear()
