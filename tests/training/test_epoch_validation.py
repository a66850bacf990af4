"""What reads a validation metric is refused where there is none; each epoch has its own values."""

import csv
import re
import warnings
from functools import partial

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import DataLoader, TensorDataset

import limbeck
from limbeck.core.metric_spec import MetricSpec
from limbeck.core.outputs import Outputs
from limbeck.core.task import reduce_statistics
from limbeck.data import from_loaders
from limbeck.losses import CrossEntropyLoss, KDLoss
from limbeck.teachers.self_teachers import EMATeacher
from limbeck.training import TrainingConfig
from limbeck.training.callbacks import Callback
from limbeck.training.metric_accumulator import MetricAccumulator
from limbeck.training.progress_bar import ProgressBar

TARGET = torch.arange(48) % 3
INPUTS = torch.randn(48, 4, generator=torch.Generator().manual_seed(0)) + nn.functional.one_hot(TARGET, 4)
TRAIN = DataLoader(TensorDataset(INPUTS, TARGET), batch_size=16)
NEEDS_VALIDATION = {
    "ReduceLROnPlateau": {
        "scheduler": lambda optimizer, _: ReduceLROnPlateau(optimizer),
        "scheduler_interval": "epoch",
    },
    "training.early_stopping_patience": {"early_stopping_patience": 1},
    "training.keep_weights best": {"keep_weights": "best"},
}


def train(data, *, epochs=3, teacher=None, **settings):
    torch.manual_seed(0)
    objective = {"truth": CrossEntropyLoss()} | ({} if teacher is None else {"kd": KDLoss()})
    distiller = limbeck.Distiller(nn.Linear(4, 3), teacher, objective=objective, task=limbeck.tasks.Classification(3))
    training = TrainingConfig(**{"optimizer": partial(torch.optim.SGD, lr=0.1)} | settings)
    return limbeck.training.fit(distiller, data, epochs=epochs, training=training, callbacks=[]).history


@pytest.mark.parametrize("name", NEEDS_VALIDATION)
@pytest.mark.parametrize("validation", [(), [(INPUTS, torch.full((48,), -100))], [(INPUTS,)]])
def test_a_setting_without_its_metric_is_refused_before_training(name, validation):
    data = from_loaders(TRAIN, validation)
    with pytest.raises(limbeck.LimbeckError, match=f"{name} needs a validation metric .* no labeled sample"):
        train(data, **NEEDS_VALIDATION[name])


@pytest.mark.parametrize("name", NEEDS_VALIDATION)
def test_a_setting_with_its_metric_runs(name):
    history = train(from_loaders(TRAIN, [(INPUTS, TARGET)]), **NEEDS_VALIDATION[name])
    assert {"val/accuracy", "val/nll"} <= history[0].keys()


def test_without_such_a_setting_nothing_is_needed():
    assert "val/accuracy" not in train(from_loaders(TRAIN))[-1]


def test_an_iterator_as_validation_is_refused():
    with pytest.raises(limbeck.LimbeckError, match="must be a DataLoader or a list of batches, got a generator"):
        from_loaders(TRAIN, (batch for batch in [(INPUTS, TARGET)]))


class OneIterator:
    """Data of a user whose validation batches are one iterator."""

    def __init__(self, *, again):
        self.batches = from_loaders(TRAIN).batches
        self.iterator, self.again = iter([(INPUTS, TARGET)] * 2), again

    def validation_batches(self):
        return (batch for batch in self.iterator) if self.again else self.iterator


def test_validation_that_is_exhausted_is_an_error_and_never_the_old_value():
    with pytest.raises(limbeck.LimbeckError, match="must return a new iterator at each call"):
        train(OneIterator(again=False))
    with pytest.raises(limbeck.LimbeckError, match="it gave val/accuracy in epoch 1 and no labeled sample in epoch 2"):
        train(OneIterator(again=True))


def test_the_check_draws_nothing_from_the_random_state():
    shuffled = DataLoader(TensorDataset(INPUTS, TARGET), batch_size=16, shuffle=True)
    rows = [train(from_loaders(TRAIN, shuffled), **settings) for settings in ({}, {"keep_weights": "best"})]
    assert [row["loss"] for row in rows[0]] == [row["loss"] for row in rows[1]]


@pytest.mark.parametrize(
    ("settings", "teacher", "message"),
    [
        ({"ema_decay": 0.999}, None, r"training.ema_decay: a decay of 0.999 .* about 1000 steps, .* has 9"),
        ({"ema_decay": 0.8}, None, None),
        ({}, EMATeacher(decay=0.99), r"EMATeacher 'teacher': a decay of 0.99 .* about 100 steps"),
        ({}, EMATeacher(decay=0.5), None),
    ],
)
def test_an_average_longer_than_the_training_warns(settings, teacher, message):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(from_loaders(TRAIN), teacher=teacher, **settings)
    texts = [str(warning.message) for warning in caught if "averages the weights" in str(warning.message)]
    if message is None:
        assert not texts
    else:
        assert len(texts) == 1
        assert re.search(message, texts[0])


ERROR_RATE = MetricSpec(name="error_rate", label="Error rate", higher_is_better=False)


