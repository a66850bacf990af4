"""Reference networks, builders for torchvision and timm, and reading and writing weights."""

from limbeck.models.build import timm, torchvision
from limbeck.models.cifar_resnet import (
    resnet8,
    resnet8x4,
    resnet14,
    resnet20,
    resnet32,
    resnet32x4,
    resnet44,
    resnet56,
    resnet110,
    wide_resnet,
    wrn_16_1,
    wrn_16_2,
    wrn_40_1,
    wrn_40_2,
)
from limbeck.models.mlp import mlp
from limbeck.models.small_cnn import small_cnn
from limbeck.models.small_vit import small_vit
from limbeck.models.weights import load_weights, save_weights

__all__ = [
    "load_weights",
    "mlp",
    "resnet8",
    "resnet8x4",
    "resnet14",
    "resnet20",
    "resnet32",
    "resnet32x4",
    "resnet44",
    "resnet56",
    "resnet110",
    "save_weights",
    "small_cnn",
    "small_vit",
    "timm",
    "torchvision",
    "wide_resnet",
    "wrn_16_1",
    "wrn_16_2",
    "wrn_40_1",
    "wrn_40_2",
]
