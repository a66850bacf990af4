"""What benchmarks on CIFAR-10 share: 4,000 + 1,000 pictures as published, and a trained ResNet-56 that teaches."""

from __future__ import annotations

import hashlib
import inspect
import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch

from limbeck.training.callbacks import Callback

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""What the teacher was trained with."""

TEMPERATURE, WEIGHTS = 4.0, {"target": 0.1, "kd": 0.9}
SGD = {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4}
BATCH = 64


def found(root: str | None, *names: str) -> Path:
    """The first of these files there is: in ``root``, ``$LIMBECK_DATA``, ../shared/data, or ``data`` in /tmp."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    given = [Path(place) for place in (root, os.environ.get("LIMBECK_DATA")) if place]
    roots = [*given, beside, Path(tempfile.gettempdir()) / "data"]
    for path in (top / name for top in roots for name in names):
        if path.is_file():
            return path
    sys.exit(
        f"{' or '.join(names)} is in none of {', '.join(map(str, roots))}: say where by --data-root or LIMBECK_DATA"
    )


def pictures(root: str | None) -> dict[str, tuple[np.ndarray, torch.Tensor]]:
    """``train`` and ``test``: pictures uint8 ``[n, 32, 32, 3]``, and their classes ``[n]``."""
    parts = {}
    for part in ("train", "test"):
        path = found(root, f"cifar10_lossless5k/{part}.npz", "cifar10_lossless5k/lossless5k.npz")
        with np.load(path) as file:
            ending = "" if "x" in file.files else f"_{part}"
            parts[part] = (file[f"x{ending}"], torch.from_numpy(file[f"y{ending}"]).long())
    return parts


def stored(images: np.ndarray):
    """The pictures as limbeck holds them in memory."""
    from limbeck.data.split import InMemory

    return InMemory(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous())


def published(name: str, root: str | None) -> dict[str, torch.Tensor]:
    """The weights of the published ``resnet20``, 32, 44 or 56, by the names that limbeck's has for them."""
    renamed = {"conv1.": "stem.0.", "bn1.": "stem.1.", "linear.": "fc."}
    with np.load(found(root, f"cifar10_resnets/akamaster_{name}_cifar10.npz")) as file:
        state = {}
        for key in file.files:
            ours = next((b + key.removeprefix(a) for a, b in renamed.items() if key.startswith(a)), key)
            state[ours] = torch.from_numpy(file[key])
    return state


def teacher(root: str | None) -> torch.nn.Module:
    """The published ResNet-56."""
    from limbeck.models import resnet56

    network = resnet56(classes=10, shortcut="padding")
    lacking, unknown = network.load_state_dict(published("resnet56", root), strict=False)
    assert not unknown, unknown
    assert all(name.endswith("num_batches_tracked") for name in lacking), lacking
    return network.eval()


def freeze(network: torch.nn.Module, backend: str):
    """``network`` as limbeck's teacher, answering by ``backend`` (``eager``, ``auto``, …)."""
    from limbeck.teachers import FrozenTeacher

    if "backend" in inspect.signature(FrozenTeacher).parameters:
        return FrozenTeacher(network, backend=backend)
    if backend != "eager":
        sys.exit(f"this limbeck has no backends for teachers, and --backend {backend} was asked for: leave it away")
    return FrozenTeacher(network)


def distiller(student: torch.nn.Module, source):
    """0.1 cross-entropy + 0.9 soft target at temperature 4."""
    import limbeck
    from limbeck.losses import CrossEntropyLoss, KDLoss

    objective = {"target": CrossEntropyLoss(), "kd": KDLoss(temperature=TEMPERATURE)}
    task = limbeck.tasks.Classification(classes=len(CLASSES))
    return limbeck.Distiller(student, source, objective=objective, weights=WEIGHTS, task=task)


def training():
    """SGD, its rate falling to zero by a cosine, step by step."""
    from limbeck.training import TrainingConfig

    return TrainingConfig(optimizer=partial(torch.optim.SGD, **SGD), scheduler=_cosine, batch_size=BATCH)


def fingerprint(network: torch.nn.Module) -> str:
    """The same for two networks only if they have the same bits."""
    text = hashlib.sha256()
    for value in network.state_dict().values():
        text.update(value.numpy().tobytes())
    return text.hexdigest()


class Lines(Callback):
    """Prints a line at each epoch, so that whoever waits sees how far it is."""

    def __init__(self, name: str) -> None:
        self.name = name

    def on_train_start(self, *, title: str, step: int, steps: int) -> None:
        self.begun, self.steps = time.perf_counter(), steps

    def on_epoch_end(self, rows) -> None:
        seconds = time.perf_counter() - self.begun
        last = rows[-1]
        print(f"{self.name}: step {last['step']}/{self.steps}, loss {last['loss']:.4f}, {seconds:.0f} s", flush=True)


def _cosine(optimizer, steps):
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
