"""Wide residual networks for small images: few layers, many channels, BatchNorm and ReLU before each convolution.

Zagoruyko and Komodakis, *Wide Residual Networks*, BMVC 2016: https://arxiv.org/abs/1605.07146.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.models.checks import require_positive

__all__ = ["WideResNet", "wide_resnet", "wrn_16_1", "wrn_16_2", "wrn_40_1", "wrn_40_2"]


@final
class WideResNet(nn.Module):
    """A 3×3 stem, three stages of ``(depth - 4) / 6`` blocks with 16, 32 and 64 times ``width`` channels, and a head.

    Maps ``[batch, channels, height, width]`` of any size to ``[batch, classes]``. Feature layers: ``layer1``,
    ``layer2`` and ``layer3`` (sums, before the next BatchNorm; 1, 1/2, 1/4 of the image), ``norm`` and ``pool``.

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
            raise LimbeckError(f"the depth of a wide ResNet is 6 n + 4 (10, 16, 22, ...), not {depth}")
        if not 0 <= dropout < 1:
            raise LimbeckError(f"dropout must be from 0 to below 1, got {dropout}")
        num_blocks = (depth - 4) // 6
        self.stem = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.layer1 = _make_stage(16, 16 * width, num_blocks, stride=1, dropout=dropout)
        self.layer2 = _make_stage(16 * width, 32 * width, num_blocks, stride=2, dropout=dropout)
        self.layer3 = _make_stage(32 * width, 64 * width, num_blocks, stride=2, dropout=dropout)
        self.norm = nn.BatchNorm2d(64 * width)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(64 * width, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

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


def _make_stage(in_channels: int, out_channels: int, num_blocks: int, *, stride: int, dropout: float) -> nn.Sequential:
    first = _PreActBlock(in_channels, out_channels, stride=stride, dropout=dropout)
    return nn.Sequential(
        first, *(_PreActBlock(out_channels, out_channels, stride=1, dropout=dropout) for _ in range(num_blocks - 1))
    )


def wide_resnet(depth: int, width: int, *, classes: int = 10, channels: int = 3, dropout: float = 0.0) -> WideResNet:
    """WRN-``depth``-``width``, see :class:`WideResNet`.

    >>> sum(p.numel() for p in wide_resnet(16, 2, classes=100).parameters())
    703284
    """
    return WideResNet(depth, width, classes=classes, channels=channels, dropout=dropout)


def _make_builder(depth: int, width: int) -> Callable[..., WideResNet]:
    def build(*, classes: int = 10, channels: int = 3, dropout: float = 0.0) -> WideResNet:
        return WideResNet(depth, width, classes=classes, channels=channels, dropout=dropout)

    build.__name__ = build.__qualname__ = f"wrn_{depth}_{width}"
    build.__doc__ = f"WRN-{depth}-{width}, see :class:`WideResNet`."
    return build


wrn_16_1 = _make_builder(16, 1)
wrn_16_2 = _make_builder(16, 2)
wrn_40_1 = _make_builder(40, 1)
wrn_40_2 = _make_builder(40, 2)
