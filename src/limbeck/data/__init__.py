"""Where batches come from: sources, splits with a sealed test part, views, and streams that know no state."""

from limbeck.data.augmentation import Views, composite
from limbeck.data.held_out import Sealed
from limbeck.data.module import Data, arrays, batches, datasets, loaders
from limbeck.data.normalization import Normalization
from limbeck.data.sources import CIFAR10, CIFAR100, Digits, FashionMNIST, ImageFolder
from limbeck.data.split import Part
from limbeck.data.transforms import (
    affine,
    color_jitter,
    crop,
    cutmix,
    flip,
    mixup,
    rand_augment,
    resized_crop,
    torchvision,
)

__all__ = [
    "CIFAR10", "CIFAR100", "Data", "Digits", "FashionMNIST", "ImageFolder", "Normalization", "Part", "Sealed", "Views",
    "affine", "arrays", "batches", "color_jitter", "composite", "crop", "cutmix", "datasets", "flip", "loaders",
    "mixup", "rand_augment", "resized_crop", "torchvision",
]  # fmt: skip
