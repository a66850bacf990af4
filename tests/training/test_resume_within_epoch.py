"""A training resumed within an epoch: the same samples in the same order, and a row of the whole epoch."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler

import limbeck
from limbeck.data import from_loaders
from limbeck.losses import CrossEntropyLoss, KDLoss
from limbeck.training import TrainingConfig

NUM_SAMPLES, BATCH_SIZE, STEPS = 40, 8, 10


class Interrupted(Exception):
    pass


class Samples(Dataset):
    """Numbered samples whose inputs are drawn anew each time, from the global random state."""

    def __init__(self):
        self.read = []

    def __len__(self):
        return NUM_SAMPLES

    def __getitem__(self, index):
        self.read.append(index)
        return torch.randn(4) + torch.tensor(np.random.rand(4), dtype=torch.float32), index % 3


def loader(kind):
    data = Samples()
    generator = torch.Generator().manual_seed(5)
    if kind == "generator":
        return DataLoader(data, batch_size=BATCH_SIZE, shuffle=True, generator=generator)
    if kind == "sampler":
        return DataLoader(data, batch_size=BATCH_SIZE, sampler=RandomSampler(data, generator=generator))
    if kind == "batch_sampler":
        sampler = BatchSampler(RandomSampler(data, generator=generator), BATCH_SIZE, drop_last=True)
        return DataLoader(data, batch_sampler=sampler)
    if kind == "workers":
        return DataLoader(data, batch_size=BATCH_SIZE, shuffle=True, generator=generator, num_workers=1)
    return DataLoader(data, batch_size=BATCH_SIZE, shuffle=True)


def train(loader, folder=None, *, cut=None, resume=False):
    """The trained weights and the history; an interruption comes in the forward pass of a step."""
    torch.manual_seed(0)
    student = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.3), nn.Linear(8, 3))
    teacher = nn.Linear(4, 3)
    calls = []

    def count(*_):
        calls.append(1)
        if cut is not None and len(calls) > cut:
            raise Interrupted

    student.register_forward_pre_hook(count)
    distiller = limbeck.Distiller(
        student, teacher, objective={"truth": CrossEntropyLoss(), "kd": KDLoss()},
        task=limbeck.tasks.Classification(3),
    )  # fmt: skip
    training = TrainingConfig(optimizer=partial(torch.optim.SGD, lr=0.1), checkpoint_every_seconds=0)
    history = limbeck.training.fit(
        distiller, from_loaders(loader), steps=STEPS, training=training, run_dir=folder, resume=resume, callbacks=[]
    ).history
    return student[0].weight.detach(), history


@pytest.mark.parametrize(
    ("kind", "cut"),
    [
        *((kind, cut) for kind in ("generator", "global") for cut in (2, 5, 7)),
        *((kind, 7) for kind in ("sampler", "batch_sampler", "workers")),
    ],
)
def test_a_loader_goes_on_with_the_samples_that_were_left(tmp_path, kind, cut):
    whole = loader(kind)
    weights, history = train(whole, tmp_path / "whole")
    if kind != "workers":
        epochs = [whole.dataset.read[:NUM_SAMPLES], whole.dataset.read[NUM_SAMPLES:]]
        assert [sorted(epoch) for epoch in epochs] == [list(range(NUM_SAMPLES))] * 2, "a batch was read twice"
        assert epochs[0] != epochs[1]

    with pytest.raises(Interrupted):
        train(loader(kind), tmp_path / "cut", cut=cut)
    resumed = loader(kind)
    resumed_weights, resumed_history = train(resumed, tmp_path / "cut", resume=True)
    if kind != "workers":
        # One batch for the shapes of projections; then the epoch from its start, whose first batches are skipped.
        epoch = cut * BATCH_SIZE // NUM_SAMPLES
        assert resumed.dataset.read[BATCH_SIZE:] == whole.dataset.read[epoch * NUM_SAMPLES :]
    assert torch.equal(resumed_weights, weights)
    for row, resumed_row in zip(history, resumed_history, strict=True):
        for name in row.keys() - {"seconds", "samples_per_second"}:
            same = pytest.approx(row[name], rel=1e-12) if isinstance(row[name], float) else row[name]
            assert resumed_row[name] == same, name


def test_the_throughput_of_a_resumed_epoch_is_that_of_the_whole_epoch(tmp_path):
    with pytest.raises(Interrupted):
        train(loader("generator"), tmp_path, cut=4)
    path = tmp_path / "checkpoint" / "distilled.distill.pt"
    state = torch.load(path, weights_only=True)
    (epoch,) = state["epoch_metrics"]
    assert epoch["counts"][:2] == [4, 4 * BATCH_SIZE]
    epoch["seconds"] = state["seconds"] = 1000.0
    torch.save(state, path)
    _, history = train(loader("generator"), tmp_path, resume=True)
    assert history[0]["samples_per_second"] == pytest.approx(NUM_SAMPLES / 1000, rel=0.01)
    assert history[0]["seconds"] == pytest.approx(1000, rel=0.01)
