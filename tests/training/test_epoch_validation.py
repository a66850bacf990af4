"""What reads a validation metric is refused where there is none; each epoch has its own values."""

import re
import warnings
from functools import partial

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import DataLoader, TensorDataset

import limbeck
from limbeck.data import from_loaders
from limbeck.losses import CrossEntropyLoss, KDLoss
from limbeck.teachers.self_teachers import EMATeacher
from limbeck.training import TrainingConfig

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
    return limbeck.fit(distiller, data, epochs=epochs, training=training, callbacks=[]).history


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
