"""A convolutional network of a few thousand parameters, for images from 8×8 (digits) to 28×28 and larger.

Convolution–BatchNorm–ReLU blocks (Ioffe and Szegedy, 2015, https://arxiv.org/abs/1502.03167), global average pooling
(Lin et al., *Network in Network*, 2014, https://arxiv.org/abs/1312.4400), and one linear layer.
"""

from __future__ import annotations

from typing import final

import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.models.options import require_positive

__all__ = ["SmallCNN", "small_cnn"]

_MIN_POOL_SIZE = 8
"""Shortest side that is pooled; twice that in the first block, so that 8×8 digits become 4×4 in the second."""


def small_cnn(*, width: int = 8, depth: int = 3, classes: int = 10, channels: int = 1) -> SmallCNN:
    """``depth`` blocks of ``width`` channels, the last one half as wide again (``last = 3 * width // 2``).

    With ``depth >= 2`` the parameters are ``9·channels·width + 9·width²·(depth - 2) + 9·width·last`` in the
    convolutions, ``2·(width·(depth - 1) + last)`` in the BatchNorms and ``(last + 1)·classes`` in ``fc``.

    >>> [sum(p.numel() for p in small_cnn(width=width).parameters()) for width in (8, 64)]
    [1698, 94154]
    """
    return SmallCNN(width, depth, classes, channels)


@final
class SmallCNN(nn.Module):
    """See :func:`small_cnn`. Maps ``[batch, channels, height, width]`` of any size to ``[batch, classes]``.

    Feature layers: ``block1`` ... ``blockN`` (after the block's pooling) and ``pool`` (``[batch, last, 1, 1]``).
    """

    def __init__(self, width: int, depth: int, classes: int, channels: int) -> None:
        super().__init__()
        require_positive(width=width, depth=depth, classes=classes, channels=channels)
        last_width = max(1, 3 * width // 2)
        widths = [channels, *[width] * (depth - 1), last_width]
        self.block_names = tuple(f"block{i}" for i in range(1, depth + 1))
        for name, in_channels, out_channels in zip(self.block_names, widths, widths[1:], strict=False):
            min_pool_size = 2 * _MIN_POOL_SIZE if name == "block1" else _MIN_POOL_SIZE
            self.add_module(name, _ConvBlock(in_channels, out_channels, min_pool_size=min_pool_size))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(last_width, classes)

    def forward(self, image: Tensor) -> Tensor:
        """The logits, ``[batch, classes]``."""
        features = image
        for name in self.block_names:
            features = self.get_submodule(name)(features)
        logits: Tensor = self.fc(self.pool(features).flatten(1))
        return logits


@final
class _ConvBlock(nn.Module):
    """Convolution, BatchNorm, ReLU, and 2×2 max-pooling of maps of at least ``min_pool_size``."""

    def __init__(self, in_channels: int, out_channels: int, *, min_pool_size: int) -> None:
        super().__init__()
        self.min_pool_size = min_pool_size
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        features = F.relu(self.bn(self.conv(x)))
        return F.max_pool2d(features, 2) if min(features.shape[-2:]) >= self.min_pool_size else features
