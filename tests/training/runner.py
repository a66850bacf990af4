"""A small training as a process that tests can kill: python runner.py OUT [resume] [KEY=VALUE…]."""

import hashlib
import sys
import time
from functools import partial

import torch
from torch import nn

import limbeck
from limbeck.data import Augmentation, Digits, affine, horizontal_flip
from limbeck.losses import CrossEntropyLoss, FitNetLoss, KDLoss
from limbeck.training import TrainingConfig


def network(width):
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.Dropout(0.2), nn.AdaptiveAvgPool2d(2),
        nn.Flatten(), nn.Linear(4 * width, 10),
    )  # fmt: skip


def main():
    out, *arguments = sys.argv[1:]
    options = dict(argument.split("=") for argument in arguments if "=" in argument)
    torch.set_num_threads(1)
    data = Digits(num_labeled=100, augment=Augmentation((affine(), horizontal_flip()))).load(seed=0)
    torch.manual_seed(0)
    student, teacher = network(4), network(8)
    distiller = limbeck.Distiller(
        student,
        {"big": teacher},
        objective={"truth": CrossEntropyLoss(), "soft": KDLoss(), "hint": FitNetLoss("mid")},
        weights={"soft": limbeck.schedules.cosine(1.0, 0.1)},
        feature_layers={"student": {"mid": "0"}, "big": {"mid": "0"}},
        task=limbeck.tasks.Classification(10),
    )
    training = TrainingConfig(
        optimizer=partial(torch.optim.SGD, lr=0.05, momentum=0.9),
        scheduler=lambda optimizer, steps: torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=steps),
        batch_size=32, max_grad_norm=5.0, ema_decay=0.99, grad_accum_steps=2,
        checkpoint_every_seconds=float(options.get("every", 0.0)), num_workers=int(options.get("workers", 0)),
    )  # fmt: skip
    if "slow" in options:
        student.register_forward_hook(lambda *_: time.sleep(float(options["slow"])))
    run = limbeck.training.fit(
        distiller, data, steps=int(options.get("steps", 60)), training=training, run_dir=out,
        resume="resume" in arguments,
        callbacks=[],
    )  # fmt: skip
    digest = hashlib.sha256()
    for tensor in run.student.state_dict().values():
        digest.update(tensor.numpy().tobytes())
    digest.update(distiller.objective.losses["hint"].projection.layer.weight.detach().numpy().tobytes())
    print(run.steps, digest.hexdigest())


if __name__ == "__main__":
    try:
        main()
    except limbeck.LimbeckError as error:
        print(error, file=sys.stderr)
        sys.exit(128 + getattr(error, "signal", -126))
