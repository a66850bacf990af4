"""What a view does to an image: changes of one image, and mixings of two.

A constructor gives a frozen transform. One that changes an image is called with images
``[batch, channels, height, width]`` in 0..1 and :class:`~limbeck.data.counter_rng.CounterRNG`, and gives images of that
shape, every one by its own random numbers. :func:`mixup` and :func:`cutmix` need a second image, and come last.
"""

from limbeck.data.transforms.color_jitter import ColorJitter, color_jitter
from limbeck.data.transforms.geometry import Affine, HorizontalFlip, RandomCrop, affine, horizontal_flip, random_crop
from limbeck.data.transforms.mix_images import CutMix, Mixup, cutmix, mixup
from limbeck.data.transforms.random_resized_crop import RandomResizedCrop, random_resized_crop
from limbeck.data.transforms.torchvision_v2 import TorchvisionTransform, rand_augment, torchvision
from limbeck.data.transforms.transform import MixTransform, Transform

__all__ = [
    "Affine",
    "ColorJitter",
    "CutMix",
    "HorizontalFlip",
    "MixTransform",
    "Mixup",
    "RandomCrop",
    "RandomResizedCrop",
    "TorchvisionTransform",
    "Transform",
    "affine",
    "color_jitter",
    "cutmix",
    "horizontal_flip",
    "mixup",
    "rand_augment",
    "random_crop",
    "random_resized_crop",
    "torchvision",
]  # fmt: skip
