"""Transforms of images for augmentation.

A transform maps images ``[batch, channels, height, width]`` in 0..1 and a
:class:`~limbeck.data.counter_rng.CounterRNG` to images of the same shape. :func:`mixup` and :func:`cutmix` blend two
images and come last. :func:`spec_augment` masks frames of audio.
"""

from limbeck.data.transforms.color_jitter import color_jitter
from limbeck.data.transforms.geometry import affine, horizontal_flip, random_crop, random_resized_crop, scale_jitter
from limbeck.data.transforms.mix_images import cutmix, mixup
from limbeck.data.transforms.spec_augment import spec_augment
from limbeck.data.transforms.torchvision_v2 import rand_augment, torchvision
from limbeck.data.transforms.transform import MixTransform, Transform

__all__ = [
    "MixTransform",
    "Transform",
    "affine",
    "color_jitter",
    "cutmix",
    "horizontal_flip",
    "mixup",
    "rand_augment",
    "random_crop",
    "random_resized_crop",
    "scale_jitter",
    "spec_augment",
    "torchvision",
]
