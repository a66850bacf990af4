"""Selecting among four published ResNets and one trained here, for a ResNet-8 on few images of CIFAR-10.

Reads cifar10_lossless5k and cifar10_resnets (see cifar.py). The published networks were trained on the whole official
training split, so the validation split is 1,000 images of the official test split; nothing else is measured on them.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import cifar
from PIL import Image
from results import make_row, parse_options, write_rows

from limbeck.models import cifar_resnet, save_weights
from limbeck.recipe import load_recipe
from limbeck.workflows import select_teachers

DEPTHS = (20, 32, 44, 56)
DATA = "CIFAR-10, 4,000 training images, 1,000 validation images"


def write_images(images, target, folder: Path) -> None:
    """The images as ``folder/<class>/<index>.png``."""
    for index, (pixels, label) in enumerate(zip(images, target.tolist(), strict=True)):
        class_folder = folder / cifar.CLASSES[label]
        class_folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(class_folder / f"{index:05}.png")


def make_recipe(work: Path) -> str:
    teachers = "\n".join(
        f"  resnet{depth}: {{use: resnet{depth}, shortcut: padding, weights: '{work / str(depth)}.safetensors'}}"
        for depth in DEPTHS
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
{teachers}
  resnet14: {{use: resnet14}}
student: {{use: resnet8}}
teacher_training: {{steps: 400, objective: {{target: CrossEntropyLoss}}}}
stages: [{{name: distill, steps: 600, objective: {{kd: {{use: KDLoss, temperature: 4}}}}}}]
training:
  optimizer: {{use: SGD, lr: 0.1, momentum: 0.9, weight_decay: 0.0005, nesterov: true}}
  scheduler: {{use: OneCycleLR, max_lr: 0.1}}
  batch_size: 64
"""


def make_rows(selection: dict) -> list[dict]:
    rows = []
    for name, model in selection["candidates"].items():
        low, high = (round(end, 2) for end in model["margin_interval"])
        row = make_row(f"choosing_{name}_margin", [model["margin"]], unit="points", aim="report", data=DATA, digits=2)
        rows.append(row | {"low": low, "high": high})
    steps = selection["selection"]["steps"]
    for name, step in (("first", steps[0]), ("chosen", steps[-1])):
        accuracy = 100 * step["value"]
        rows += [
            make_row(f"choosing_{name}_nll", [step["criterion_value"]], unit="nats", aim="report", data=DATA, digits=3),
            make_row(f"choosing_{name}_accuracy", [accuracy], unit="%", aim="report", data=DATA, digits=1),
        ]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root")
    options = parse_options(parser, local=("data_root",))
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        splits = cifar.load_images(options.data_root)
        for split, name in (("train", "train"), ("val", "test")):
            write_images(*splits[name], work / "data" / split)
        for depth in DEPTHS:
            network = getattr(cifar_resnet, f"resnet{depth}")(shortcut="padding")
            cifar.load_published(network, f"resnet{depth}", options.data_root)
            save_weights(network, work / f"{depth}.safetensors")
        # A latency budget that excludes nothing, so that the load of the machine does not change the selection.
        selection = select_teachers(load_recipe(make_recipe(work)), output_dir=work / "out", latency_budget=1e6)
    reasons = {name: model["reason"] for name, model in selection["candidates"].items()}
    write_rows(
        make_rows(selection), selected=selection["selection"]["selected"], reasons=reasons, pairs=selection["pairs"],
        warnings=selection["warnings"],
    )  # fmt: skip


if __name__ == "__main__":
    main()
