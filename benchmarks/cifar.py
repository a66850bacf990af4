"""Shared by the benchmarks on CIFAR-10: 4,000 + 1,000 images without JPEG, published ResNets, one training setup."""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch

import limbeck
from limbeck.data.split import InMemory
from limbeck.losses import CrossEntropyLoss, KDLoss
from limbeck.models import cifar_resnet
from limbeck.training import TrainingConfig
from limbeck.training.callbacks import Callback

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Normalization of the published networks."""

TEMPERATURE, WEIGHTS = 4.0, {"target": 0.1, "kd": 0.9}
SGD = {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4}
BATCH = 64


def find_file(root: str | None, *names: str) -> Path:
    """The first of these files in ``root``, ``$LIMBECK_DATA``, ../shared/data, or ``data`` in /tmp."""
    shared = Path(__file__).resolve().parents[2] / "shared" / "data"
    folders = [Path(folder) for folder in (root, os.environ.get("LIMBECK_DATA")) if folder]
    folders += [shared, Path(tempfile.gettempdir()) / "data"]
    for path in (folder / name for folder in folders for name in names):
        if path.is_file():
            return path
    sys.exit(f"{' or '.join(names)} is in none of {', '.join(map(str, folders))}; give --data-root or LIMBECK_DATA")


def load_images(root: str | None) -> dict[str, tuple[np.ndarray, torch.Tensor]]:
    """``train`` and ``test``: images uint8 ``[n, 32, 32, 3]`` and their classes ``[n]``."""
    splits = {}
    for split in ("train", "test"):
        path = find_file(root, f"cifar10_lossless5k/{split}.npz", "cifar10_lossless5k/lossless5k.npz")
        with np.load(path) as file:
            suffix = "" if "x" in file.files else f"_{split}"
            splits[split] = (file[f"x{suffix}"], torch.from_numpy(file[f"y{suffix}"]).long())
    return splits


def to_store(images: np.ndarray) -> InMemory:
    """The images as a limbeck image store."""
    return InMemory(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous())


def load_published(network: torch.nn.Module, name: str, root: str | None) -> torch.nn.Module:
    """Load the published weights of ``resnet20``, 32, 44 or 56 into ``network``.

    They are the state dicts of https://github.com/akamaster/pytorch_resnet_cifar10, trained on all 50,000 images.
    """
    prefixes = {"conv1.": "stem.0.", "bn1.": "stem.1.", "linear.": "fc."}
    state = {}
    with np.load(find_file(root, f"cifar10_resnets/akamaster_{name}_cifar10.npz")) as file:
        for key in file.files:
            new_key = next((new + key.removeprefix(old) for old, new in prefixes.items() if key.startswith(old)), key)
            state[new_key] = torch.from_numpy(np.asarray(file[key]))
    missing, unexpected = network.load_state_dict(state, strict=False)
    assert not unexpected, unexpected
    assert all(key.endswith("num_batches_tracked") for key in missing), missing
    return network


def load_resnet(name: str, root: str | None) -> torch.nn.Module:
    """A published ResNet in eval mode."""
    network = getattr(cifar_resnet, name)(classes=10, shortcut="padding")
    return load_published(network, name, root).eval()


def make_distiller(student: torch.nn.Module, teacher) -> limbeck.Distiller:
    """0.1 · cross-entropy + 0.9 · KD at temperature 4."""
    objective = {"target": CrossEntropyLoss(), "kd": KDLoss(temperature=TEMPERATURE)}
    task = limbeck.tasks.Classification(classes=len(CLASSES))
    return limbeck.Distiller(student, teacher, objective=objective, weights=WEIGHTS, task=task)


def make_training_config() -> TrainingConfig:
    """SGD with a cosine schedule to zero, by step."""

    def scheduler(optimizer, steps):
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)

    return TrainingConfig(optimizer=partial(torch.optim.SGD, **SGD), scheduler=scheduler, batch_size=BATCH)


def hash_weights(network: torch.nn.Module) -> str:
    """Equal for two networks only if they have the same bits."""
    digest = hashlib.sha256()
    for value in network.state_dict().values():
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()


class EpochLogger(Callback):
    """Prints a line at each epoch."""

    def __init__(self, name: str) -> None:
        self.name = name

    def on_train_start(self, *, title: str, step: int, steps: int) -> None:
        self.start, self.steps = time.perf_counter(), steps

    def on_epoch_end(self, rows) -> None:
        seconds = time.perf_counter() - self.start
        step, loss = rows[-1]["step"], rows[-1]["loss"]
        print(f"{self.name}: step {step}/{self.steps}, loss {loss:.4f}, {seconds:.0f} s", flush=True)
