"""Residual networks for small images, in the shapes that the literature reports.

He et al., *Deep Residual Learning for Image Recognition*, CVPR 2016, section 4.2: https://arxiv.org/abs/1512.03385.
The 1×1 projection and the four-fold wide ``resnet8x4``, ``resnet32x4`` are those of Tian et al., *Contrastive
Representation Distillation*, ICLR 2020: https://arxiv.org/abs/1910.10699.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, final

import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.models.checks import require_positive

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


@final
class CifarResNet(nn.Module):
    """``depth = 6 n + 2`` layers: a 3×3 stem, three stages of ``n`` blocks, global average pooling, one linear layer.

    Maps ``[batch, channels, height, width]`` of any size to ``[batch, classes]``. Feature layers: ``layer1``,
    ``layer2`` and ``layer3`` (after the last ReLU; 1, 1/2, 1/4 of the image) and ``pool``.

    Args:
        depth: number of layers: 8, 14, 20, ...
        widths: channels of the stem and of the three stages.
        classes: number of classes.
        channels: channels of the image.
        shortcut: shortcut of a block that changes the shape: ``"projection"``, a 1×1 convolution with BatchNorm, as in
            the distillation literature; or ``"padding"``, He's option A without parameters: every second pixel, and
            channels of zeros on both sides.
    """

    def __init__(
        self, depth: int, widths: tuple[int, int, int, int], *, classes: int = 10, channels: int = 3,
        shortcut: Shortcut = "projection",
    ) -> None:  # fmt: skip
        super().__init__()
        require_positive(classes=classes, channels=channels)
        if depth < 8 or (depth - 2) % 6:
            raise LimbeckError(f"the depth of a CIFAR ResNet is 6 n + 2 (8, 14, 20, ...), not {depth}")
        if shortcut not in ("projection", "padding"):
            raise LimbeckError(f"shortcut is 'projection' or 'padding', not {shortcut!r}")
        num_blocks = (depth - 2) // 6
        self.stem = nn.Sequential(
            nn.Conv2d(channels, widths[0], 3, padding=1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()
        )
        self.layer1 = _make_stage(widths[0], widths[1], num_blocks, stride=1, shortcut=shortcut)
        self.layer2 = _make_stage(widths[1], widths[2], num_blocks, stride=2, shortcut=shortcut)
        self.layer3 = _make_stage(widths[2], widths[3], num_blocks, stride=2, shortcut=shortcut)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(widths[3], classes)
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
    """Two 3×3 convolutions and a shortcut. No ReLU is in place, so that recorded features do not change."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = (
                _PaddedShortcut(out_channels - in_channels, stride)
                if shortcut == "padding"
                else nn.Sequential(
                    nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
                )
            )

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


@final
class _PaddedShortcut(nn.Module):
    """He's option A: every ``stride``-th pixel, and ``extra_channels`` of zeros, split between both sides."""

    def __init__(self, extra_channels: int, stride: int) -> None:
        super().__init__()
        self.extra_channels, self.stride = extra_channels, stride

    def forward(self, x: Tensor) -> Tensor:
        num_front = self.extra_channels // 2
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, num_front, self.extra_channels - num_front))


def _make_stage(
    in_channels: int, out_channels: int, num_blocks: int, *, stride: int, shortcut: Shortcut
) -> nn.Sequential:
    first = _BasicBlock(in_channels, out_channels, stride=stride, shortcut=shortcut)
    return nn.Sequential(
        first, *(_BasicBlock(out_channels, out_channels, stride=1, shortcut=shortcut) for _ in range(num_blocks - 1))
    )


def _make_builder(depth: int, *, widths: tuple[int, int, int, int] = (16, 16, 32, 64)) -> Callable[..., CifarResNet]:
    """A function that builds a :class:`CifarResNet` of ``depth`` and ``widths``."""

    def build(*, classes: int = 10, channels: int = 3, shortcut: Shortcut = "projection") -> CifarResNet:
        return CifarResNet(depth, widths, classes=classes, channels=channels, shortcut=shortcut)

    build.__name__ = build.__qualname__ = f"resnet{depth}" if widths[0] == 16 else f"resnet{depth}x4"
    build.__doc__ = f"ResNet-{depth} with {', '.join(map(str, widths[1:]))} channels, see :class:`CifarResNet`."
    return build


resnet8 = _make_builder(8)
resnet14 = _make_builder(14)
resnet20 = _make_builder(20)
resnet32 = _make_builder(32)
resnet44 = _make_builder(44)
resnet56 = _make_builder(56)
resnet110 = _make_builder(110)
resnet8x4 = _make_builder(8, widths=(32, 64, 128, 256))
resnet32x4 = _make_builder(32, widths=(32, 64, 128, 256))
