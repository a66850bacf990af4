"""The public names of ``limbeck.data``."""

from limbeck.data.augmentation import Augmentation, default_augmentation
from limbeck.data.box_store import BoxStore
from limbeck.data.held_out import HeldOutTest
from limbeck.data.image_store import InMemory
from limbeck.data.mask_store import MasksInMemory
from limbeck.data.module import DataModule, iterate_batches, make_splits
from limbeck.data.normalization import Normalization, NormalizedModel
from limbeck.data.sequence_store import SequenceStore
from limbeck.data.sources import (
    CIFAR10,
    CIFAR100,
    Cityscapes,
    CocoDetection,
    Digits,
    FashionMNIST,
    ImageFolder,
    SegmentationFolder,
    VOCDetection,
    VOCSegmentation,
)
from limbeck.data.split import Split
from limbeck.data.transforms import (
    affine,
    color_jitter,
    cutmix,
    horizontal_flip,
    mixup,
    rand_augment,
    random_crop,
    random_resized_crop,
    scale_jitter,
    spec_augment,
    torchvision,
)
from limbeck.data.user_data import from_datasets, from_loaders, from_tensors

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "Augmentation",
    "BoxStore",
    "Cityscapes",
    "CocoDetection",
    "DataModule",
    "Digits",
    "FashionMNIST",
    "HeldOutTest",
    "ImageFolder",
    "InMemory",
    "MasksInMemory",
    "Normalization",
    "NormalizedModel",
    "SegmentationFolder",
    "SequenceStore",
    "Split",
    "VOCDetection",
    "VOCSegmentation",
    "affine",
    "color_jitter",
    "cutmix",
    "default_augmentation",
    "from_datasets",
    "from_loaders",
    "from_tensors",
    "horizontal_flip",
    "iterate_batches",
    "make_splits",
    "mixup",
    "rand_augment",
    "random_crop",
    "random_resized_crop",
    "scale_jitter",
    "spec_augment",
    "torchvision",
]
