"""A real shift: CIFAR-10 test pictures as published, their JPEG twins, and what the published ResNet-56 says to both.

Needs the folder of JPEG pictures (--pictures, with cifar10/test/CLASS/NUMBER.jpg) and the pack of lossless ones.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cifar
import numpy as np
import torch
from PIL import Image
from results import parsed, row, write

from limbeck.data import Normalization
from limbeck.data.split import Split
from limbeck.evaluation import shift_accuracy
from limbeck.workflows._job.measure import NormalizedModel


def both(options: argparse.Namespace) -> tuple[Split, Split]:
    """The lossless pictures and their JPEG twins, in one order."""
    with np.load(cifar.found(options.data_root, "cifar10_lossless5k/lossless5k.npz")) as file:
        lossless, target, numbers = file["x_test"], torch.from_numpy(file["y_test"]).long(), file["test_jpg_index"]
    named = {int(path.stem): path for path in (options.pictures / "cifar10" / "test").rglob("*.jpg")}
    for number, label in zip(numbers, target.tolist(), strict=True):
        assert named[int(number)].parent.name == cifar.CLASSES[label], "the index does not lead to twins"
    twins = np.stack([np.asarray(Image.open(named[int(number)])) for number in numbers])
    return Split.from_images(cifar.stored(lossless), target), Split.from_images(cifar.stored(twins), target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", help="where the packs stand")
    parser.add_argument(
        "--pictures", type=Path, default=Path("data"), help="where cifar10 stands as folders of pictures"
    )
    options = parsed(parser, places=("data_root", "pictures"))
    network = NormalizedModel(cifar.teacher(options.data_root).eval(), Normalization(cifar.MEAN, cifar.STD), num_dims=3)
    found = shift_accuracy(network, *both(options))
    told = "CIFAR-10, 1,000 test pictures, ResNet-56 as published"
    change = row("jpeg_shift_accuracy_change", [found["difference"]], unit="points", aim="report", data=told, digits=1)
    change |= {"low": round(found["low"], 1), "high": round(found["high"], 1), "n": found["num_samples"]}
    rows = [
        row(f"jpeg_shift_{name}_accuracy", [100 * found[side]], unit="%", aim="report", data=told, digits=1)
        for name, side in (("lossless", "reference_accuracy"), ("jpeg", "shifted_accuracy"))
    ]
    flipped = row(
        "jpeg_shift_flipped", [100 * found["flip_rate"]], unit="% of predictions", aim="report", data=told, digits=1
    )
    write([change, *rows, flipped])


if __name__ == "__main__":
    main()
