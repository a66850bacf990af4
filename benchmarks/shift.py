"""A real distribution shift: accuracy of the published ResNet-56 on CIFAR-10 test images and on JPEG copies of them.

Needs the folder of JPEG images (--jpeg-root, with cifar10/test/CLASS/INDEX.jpg) and the lossless images (see cifar.py).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cifar
import numpy as np
import torch
from PIL import Image
from results import make_row, parse_options, write_rows

from limbeck.data import Normalization
from limbeck.data.normalization import NormalizedModel
from limbeck.data.split import Split
from limbeck.evaluation import shift_accuracy


def load_splits(options: argparse.Namespace) -> tuple[Split, Split]:
    """The lossless images and their JPEG copies, in the same order."""
    with np.load(cifar.find_file(options.data_root, "cifar10_lossless5k/lossless5k.npz")) as file:
        lossless, target, indices = file["x_test"], torch.from_numpy(file["y_test"]).long(), file["test_jpg_index"]
    paths = {int(path.stem): path for path in (options.jpeg_root / "cifar10" / "test").rglob("*.jpg")}
    for index, label in zip(indices, target.tolist(), strict=True):
        assert paths[int(index)].parent.name == cifar.CLASSES[label], "test_jpg_index does not match the JPEG files"
    twins = np.stack([np.asarray(Image.open(paths[int(index)])) for index in indices])
    return Split.from_images(cifar.to_store(lossless), target), Split.from_images(cifar.to_store(twins), target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", help="folder of cifar10_lossless5k and cifar10_resnets")
    parser.add_argument("--jpeg-root", type=Path, default=Path("data"), help="folder of cifar10 as image folders")
    options = parse_options(parser, local=("data_root", "jpeg_root"))
    network = NormalizedModel(
        cifar.load_resnet("resnet56", options.data_root), Normalization(cifar.MEAN, cifar.STD), num_dims=3
    )
    result = shift_accuracy(network, *load_splits(options))
    data = "CIFAR-10, 1,000 test images, published ResNet-56"
    change_row = make_row(
        "jpeg_shift_accuracy_change", [result["difference"]], unit="points", aim="report", data=data, digits=1
    )
    change_row |= {"low": round(result["low"], 1), "high": round(result["high"], 1), "n": result["num_samples"]}
    rows = [
        make_row(f"jpeg_shift_{name}_accuracy", [100 * result[key]], unit="%", aim="report", data=data, digits=1)
        for name, key in (("lossless", "reference_accuracy"), ("jpeg", "shifted_accuracy"))
    ]
    flip_row = make_row(
        "jpeg_shift_flipped", [100 * result["flip_rate"]], unit="% of predictions", aim="report", data=data, digits=1
    )
    write_rows([change_row, *rows, flip_row])


if __name__ == "__main__":
    main()
