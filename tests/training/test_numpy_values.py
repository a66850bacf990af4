"""numpy numbers in settings and states are Python numbers in checkpoints, and what cannot be read back is refused."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, MultiStepLR, StepLR

import limbeck
from limbeck.data import Augmentation, Digits, from_tensors, horizontal_flip
from limbeck.losses import CrossEntropyLoss
from limbeck.training import TrainingConfig
from limbeck.training.checkpoint import to_plain_values

SGD = partial(torch.optim.SGD, lr=0.1)


@pytest.fixture
def data():
    target = torch.arange(60) % 3
    inputs = torch.randn(60, 4, generator=torch.Generator().manual_seed(0)) + 2.0 * nn.functional.one_hot(target, 4)
    return from_tensors(inputs, target, seed=0, normalize="none")


def train(data, folder, *, stop=None, resume=False, seed=0, steps=12, label_smoothing=0.0, **settings):
    torch.manual_seed(0)
    student = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    distiller = limbeck.Distiller(
        student,
        objective={"truth": CrossEntropyLoss(label_smoothing=label_smoothing)},
        task=limbeck.tasks.Classification(3),
    )
    limbeck.training.fit(
        distiller, data, steps=steps, stop_after_steps=stop, run_dir=folder, resume=resume, seed=seed,
        training=TrainingConfig(**{"optimizer": SGD, "batch_size": 16} | settings), callbacks=[],
    )  # fmt: skip
    return student[0].weight.detach()


def numpy_cosine(optimizer, steps):
    return LambdaLR(optimizer, lambda step: 0.5 * (1 + np.cos(np.pi * step / steps)))


class NumpyTable(StepLR):
    """A scheduler that holds numpy arrays and keys."""

    def __init__(self, optimizer, steps):
        self.table, self.seen = np.linspace(1.0, 0.5, steps + 1), {np.int64(0): np.float32(1.0)}
        super().__init__(optimizer, 3)


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": partial(torch.optim.SGD, lr=np.float64(0.1), momentum=np.float32(0.5))},
        {"scheduler": numpy_cosine},
        {"scheduler": lambda optimizer, steps: MultiStepLR(optimizer, [np.int64(2), np.int64(5)])},
        {"scheduler": NumpyTable},
        {"batch_size": np.int64(16), "max_grad_norm": np.float64(1.0)},
    ],
    ids=["optimizer", "lambda", "milestones", "arrays", "settings"],
)
def test_a_training_with_numpy_values_resumes_to_the_same_bits(data, tmp_path, settings):
    whole = train(data, tmp_path / "whole", **settings)
    with pytest.raises(Interrupted):
        train(Interrupting(data, 7), tmp_path / "cut", checkpoint_every_seconds=0, **settings)
    assert torch.equal(train(data, tmp_path / "cut", resume=True, **settings), whole)


class Interrupted(Exception):
    pass


class Interrupting:
    """Raises at the batch of a step."""

    def __init__(self, data, step):
        self.data, self.step, self.validation_batches = data, step, data.validation_batches

    def batches(self, **settings):
        self.stream = self.data.batches(**settings)
        return self

    @property
    def steps_per_epoch(self):
        return self.stream.steps_per_epoch

    def batch(self, step):
        if step == self.step:
            raise Interrupted
        return self.stream.batch(step)


def test_numpy_integers_are_the_same_numbers(data, tmp_path):
    plain = train(data, tmp_path / "int", seed=3, stop=8)
    numbers = train(
        data, tmp_path / "numpy", seed=np.int64(3), steps=np.int32(12), stop=np.int64(8), batch_size=np.int16(16)
    )
    assert torch.equal(plain, numbers)
    # The checkpoint of one continues the other.
    assert torch.equal(train(data, tmp_path / "numpy", seed=3, stop=8, resume=True), plain)


def test_numpy_integers_are_read_by_the_data():
    images, target = torch.rand(60, 1, 8, 8), torch.arange(60) % 3

    def ids(number):
        augmentation = Augmentation((horizontal_flip(),), num_views=number(2))
        data = from_tensors(images, target, seed=number(2), num_labeled=number(30), augment=augmentation)
        batch = data.batches(batch_size=number(8)).batch(number(5))
        return torch.stack([batch["sample_id"], batch["view"]]), data.num_labeled

    assert torch.equal(ids(int)[0], ids(np.int64)[0])
    assert ids(np.int64)[1] == ids(int)[1] == 30
    assert torch.equal(
        Digits().load(seed=np.int64(1)).batches(batch_size=8).batch(0)["sample_id"],
        Digits().load(seed=1).batches(batch_size=8).batch(0)["sample_id"],
    )


def test_a_setting_of_a_loss_in_numpy_is_the_same_setting(data, tmp_path):
    train(
        data, tmp_path, steps=4, label_smoothing=np.float64(0.1), optimizer=partial(torch.optim.SGD, lr=np.float64(0.1))
    )
    train(data, tmp_path, steps=4, label_smoothing=0.1, resume=True)


@pytest.mark.parametrize("steps", [2.5, "3", None])
def test_a_length_must_be_an_integer(data, steps):
    with pytest.raises(limbeck.LimbeckError, match=r"steps must be an integer|either epochs or steps"):
        train(data, None, steps=steps)


def test_values_are_converted_and_containers_stay():
    state = {"lr": np.float64(0.1), "rows": [np.int64(3), (np.bool_(True), np.str_("a"))], np.int64(2): np.arange(2)}
    plain = to_plain_values(state)
    assert plain == {"lr": 0.1, "rows": [3, (True, "a")], 2: [0, 1]}
    assert [type(value) for value in (plain["lr"], plain["rows"][0], plain["rows"][1][0])] == [float, int, bool]
    untouched = nn.Linear(2, 2).state_dict()
    assert to_plain_values(untouched) is untouched


class Odd:
    pass


def test_a_checkpoint_that_cannot_be_read_back_is_refused_at_its_first_write(data, tmp_path):
    def make(optimizer, steps):
        scheduler = StepLR(optimizer, 3)
        scheduler.note = [Odd()]
        return scheduler

    with pytest.raises(limbeck.LimbeckError, match=r"read back: state\['scheduler'\]\['note'\]\[0\] is a Odd"):
        train(data, tmp_path, scheduler=make)
