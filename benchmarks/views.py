"""Draws docs/images/views.png: each transform on two images of CIFAR-10, in four views each.

    python benchmarks/views.py [FOLDER WITH cifar10/train/<class>/*]

Each image is the input of a network: the output of `BatchSampler.load` for the sample and view.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import matplotlib
import torch
from torch import Tensor

from limbeck.data import (
    Augmentation,
    DataModule,
    ImageFolder,
    affine,
    color_jitter,
    cutmix,
    default_augmentation,
    horizontal_flip,
    mixup,
    rand_augment,
    random_crop,
    random_resized_crop,
    torchvision,
)
from limbeck.data.batch_sampler import BatchSampler

OUT = Path(__file__).parents[1] / "docs" / "images" / "views.png"
ROWS = {
    "as they are": Augmentation(),
    "random_crop": Augmentation((random_crop(),)),
    "horizontal_flip": Augmentation((horizontal_flip(),)),
    "affine": Augmentation((affine(),)),
    "random_resized_crop": Augmentation((random_resized_crop((0.25, 1.0)),)),
    "color_jitter": Augmentation((color_jitter(),)),
    "rand_augment": Augmentation((rand_augment(),)),
    "torchvision:\nRandomErasing": Augmentation((torchvision("RandomErasing", p=1.0),)),
    "mixup(1.0)": Augmentation((mixup(1.0),)),
    "cutmix": Augmentation((cutmix(),)),
    "default_augmentation": default_augmentation(),
}
CLASSES, POSITION, VIEWS = ("horse", "ship"), 7, 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", nargs="?", default=os.environ.get("LIMBECK_DATA", "data"))
    root = Path(parser.parse_args().root) / "cifar10"
    data = ImageFolder(root=str(root), test_split="test", cache_mb=0, num_samples=1000, normalize="none").load(seed=0)
    matplotlib.use("Agg")
    draw({name: row(data, views) for name, views in ROWS.items()})


def row(data: DataModule, views: Augmentation) -> list[tuple[Tensor, str]]:
    """Images ``[height, width, 3]`` and their labels as text."""
    stream = BatchSampler(data.train, views, data.normalization, batch_size=8, seed=0, classes=len(data.class_names))
    first = [int((data.train.target == data.class_names.index(name)).nonzero()[POSITION]) for name in CLASSES]
    indices = torch.tensor(first).repeat_interleave(VIEWS)
    batch = stream.load(indices, torch.arange(VIEWS).repeat(len(first)))
    return [
        (image.permute(1, 2, 0), label_text(target, data.class_names))
        for image, target in zip(batch["input"], batch["target"], strict=True)
    ]


def label_text(target: Tensor, classes: tuple[str, ...]) -> str:
    if target.ndim == 0:
        return ""
    return "\n".join(f"{float(p):.2f} {classes[i]}" for i, p in enumerate(target) if p >= 0.005)


def draw(rows: dict[str, list[tuple[Tensor, str]]]) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        len(rows), len(CLASSES) * VIEWS, figsize=(8.6, 12.2), gridspec_kw={"wspace": 0.06, "hspace": 0.06},
        height_ratios=[1.32 if any(text for _, text in images) else 1 for images in rows.values()],
    )  # fmt: skip
    for line, (name, images) in zip(axes, rows.items(), strict=True):
        for axis, (image, text) in zip(line, images, strict=True):
            axis.imshow(image, interpolation="nearest", vmin=0, vmax=1)
            axis.set_xticks([])
            axis.set_yticks([])
            axis.set_anchor("N")
            axis.spines[:].set_visible(False)
            axis.set_xlabel(text, fontsize=6, labelpad=2)
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9, labelpad=6)
    for i in range(len(CLASSES) * VIEWS):
        axes[0][i].set_title(f"view {i % VIEWS}", fontsize=8)
    figure.savefig(OUT, dpi=110, bbox_inches="tight", pil_kwargs={"optimize": True})


if __name__ == "__main__":
    main()
