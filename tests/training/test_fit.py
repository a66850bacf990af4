"""The loop: what it trains, what it tells, what it refuses."""

import csv
import math
from functools import partial

import pytest
import torch
from torch import nn

import limbeck
from limbeck.data import from_loaders, from_tensors
from limbeck.losses import CrossEntropyLoss, KDLoss
from limbeck.training import TrainingConfig, TrainingDiverged
from limbeck.training.train_state import _require_progress

TASK = limbeck.tasks.Classification(4)


@pytest.fixture
def data():
    draw = torch.Generator().manual_seed(0)
    target = torch.arange(400) % 4
    inputs = torch.rand(400, 1, 4, 4, generator=draw) * 0.5
    inputs[torch.arange(400), 0, target, :] += 0.5
    return from_tensors(inputs, target, seed=0)


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))


def make_baseline(student):
    return limbeck.Distiller(student, objective={"truth": CrossEntropyLoss()}, task=TASK)


def sgd(lr):
    return partial(torch.optim.SGD, lr=lr)


def test_it_is_the_plain_loop(data):
    ours, theirs = network(), network()
    training = TrainingConfig(optimizer=sgd(0.1), batch_size=32)
    limbeck.training.fit(make_baseline(ours), data, steps=20, training=training, callbacks=[])

    stream, optimizer = data.batches(batch_size=32), torch.optim.SGD(theirs.parameters(), lr=0.1)
    theirs.train()
    for step in range(20):
        batch = stream.batch(step)
        loss = nn.functional.cross_entropy(theirs(batch["input"]), batch["target"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for one, other in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_accumulation_equals_the_larger_batch(data):
    def net():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 4))

    one, two = net(), net()
    limbeck.training.fit(
        make_baseline(one), data, steps=8, training=TrainingConfig(optimizer=sgd(0.1), batch_size=64), callbacks=[]
    )
    halves = TrainingConfig(optimizer=sgd(0.1), batch_size=32, grad_accum_steps=2)
    limbeck.training.fit(make_baseline(two), data, steps=8, training=halves, callbacks=[])
    assert torch.allclose(one[1].weight, two[1].weight, atol=1e-6)


def test_the_teacher_does_not_change(data):
    teacher, student = network(1), network(0)
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    distiller = limbeck.Distiller(student, teacher, objective={"soft": KDLoss()}, task=TASK)
    limbeck.training.fit(distiller, data, epochs=2, training=TrainingConfig(batch_size=32), callbacks=[])
    assert all(torch.equal(before[name], tensor) for name, tensor in teacher.state_dict().items())


def test_metrics_hold_every_epoch_of_every_phase(data, tmp_path):
    for phase in ("teacher", "distilled"):
        limbeck.training.fit(make_baseline(network()), data, epochs=3, run_dir=tmp_path, phase=phase, callbacks=[])
    limbeck.training.fit(make_baseline(network()), data, epochs=3, run_dir=tmp_path, phase="distilled", callbacks=[])
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["phase"], row["epoch"]) for row in rows] == [
        (phase, str(epoch)) for phase in ("teacher", "distilled") for epoch in (1, 2, 3)
    ]
    assert 0 <= float(rows[-1]["val/accuracy"]) <= 1
    assert float(rows[-1]["loss"]) == pytest.approx(float(rows[-1]["loss/truth"]))


def test_nan_stops_with_the_term_the_step_and_the_checkpoint(data, tmp_path):
    calls = []

    def poison(context):
        calls.append(1)
        value = context.student.require_logits().sum() * 0
        return value + (math.nan if len(calls) > 5 else 0.0)

    distiller = limbeck.Distiller(network(), objective={"truth": CrossEntropyLoss(), "bad": poison}, task=TASK)
    with pytest.raises(
        TrainingDiverged, match=r"step 5: the loss 'bad'.*last good checkpoint is .*distilled\.distill\.pt"
    ):
        limbeck.training.fit(
            distiller,
            data,
            steps=20,
            training=TrainingConfig(checkpoint_every_seconds=0),
            run_dir=tmp_path,
            callbacks=[],
        )
    state = torch.load(tmp_path / "checkpoint" / "distilled.distill.pt", weights_only=True)
    assert state["step"] == 5
    assert all(torch.isfinite(tensor).all() for tensor in state["student"].values())


