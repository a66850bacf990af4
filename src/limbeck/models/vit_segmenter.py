"""A vision transformer for labels by pixel, of about a million parameters, that trains from random weights.

As Segmenter (Strudel et al., ICCV 2021, https://arxiv.org/abs/2105.05633), the tokens of the last block are mapped back
to their places. In place of square patches stand convolutions of stride 2 (Xiao et al., *Early Convolutions Help
Transformers See Better*, NeurIPS 2021, https://arxiv.org/abs/2106.14881), whose features are the skip connections of a
decoder as in TransUNet (Chen et al., 2021, https://arxiv.org/abs/2102.04306).
"""

from __future__ import annotations

from typing import final

from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.models.options import require_positive
from limbeck.models.small_vit import EncoderBlock, sincos_positions
from limbeck.models.unet import UNetBlock, run_unet_decoder

__all__ = ["ViTSegmenter", "vit_segmenter"]

_MAX_PATCH = 64


def vit_segmenter(
    *, patch_size: int = 8, width: int = 96, depth: int = 6, num_heads: int = 3, stem_width: int = 24,
    classes: int = 11, channels: int = 3,
) -> ViTSegmenter:  # fmt: skip
    """``depth`` transformer blocks of ``width`` channels at stride ``patch_size``, between a stem and a decoder.

    Args:
        patch_size: stride of the tokens, a power of 2 from 4 to 64.
        width: channels of the tokens, a multiple of 4 and of ``num_heads``.
        depth: number of transformer blocks.
        num_heads: attention heads of a block.
        stem_width: channels of the stem at stride 2, twice as many at each next stride.
        classes: number of classes.
        channels: channels of the image.

    >>> import torch
    >>> vit_segmenter(depth=1, classes=5)(torch.zeros(2, 3, 36, 50)).shape
    torch.Size([2, 5, 18, 25])
    """
    return ViTSegmenter(patch_size, width, depth, num_heads, stem_width, classes, channels)


@final
class ViTSegmenter(nn.Module):
    """See :func:`vit_segmenter`. Maps ``[batch, channels, height, width]`` to logits of half the height and width.

    Feature layers: ``stem1`` ... ``stemM`` at strides 2 ... ``patch_size`` / 2, ``block1`` ... ``blockN`` and ``norm``
    (tokens ``[batch, tokens, width]``), and ``decoderM`` ... ``decoder1``.
    """

    def __init__(
        self, patch_size: int, width: int, depth: int, num_heads: int, stem_width: int, classes: int, channels: int
    ) -> None:
        super().__init__()
        require_positive(
            patch_size=patch_size, width=width, depth=depth, num_heads=num_heads, stem_width=stem_width,
            classes=classes, channels=channels,
        )  # fmt: skip
        if not 4 <= patch_size <= _MAX_PATCH or patch_size & (patch_size - 1):
            raise LimbeckError(f"patch_size must be a power of 2 from 4 to {_MAX_PATCH}, got {patch_size}: use 4 or 8")
        if width % 4 or width % num_heads:
            raise LimbeckError(
                f"width must be a multiple of 4 and of the {num_heads} heads, got {width}; "
                f"use {4 * num_heads * max(1, round(width / (4 * num_heads)))}"
            )
        self.num_stems = patch_size.bit_length() - 2
        widths = [channels, *(stem_width << level for level in range(self.num_stems))]
        for level in range(1, self.num_stems + 1):
            self.add_module(f"stem{level}", _StridedConv(widths[level - 1], widths[level]))
        self.patch_embed = nn.Conv2d(widths[-1], width, 3, stride=2, padding=1)
        self.block_names = tuple(f"block{i}" for i in range(1, depth + 1))
        for name in self.block_names:
            self.add_module(name, EncoderBlock(width, num_heads))
        self.norm = nn.LayerNorm(width)
        below = width
        for level in range(self.num_stems, 0, -1):
            self.add_module(f"decoder{level}", UNetBlock(below + widths[level], widths[level]))
            below = widths[level]
        self.classifier = nn.Conv2d(below, classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        """The logits at stride 2."""
        features, skips = image, list[Tensor]()
        for level in range(1, self.num_stems + 1):
            features = self.get_submodule(f"stem{level}")(features)
            skips.append(features)
        patches = self.patch_embed(features)
        rows, columns = patches.shape[-2:]
        tokens = patches.flatten(2).transpose(1, 2) + sincos_positions(rows, columns, patches.shape[1]).to(patches)
        for name in self.block_names:
            tokens = self.get_submodule(name)(tokens)
        features = self.norm(tokens).transpose(1, 2).unflatten(2, (rows, columns))
        logits: Tensor = self.classifier(run_unet_decoder(self, features, skips))
        return logits


@final
class _StridedConv(nn.Sequential):
    """A 3×3 convolution of stride 2 with batch normalization and ReLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(out_channels),
            nn.ReLU(),
        )  # fmt: skip
