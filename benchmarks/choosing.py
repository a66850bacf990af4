"""Choosing among four published ResNets and one trained here, for a ResNet-8 on few pictures of CIFAR-10.

Reads, below $LIMBECK_DATA, cifar10_lossless5k/{train,test}.npz (`x` [n, 32, 32, 3] uint8 and `y`: the first 4,000 and
1,000 of the official parts) and cifar10_resnets/akamaster_resnet{20,32,44,56}_cifar10.npz (the state dicts of
https://github.com/akamaster/pytorch_resnet_cifar10). Those networks were trained on the whole official training part,
so the validation part here is the 1,000 pictures of the official test part; nothing else is measured on them.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from results import row, write

from limbeck.models import cifar_resnet, save_weights
from limbeck.recipe import load_recipe
from limbeck.workflows import select_teachers

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
DEPTHS = (20, 32, 44, 56)
RULE = ">= 5"
DATA = "CIFAR-10, 4,000 pictures to train on, 1,000 to choose on"


def main() -> None:
    home = Path(os.environ["LIMBECK_DATA"])
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        for part, name in (("train", "train"), ("val", "test")):
            pictures(home / "cifar10_lossless5k" / f"{name}.npz", work / "data" / part)
        for depth in DEPTHS:
            weights(home / "cifar10_resnets" / f"akamaster_resnet{depth}_cifar10.npz", work / f"{depth}.safetensors")
        # No latency decides here, so that the choice does not hang on how busy the machine is.
        found = select_teachers(load_recipe(recipe(work)), output_dir=work / "out", latency_budget=1e6)
    rows = []
    for name, model in found["candidates"].items():
        low, high = (round(end, 2) for end in model["margin_interval"])
        margin = row(
            f"choosing_{name}_margin", [model["margin_points"]], unit="points", aim="report", data=DATA, digits=2
        )
        rows.append(margin | {"low": low, "high": high})
    steps = found["selection"]["steps"]
    for name, step in (("first", steps[0]), ("chosen", steps[-1])):
        rows.append(row(f"choosing_{name}_nll", [step["nll"]], unit="nats", aim="report", data=DATA, digits=3))
        rows.append(
            row(f"choosing_{name}_accuracy", [100 * step["accuracy"]], unit="%", aim="report", data=DATA, digits=1)
        )
    reasons = {name: model["reason"] for name, model in found["candidates"].items()}
    write(
        rows, selected=found["selection"]["selected"], reasons=reasons, pairs=found["pairs"], warnings=found["warnings"]
    )


def recipe(work: Path) -> str:
    known = "\n".join(
        f"  resnet{d}: {{use: resnet{d}, shortcut: padding, weights: '{work / str(d)}.safetensors'}}" for d in DEPTHS
    )
    return f"""
name: choosing
num_threads: 1
task: Classification
data:
  use: ImageFolder
  root: '{work / "data"}'
  test_split: 0.05
  augment: {{use: Augmentation, transforms: [{{use: random_crop, padding: 4}}, {{use: horizontal_flip}}]}}
teachers:
{known}
  resnet14: {{use: resnet14}}
student: {{use: resnet8}}
teacher_training: {{steps: 400, objective: {{target: CrossEntropyLoss}}}}
stages: [{{name: distill, steps: 600, objective: {{kd: {{use: KDLoss, temperature: 4}}}}}}]
training:
  optimizer: {{use: SGD, lr: 0.1, momentum: 0.9, weight_decay: 0.0005, nesterov: true}}
  scheduler: {{use: OneCycleLR, max_lr: 0.1}}
  batch_size: 64
"""


def pictures(file: Path, folder: Path) -> None:
    """The pictures of ``file`` as ``folder/<class>/<number>.png``."""
    held = np.load(file)
    for number, (pixels, label) in enumerate(zip(held["x"], held["y"], strict=True)):
        place = folder / CLASSES[label]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{number:05}.png")


def weights(file: Path, target: Path) -> None:
    """A published state dict under limbeck's names."""
    network = getattr(cifar_resnet, file.name.split("_")[1])(shortcut="padding")
    names = {"conv1": "stem.0", "bn1": "stem.1", "linear": "fc"}
    state = {}
    for name, values in np.load(file).items():
        first, _, rest = name.partition(".")
        state[f"{names.get(first, first)}.{rest}"] = torch.from_numpy(np.asarray(values))
    missing, strange = network.load_state_dict(state, strict=False)
    assert not strange
    assert all(name.endswith("num_batches_tracked") for name in missing), missing
    save_weights(network, target)


if __name__ == "__main__":
    main()