def test_weights_that_overflow_are_never_saved(data, tmp_path):
    student = network()
    student[1].weight.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(TrainingDiverged, match=r"weights 'student\.1\.weight' are not finite after step 1"):
        limbeck.training.fit(
            make_baseline(student),
            data,
            steps=5,
            training=TrainingConfig(checkpoint_every_seconds=0),
            run_dir=tmp_path,
            callbacks=[],
        )
    assert not list(tmp_path.rglob("*.pt"))


def test_keep_best_returns_the_best_epoch(data):
    student = network()
    training = TrainingConfig(optimizer=sgd(0.5), batch_size=32, keep_weights="best")
    run = limbeck.training.fit(make_baseline(student), data, epochs=6, training=training, callbacks=[])
    best = max(row["val/accuracy"] for row in run.history)
    right = total = 0
    for batch in data.validation_batches():
        right += int((run.student(batch["input"]).argmax(1) == batch["target"]).sum())
        total += len(batch["target"])
    assert right / total == best


def test_patience_stops_early(data):
    training = TrainingConfig(optimizer=sgd(0.0), batch_size=32, early_stopping_patience=2)
    run = limbeck.training.fit(make_baseline(network()), data, epochs=50, training=training, callbacks=[])
    assert len(run.history) == 3


def test_ema_averages_the_weights(data):
    student, plain = network(), network()
    limbeck.training.fit(
        make_baseline(plain), data, steps=2, training=TrainingConfig(optimizer=sgd(0.1), batch_size=32), callbacks=[]
    )
    training = TrainingConfig(optimizer=sgd(0.1), batch_size=32, ema_decay=0.5)
    limbeck.training.fit(make_baseline(student), data, steps=2, training=training, callbacks=[])
    first = network()
    limbeck.training.fit(
        make_baseline(first), data, steps=1, training=TrainingConfig(optimizer=sgd(0.1), batch_size=32), callbacks=[]
    )
    expected = 0.5 * first[1].weight + 0.5 * plain[1].weight
    assert torch.allclose(student[1].weight, expected, atol=1e-6)


def test_schedulers_step_by_step_or_by_epoch(data):
    seen = []

    def note(optimizer, times):
        seen.append(times)
        return torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)

    for per in ("step", "epoch"):
        training = TrainingConfig(optimizer=sgd(0.1), scheduler=note, scheduler_interval=per, batch_size=64)
        run = limbeck.training.fit(make_baseline(network()), data, epochs=3, training=training, callbacks=[])
        seen.append(run.history[-1]["lr"])
    assert seen == [12, pytest.approx(0.1 * 0.5**12), 3, pytest.approx(0.1 * 0.5**2)]


def test_plateau_watches_the_validation_loss(data):
    training = TrainingConfig(
        optimizer=sgd(0.0),
        scheduler=lambda o, n: torch.optim.lr_scheduler.ReduceLROnPlateau(o, patience=0),
        scheduler_interval="epoch",
    )
    run = limbeck.training.fit(make_baseline(network()), data, epochs=3, training=training, callbacks=[])
    assert len(run.history) == 3
    wrong = TrainingConfig(scheduler=lambda o, n: torch.optim.lr_scheduler.ReduceLROnPlateau(o))
    with pytest.raises(limbeck.LimbeckError, match="interval: epoch"):
        limbeck.training.fit(make_baseline(network()), data, epochs=1, training=wrong, callbacks=[])


def test_own_loaders_train(data):
    inputs = data.train.read(torch.arange(64))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(inputs, data.train.target[:64]), batch_size=16)
    run = limbeck.training.fit(make_baseline(network()), from_loaders(loader, loader), epochs=2, callbacks=[])
    assert run.steps == 8
    assert "val/accuracy" in run.history[-1]


