"""Residual networks for small images, in the shapes that the literature reports.

He et al., *Deep Residual Learning for Image Recognition*, CVPR 2016, section 4.2: https://arxiv.org/abs/1512.03385.
The 1×1 projection and the four-fold wide ``resnet8x4``, ``resnet32x4`` are those of Tian et al., *Contrastive
Representation Distillation*, ICLR 2020: https://arxiv.org/abs/1910.10699.

Every builder takes ``classes``, ``channels`` of the image, and ``shortcut``, the way past a block that changes the
shape: ``"projection"``, a 1×1 convolution with BatchNorm, as in the distillation literature; or ``"padding"``, He's
option A, which has no parameters: every second pixel, and channels of zeros on both sides.
"""

from __future__ import annotations

from typing import Literal, final

import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.models.checks import require_at_least

__all__ = [
    "CifarResNet",
    "Shortcut",
    "resnet8",
    "resnet8x4",
    "resnet14",
    "resnet20",
    "resnet32",
    "resnet32x4",
    "resnet44",
    "resnet56",
    "resnet110",
]

Shortcut = Literal["projection", "padding"]

_BASE_WIDTHS = (16, 16, 32, 64)
_X4_WIDTHS = (32, 64, 128, 256)


def resnet8(*, classes: int = 10, channels: int = 3, shortcut: Shortcut = "projection") -> CifarResNet:
    """ResNet-8, 0.08 M parameters."""
    return CifarResNet(8, _BASE_WIDTHS, classes=classes, channels=channels, shortcut=shortcut)


def resnet14(*, classes: int = 10, channels: int = 3, shortcut: Shortcut = "projection") -> CifarResNet:
    """ResNet-14, 0.18 M parameters."""
    return CifarResNet(14, _BASE_WIDTHS, classes=classes, channels=channels, shortcut=shortcut)


def resnet20(*, classes: int = 10, channels: int = 3, shortcut: Shortcut = "projection") -> CifarResNet:
    """ResNet-20, 0.28 M parameters at 100 classes.

    >>> sum(p.numel() for p in resnet20(classes=100).parameters())
    278324
    """
    return CifarResNet(20, _BASE_WIDTHS, classes=classes, channels=channels, shortcut=shortcut)


def resnet32(*, classes: int = 10, channels: int = 3, shortcut: Shortcut = "projection") -> CifarResNet:
    """ResNet-32, 0.47 M parameters."""
    return CifarResNet(32, _BASE_WIDTHS, classes=classes, channels=channels, shortcut=shortcut)


def resnet44(*, classes: int = 10, channels: int = 3, shortcut: Shortcut = "projection") -> CifarResNet:
    """ResNet-44, 0.67 M parameters."""
    return CifarResNet(44, _BASE_WIDTHS, classes=classes, channels=channels, shortcut=shortcut)


def resnet56(*, classes: int = 10, channels: int = 3, shortcut: Shortcut = "projection") -> CifarResNet:
    """ResNet-56, 0.86 M parameters."""
    return CifarResNet(56, _BASE_WIDTHS, classes=classes, channels=channels, shortcut=shortcut)


def resnet110(*, classes: int = 10, channels: int = 3, shortcut: Shortcut = "projection") -> CifarResNet:
    """ResNet-110, 1.74 M parameters."""
    return CifarResNet(110, _BASE_WIDTHS, classes=classes, channels=channels, shortcut=shortcut)


def resnet8x4(*, classes: int = 10, channels: int = 3, shortcut: Shortcut = "projection") -> CifarResNet:
    """ResNet-8 four times as wide, 1.23 M parameters at 100 classes: the usual student of :func:`resnet32x4`."""
    return CifarResNet(8, _X4_WIDTHS, classes=classes, channels=channels, shortcut=shortcut)


def resnet32x4(*, classes: int = 10, channels: int = 3, shortcut: Shortcut = "projection") -> CifarResNet:
    """ResNet-32 four times as wide, 7.43 M parameters at 100 classes."""
    return CifarResNet(32, _X4_WIDTHS, classes=classes, channels=channels, shortcut=shortcut)


@final
class CifarResNet(nn.Module):
    """``depth = 6 n + 2`` layers: a 3×3 stem, three stages of ``n`` blocks, the mean over the map, one linear layer.

    Args:
        depth: layers in all; 8, 14, 20, ...
        widths: channels of the stem and of the three stages.
        classes: number of classes.
        channels: of the image.
        shortcut: ``"projection"`` or ``"padding"``, see above.

    Takes ``[batch, channels, height, width]`` of any size, gives ``[batch, classes]``. Tap ``layer1``, ``layer2`` and
    ``layer3`` (after the last ReLU; 1, 1/2, 1/4 of the image) or ``pool`` (``[batch, widths[3], 1, 1]``).
    """

    def __init__(
        self,
        depth: int,
        widths: tuple[int, int, int, int],
        *,
        classes: int = 10,
        channels: int = 3,
        shortcut: Shortcut = "projection",
    ) -> None:
        super().__init__()
        require_at_least(1, classes=classes, channels=channels)
        if depth < 8 or (depth - 2) % 6:
            raise LimbeckError(f"the depth of a CIFAR ResNet is 6 n + 2 (8, 14, 20, ...), not {depth}")
        if shortcut not in ("projection", "padding"):
            raise LimbeckError(f"shortcut is 'projection' or 'padding', not {shortcut!r}")
        num_blocks = (depth - 2) // 6
        stem_width, width1, width2, width3 = widths
        self.stem = nn.Sequential(
            nn.Conv2d(channels, stem_width, 3, padding=1, bias=False), nn.BatchNorm2d(stem_width), nn.ReLU()
        )
        self.layer1 = _make_stage(stem_width, width1, num_blocks, stride=1, shortcut=shortcut)
        self.layer2 = _make_stage(width1, width2, num_blocks, stride=2, shortcut=shortcut)
        self.layer3 = _make_stage(width2, width3, num_blocks, stride=2, shortcut=shortcut)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(width3, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Tensor) -> Tensor:
        """The logits, ``[batch, classes]``."""
        features: Tensor = self.layer3(self.layer2(self.layer1(self.stem(image))))
        logits: Tensor = self.fc(self.pool(features).flatten(1))
        return logits


@final
class _BasicBlock(nn.Module):
    """Two 3×3 convolutions and the way past them. No ReLU works in place: a tapped map must stay what it was."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut = _make_shortcut(in_channels, out_channels, stride=stride, shortcut=shortcut)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


@final
class _PaddedShortcut(nn.Module):
    """He's option A: every ``stride``-th pixel, and ``more`` channels of zeros, shared out to both sides."""

    def __init__(self, extra_channels: int, stride: int) -> None:
        super().__init__()
        self.extra_channels, self.stride = extra_channels, stride

    def forward(self, x: Tensor) -> Tensor:
        num_front = self.extra_channels // 2
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, num_front, self.extra_channels - num_front))


def _make_shortcut(in_channels: int, out_channels: int, *, stride: int, shortcut: Shortcut) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    if shortcut == "padding":
        return _PaddedShortcut(out_channels - in_channels, stride)
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
    )


def _make_stage(
    in_channels: int, out_channels: int, num_blocks: int, *, stride: int, shortcut: Shortcut
) -> nn.Sequential:
    first = _BasicBlock(in_channels, out_channels, stride=stride, shortcut=shortcut)
    return nn.Sequential(
        first, *(_BasicBlock(out_channels, out_channels, stride=1, shortcut=shortcut) for _ in range(num_blocks - 1))
    )
