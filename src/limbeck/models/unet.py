"""U-Net, an encoder and decoder with skip connections, for labels by pixel.

Ronneberger et al., 2015, https://arxiv.org/abs/1505.04597, with padded convolutions, batch normalization, and bilinear
upsampling instead of transposed convolutions, so that images of any size give logits of their own size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError
from limbeck.models.options import require_positive

__all__ = ["UNet", "UNetBlock", "run_unet_decoder", "unet"]


def unet(*, width: int = 16, depth: int = 3, classes: int = 11, channels: int = 3) -> UNet:
    """``depth`` poolings by 2, with ``width`` channels at the size of the image and twice as many after each pooling.

    >>> unet(width=4, classes=5)(torch.zeros(2, 3, 18, 24)).shape
    torch.Size([2, 5, 18, 24])
    """
    return UNet(width, depth, classes, channels)


@final
class UNet(nn.Module):
    """See :func:`unet`. Maps ``[batch, channels, height, width]`` to logits ``[batch, classes, height, width]``.

    Feature layers: ``encoder1`` ... ``encoderN``, ``bottleneck``, ``decoderN`` ... ``decoder1``; layers of one number
    have one size.
    """

    def __init__(self, width: int, depth: int, classes: int, channels: int) -> None:
        super().__init__()
        require_positive(width=width, depth=depth, classes=classes, channels=channels)
        self.depth = depth
        for level in range(1, depth + 1):
            self.add_module(
                f"encoder{level}", UNetBlock(channels if level == 1 else width << (level - 2), width << (level - 1))
            )
        self.bottleneck = UNetBlock(width << (depth - 1), width << depth)
        for level in range(depth, 0, -1):
            self.add_module(
                f"decoder{level}", UNetBlock((width << level) + (width << (level - 1)), width << (level - 1))
            )
        self.classifier = nn.Conv2d(width, classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        """The logits of each pixel."""
        if min(image.shape[-2:]) < 2**self.depth:
            raise LimbeckError(
                f"images must have sides of at least {2**self.depth} pixels for depth {self.depth}, got "
                f"{list(image.shape)}; use a smaller depth or larger images"
            )
        features, skips = image, list[Tensor]()
        for level in range(1, self.depth + 1):
            features = self.get_submodule(f"encoder{level}")(features)
            skips.append(features)
            features = F.max_pool2d(features, 2)
        features = self.bottleneck(features)
        logits: Tensor = self.classifier(run_unet_decoder(self, features, skips))
        return logits


@final
class UNetBlock(nn.Sequential):
    """Two 3×3 convolutions, each with batch normalization and ReLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False), nn.BatchNorm2d(out_channels), nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False), nn.BatchNorm2d(out_channels), nn.ReLU(),
        )  # fmt: skip


def run_unet_decoder(network: nn.Module, features: Tensor, skips: Sequence[Tensor]) -> Tensor:
    """The output of ``decoder1`` of ``network``, where ``decoderN`` gets the skip connection N and the features below.

    Args:
        network: has a layer ``decoderN`` for each skip connection.
        features: ``[batch, channels, height, width]``, those below the last skip connection.
        skips: the features of the encoder from level 1 on, which features are upsampled to (bilinear).
    """
    for level in range(len(skips), 0, -1):
        skip = skips[level - 1]
        upsampled = F.interpolate(features, size=skip.shape[-2:], mode="bilinear", align_corners=False)
        features = network.get_submodule(f"decoder{level}")(torch.cat([skip, upsampled], dim=1))
    return features