class Frames:
    """Rows are the frames of samples; the only metric is an error rate, of which lower is better."""

    classes = 3
    primary_metric = ERROR_RATE
    monitored_metrics = metric_specs = (ERROR_RATE,)
    supervised_loss = "CrossEntropyLoss"

    def outputs(self, network, batch):
        frames, _ = batch
        return Outputs(
            logits=network(frames).flatten(0, 1), row_to_sample=torch.arange(len(frames)).repeat_interleave(5)
        )

    def target(self, batch):
        return batch[1].repeat_interleave(5)

    def monitor(self, network, batch):
        wrong = self.outputs(network, batch).logits.argmax(dim=1) != self.target(batch)
        statistics = torch.stack([wrong.view(-1, 5).sum(1), torch.full((len(batch[0]),), 5)], dim=1).double()
        return statistics.masked_fill((batch[1] < 0)[:, None], torch.nan)

    score = metrics = monitor

    def metric_value(self, statistics, weights=None, *, metric=None):
        assert metric == ERROR_RATE
        return reduce_statistics(statistics, weights, lambda sums: sums[..., 0] / sums[..., 1])


class Plain:
    """A task without metrics."""

    def outputs(self, network, batch):
        return Outputs(logits=network(batch[0]))

    def target(self, batch):
        return batch[1]


FRAMES = INPUTS[:, None].repeat(1, 5, 1) + torch.randn(48, 5, 4, generator=torch.Generator().manual_seed(1))
FRAME_LOADER = DataLoader(TensorDataset(FRAMES, TARGET), batch_size=16)
UNLABELED = (FRAMES[:4], torch.full((4,), -100))


def fit_frames(*, maximize=False, task=None, epochs=4, callbacks=(), run_dir=None, validation=None, **settings):
    torch.manual_seed(0)
    distiller = limbeck.Distiller(nn.Linear(4, 3), objective={"truth": CrossEntropyLoss()}, task=task or Frames())
    training = TrainingConfig(**{"optimizer": partial(torch.optim.SGD, lr=0.1, maximize=maximize)} | settings)
    data = from_loaders(FRAME_LOADER, [(FRAMES, TARGET), UNLABELED] if validation is None else validation)
    return limbeck.training.fit(
        distiller, data, epochs=epochs, training=training, callbacks=list(callbacks), run_dir=run_dir
    )


def error_rate(network):
    with torch.no_grad():
        wrong = network(FRAMES).argmax(dim=2).numpy() != TARGET[:, None].numpy()
    return wrong.sum() / wrong.size


def test_a_metric_of_which_lower_is_better_chooses_the_epoch():
    # Gradient ascent: the first epoch is the best.
    run = fit_frames(maximize=True, keep_weights="best")
    values = [row["val/error_rate"] for row in run.history]
    assert values[0] == min(values) < values[-1]
    assert error_rate(run.student) == values[0]
    assert error_rate(fit_frames(maximize=True).student) == values[-1]
    assert len(fit_frames(maximize=True, epochs=9, early_stopping_patience=2).history) == 3


def test_plateau_follows_the_last_monitored_metric_and_its_direction():
    settings = {"scheduler_interval": "epoch"}
    make = partial(ReduceLROnPlateau, patience=0, factor=0.5)
    run = fit_frames(maximize=True, scheduler=lambda o, _: make(o, mode="min"), **settings)
    assert [row["lr"] for row in run.history] == [0.1, 0.1, 0.05, 0.025]
    with pytest.raises(limbeck.LimbeckError, match=r"mode of ReduceLROnPlateau must be 'min' for val/error_rate"):
        fit_frames(scheduler=lambda o, _: make(o, mode="max"), **settings)


@pytest.mark.parametrize("name", NEEDS_VALIDATION)
def test_a_task_without_metrics_is_refused_where_one_is_needed(name):
    data = DataLoader(TensorDataset(INPUTS, TARGET), batch_size=16)
    with pytest.raises(limbeck.LimbeckError, match=f"{name} needs a validation metric .* Plain has no monitored_metr"):
        fit_frames(task=Plain(), validation=data, **NEEDS_VALIDATION[name])


class Recorded(Callback):
    def __init__(self):
        self.metrics = []

    def on_step_end(self, step, metrics):
        self.metrics.append((self.monitored_metrics, dict(metrics)))


def test_columns_and_throughput_are_by_sample_and_metric(tmp_path, capsys, monkeypatch):
    counts, update = [], MetricAccumulator.update
    monkeypatch.setattr(
        MetricAccumulator, "update", lambda meter, *args: (counts.append(args[1]), update(meter, *args))
    )
    recorded, bar = Recorded(), ProgressBar()
    run = fit_frames(epochs=2, callbacks=[recorded, bar], run_dir=tmp_path)
    with (tmp_path / "metrics.csv").open() as file:
        header = next(csv.reader(file))
    leading = ["phase", "stage", "epoch", "step", "seconds", "samples_per_second", "lr", "loss", "train/accuracy"]
    assert header[:10] == [*leading, "val/error_rate"]
    assert recorded.metrics[-1][0] == (ERROR_RATE,)
    assert recorded.metrics[-1][1]["val/error_rate"] == run.history[-1]["val/error_rate"]
    assert f"val error_rate {100 * run.history[-1]['val/error_rate']:.1f} %" in capsys.readouterr().err
    assert counts == [16] * 6, "frames are no samples"
