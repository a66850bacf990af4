"""Residual networks for small images, in the shapes that the literature reports.

ResNets are those of He et al., *Deep Residual Learning for Image Recognition*, CVPR 2016, section 4.2:
https://arxiv.org/abs/1512.03385. The 1×1 projection and the four-fold wide ``resnet8x4``, ``resnet32x4`` are those of
Tian et al., *Contrastive Representation Distillation*, ICLR 2020: https://arxiv.org/abs/1910.10699. Wide ResNets are
those of Zagoruyko and Komodakis, *Wide Residual Networks*, BMVC 2016: https://arxiv.org/abs/1605.07146.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal, final

import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.models.options import require_positive

__all__ = [
    "resnet8",
    "resnet8x4",
    "resnet14",
    "resnet20",
    "resnet32",
    "resnet32x4",
    "resnet44",
    "resnet56",
    "resnet110",
    "wide_resnet",
    "wrn_16_1",
    "wrn_16_2",
    "wrn_40_1",
    "wrn_40_2",
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
            raise LimbeckError(f"depth must be 6 n + 2 (8, 14, 20, ...), got {depth}")
        if shortcut not in ("projection", "padding"):
            raise LimbeckError(f"shortcut must be 'projection' or 'padding', got {shortcut!r}")
        num_blocks = (depth - 2) // 6
        self.stem = nn.Sequential(
            nn.Conv2d(channels, widths[0], 3, padding=1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()
        )
        block = partial(_BasicBlock, shortcut=shortcut)
        self.layer1 = _make_stage(block, widths[0], widths[1], num_blocks, stride=1)
        self.layer2 = _make_stage(block, widths[1], widths[2], num_blocks, stride=2)
        self.layer3 = _make_stage(block, widths[2], widths[3], num_blocks, stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(widths[3], classes)
        _init_convolutions(self)

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


@final
class WideResNet(nn.Module):
    """A 3×3 stem, three stages of ``(depth - 4) / 6`` blocks with 16, 32 and 64 times ``width`` channels, and a head.

    Few layers, many channels, BatchNorm and ReLU before each convolution. Inputs, outputs and feature layers are those
    of :class:`CifarResNet`; ``layer1`` to ``layer3`` are sums, before the next BatchNorm, and ``norm`` is a layer too.

    Args:
        depth: 10, 16, 22, 28, 34, 40, ...
        width: factor on the channels.
        classes: number of classes.
        channels: channels of the image.
        dropout: dropout probability between a block's two convolutions, from 0 to below 1.
    """

    def __init__(self, depth: int, width: int, *, classes: int, channels: int, dropout: float) -> None:
        super().__init__()
        require_positive(width=width, classes=classes, channels=channels)
        if depth < 10 or (depth - 4) % 6:
            raise LimbeckError(f"depth must be 6 n + 4 (10, 16, 22, ...), got {depth}")
        if not 0 <= dropout < 1:
            raise LimbeckError(f"dropout must be from 0 to below 1, got {dropout}")
        num_blocks, block = (depth - 4) // 6, partial(_PreActBlock, dropout=dropout)
        self.stem = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.layer1 = _make_stage(block, 16, 16 * width, num_blocks, stride=1)
        self.layer2 = _make_stage(block, 16 * width, 32 * width, num_blocks, stride=2)
        self.layer3 = _make_stage(block, 32 * width, 64 * width, num_blocks, stride=2)
        self.norm = nn.BatchNorm2d(64 * width)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(64 * width, classes)
        _init_convolutions(self)

    def forward(self, image: Tensor) -> Tensor:
        """The logits, ``[batch, classes]``."""
        features: Tensor = self.layer3(self.layer2(self.layer1(self.stem(image))))
        logits: Tensor = self.fc(self.pool(F.relu(self.norm(features))).flatten(1))
        return logits


@final
class _PreActBlock(nn.Module):
    """BatchNorm, ReLU, convolution, twice. Where the shape changes, the shortcut starts after the first ReLU."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        changes_shape = stride != 1 or in_channels != out_channels
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False) if changes_shape else None

    def forward(self, x: Tensor) -> Tensor:
        preact = F.relu(self.bn1(x))
        out = self.dropout(F.relu(self.bn2(self.conv1(preact))))
        output: Tensor = self.conv2(out) + (x if self.shortcut is None else self.shortcut(preact))
        return output


def _make_stage(
    block: Callable[..., nn.Module], in_channels: int, out_channels: int, num_blocks: int, *, stride: int
) -> nn.Sequential:
    first = block(in_channels, out_channels, stride=stride)
    return nn.Sequential(first, *(block(out_channels, out_channels, stride=1) for _ in range(num_blocks - 1)))


def _init_convolutions(model: nn.Module) -> None:
    """He's initialization."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def wide_resnet(depth: int, width: int, *, classes: int = 10, channels: int = 3, dropout: float = 0.0) -> WideResNet:
    """WRN-``depth``-``width``, see :class:`WideResNet`.

    >>> sum(p.numel() for p in wide_resnet(16, 2, classes=100).parameters())
    703284
    """
    return WideResNet(depth, width, classes=classes, channels=channels, dropout=dropout)


def _make_resnet(depth: int, *, widths: tuple[int, int, int, int] = (16, 16, 32, 64)) -> Callable[..., CifarResNet]:
    """A function that builds a :class:`CifarResNet` of ``depth`` and ``widths``."""

    def build(*, classes: int = 10, channels: int = 3, shortcut: Shortcut = "projection") -> CifarResNet:
        return CifarResNet(depth, widths, classes=classes, channels=channels, shortcut=shortcut)

    build.__name__ = build.__qualname__ = f"resnet{depth}" if widths[0] == 16 else f"resnet{depth}x4"
    build.__doc__ = f"ResNet-{depth} with {', '.join(map(str, widths[1:]))} channels, see :class:`CifarResNet`."
    return build


def _make_wide_resnet(depth: int, width: int) -> Callable[..., WideResNet]:
    def build(*, classes: int = 10, channels: int = 3, dropout: float = 0.0) -> WideResNet:
        return WideResNet(depth, width, classes=classes, channels=channels, dropout=dropout)

    build.__name__ = build.__qualname__ = f"wrn_{depth}_{width}"
    build.__doc__ = f"WRN-{depth}-{width}, see :class:`WideResNet`."
    return build


resnet8 = _make_resnet(8)
resnet14 = _make_resnet(14)
resnet20 = _make_resnet(20)
resnet32 = _make_resnet(32)
resnet44 = _make_resnet(44)
resnet56 = _make_resnet(56)
resnet110 = _make_resnet(110)
resnet8x4 = _make_resnet(8, widths=(32, 64, 128, 256))
resnet32x4 = _make_resnet(32, widths=(32, 64, 128, 256))
wrn_16_1, wrn_16_2 = _make_wide_resnet(16, 1), _make_wide_resnet(16, 2)
wrn_40_1, wrn_40_2 = _make_wide_resnet(40, 1), _make_wide_resnet(40, 2)