def test_workers_are_refused_for_own_loaders(data):
    loader = [(torch.zeros(2, 1, 4, 4), torch.zeros(2, dtype=torch.long))]
    with pytest.raises(limbeck.LimbeckError, match="num_workers on your own loader"):
        limbeck.training.fit(
            make_baseline(network()),
            from_loaders(loader),
            epochs=1,
            training=TrainingConfig(num_workers=1),
            callbacks=[],
        )


def test_labelled_only_is_all_that_is_shown():
    data = from_tensors(torch.rand(200, 1, 4, 4), torch.arange(200) % 4, num_labeled=8)
    batch = data.batches(batch_size=4, subset="labeled").batch(0)
    assert (batch["target"] >= 0).all()
    assert data.num_labeled == 8


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({}, "either epochs or steps"),
        ({"epochs": 1, "steps": 1}, "either epochs or steps"),
        ({"steps": 0}, "at least one step"),
    ],
)
def test_a_length_is_required(data, wrong, says):
    with pytest.raises(limbeck.LimbeckError, match=says):
        limbeck.training.fit(make_baseline(network()), data, callbacks=[], **wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch_size": 0},
        {"grad_accum_steps": 0},
        {"ema_decay": 1.0},
        {"max_grad_norm": 0.0},
        {"early_stopping_patience": 0},
    ],
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(limbeck.LimbeckError, match=rf"training\.{next(iter(wrong))}"):
        TrainingConfig(**wrong)


def test_tensorboard_and_mlflow_get_the_figures(data, tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is an extra: pip install 'limbeck[tensorboard]'")
    pytest.importorskip("mlflow", reason="mlflow is an extra: pip install 'limbeck[mlflow]'")
    from lightning_fabric import Fabric
    from mlflow.tracking import MlflowClient
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from limbeck.training.callbacks import make_logger

    loggers = [make_logger(name, tmp_path, run="test") for name in ("tensorboard", "mlflow")]
    fabric = Fabric(accelerator="cpu", devices=1, loggers=loggers)
    run = limbeck.training.fit(make_baseline(network()), data, epochs=2, fabric=fabric, callbacks=[])
    for one in loggers:
        one.finalize("success")
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert events.Scalars("distilled/val/accuracy")[-1].value == pytest.approx(run.history[-1]["val/accuracy"])
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    (run_info,) = client.search_runs([client.get_experiment_by_name("limbeck").experiment_id])
    assert run_info.data.metrics["distilled/val/accuracy"] == pytest.approx(run.history[-1]["val/accuracy"])


def test_an_unknown_logger_is_refused(tmp_path):
    from limbeck.training.callbacks import make_logger

    with pytest.raises(limbeck.LimbeckError, match="tensorboard or mlflow, not 'wandb'"):
        make_logger("wandb", tmp_path, run="test")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"step": "x"}, "step must be from 0 to 6, got 'x'"),
        ({"step": -1}, "step must be from 0 to 6, got -1"),
        ({"step": 10**30}, "step must be from 0 to 6, got 1000"),
        ({"seconds": "x"}, "seconds must be finite, got 'x'"),
        ({"seconds": float("nan")}, "seconds must be finite, got nan"),
        ({"history": "x"}, "history must be a list of rows"),
        ({"warnings": 5}, "warnings must be a list of texts"),
        ({"best": {"value": "x"}}, "best must have a number, got 'x'"),
    ],
)
def test_the_progress_in_a_checkpoint_must_be_that_of_the_training(wrong, message):
    progress = {"step": 3, "seconds": 1.5, "history": [{}], "best": {"value": 0.5, "epoch": 1}}
    _require_progress(progress, num_steps=6)
    with pytest.raises(ValueError, match=message):
        _require_progress({**progress, **wrong}, num_steps=6)


@pytest.mark.parametrize("wrong", [{"format": 2}, {"format": 2, "settings": 3}])
def test_a_checkpoint_without_its_parts_is_one_sentence(data, tmp_path, wrong):
    (tmp_path / "checkpoint").mkdir()
    torch.save(wrong, tmp_path / "checkpoint" / "distilled.distill.pt")
    with pytest.raises(limbeck.LimbeckError, match="lacks what a training needs"):
        limbeck.training.fit(make_baseline(network()), data, steps=2, run_dir=tmp_path, resume=True, callbacks=[])
