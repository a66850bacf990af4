"""Trainings on two processes that are stopped and go on, in shares or whole: python fsdp_runner.py OUT, in each."""

import os
import signal
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributed.tensor import DTensor

import limbeck
from limbeck.data import Augmentation, Digits, affine
from limbeck.losses import CrossEntropyLoss, FitNetLoss, KDLoss, SPLoss
from limbeck.training import TrainingConfig, TrainingInterrupted, make_fabric


def block(wide):
    return nn.Sequential(nn.Linear(wide, wide), nn.LayerNorm(wide), nn.ReLU())


def network(wide, *more):
    blocks = nn.Sequential(block(wide), block(wide))
    return nn.Sequential(nn.Flatten(), nn.Linear(64, wide), blocks, *more, nn.Linear(wide, 10))


def noise():
    return nn.Dropout(0.3), nn.BatchNorm1d(12)


class StopsAt:
    """Digits; when batch ``step`` is read, the second process gets a signal."""

    def __init__(self, step=None):
        self.data, self.at = Digits(num_labeled=200, augment=Augmentation((affine(),))).load(seed=0), step

    def batches(self, rank, **more):
        self.rank, self.inner = rank, self.data.batches(rank=rank, **more)
        self.steps_per_epoch = self.inner.steps_per_epoch
        return self

    def batch(self, step):
        if step == self.at and self.rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return self.inner.batch(step)

    def validation_batches(self, **place):
        return self.data.validation_batches(batch_size=130, **place)


def distiller(more=tuple):
    torch.manual_seed(0)
    student, teacher = network(12, *more()), network(16)
    objective = {"soft": KDLoss(), "hint": FitNetLoss("mid"), "alike": SPLoss("mid"), "truth": CrossEntropyLoss()}
    return limbeck.Distiller(
        student, teacher, objective=objective, weights={"alike": 10.0}, gather_distributed=["alike", "truth"],
        feature_layers={"student": {"mid": "2.1"}, "teacher": {"mid": "2"}}, task=limbeck.tasks.Classification(10),
    )  # fmt: skip


def train(made, fabric, out, *, optimizer=torch.optim.AdamW, stop=None, resume=False, batch=48, **more):
    training = TrainingConfig(
        optimizer=partial(optimizer, lr=0.05),
        batch_size=batch // fabric.world_size,
        grad_accum_steps=2,
        max_grad_norm=1.0,
        **more,
    )
    run = limbeck.training.fit(
        made, StopsAt(stop), steps=10, steps_per_epoch=4, training=training, fabric=fabric, run_dir=out, callbacks=[],
        resume=resume, phase="sharded",
    )  # fmt: skip
    return {"weights": made.state_dict(), "loss": run.history[-1]["loss"], "nll": run.history[-1]["val/nll"]}


def in_turn(out, fabric, more=tuple, **settings):
    """Uninterrupted, and stopped in the sixth step and gone on with: what both end with."""
    whole = train(distiller(more), fabric(), out / "whole", **settings)
    with pytest.raises(TrainingInterrupted) as stopped:
        train(distiller(more), fabric(), out / "stopped", stop=10, **settings)
    assert stopped.value.signal == signal.SIGTERM
    return whole, train(distiller(more), fabric(), out / "stopped", resume=True, **settings)


def spy(parameters, *, seen, **settings):
    """An optimizer, after a look at what it is given."""
    parameters = list(parameters)
    assert all(isinstance(parameter, DTensor) for parameter in parameters)
    seen["all"] = sum(parameter.numel() for parameter in parameters)
    seen["own"] = sum(parameter.to_local().numel() for parameter in parameters)
    return torch.optim.AdamW(parameters, **settings)


def main():
    out, seen = Path(sys.argv[1]), {}
    torch.set_num_threads(1)
    fsdp, ddp = partial(make_fabric, strategy="fsdp"), partial(make_fabric, strategy="ddp")
    results = {"fsdp": in_turn(out / "fsdp", fsdp, optimizer=partial(spy, seen=seen))}
    results["best"] = train(distiller(), fsdp(), None, keep_weights="best")
    half = partial(fsdp, precision="bf16-true")
    groups = [{"match": "*.bias", "lr": 0.01, "weight_decay": 0.0}]
    results["half"] = in_turn(out / "half", half, optimizer=torch.optim.SGD, parameter_groups=groups)
    results["ddp"] = in_turn(out / "ddp", ddp, noise, ema_decay=0.9)
    mine = {name: results[name][0]["weights"] for name in ("fsdp", "ddp")}
    every = [None, None]
    torch.distributed.all_gather_object(every, mine)
    if ddp().global_rank == 0:
        torch.save(results | {"seen": seen, "every": every}, out / "results.pt")


if __name__ == "__main__":
    main()
