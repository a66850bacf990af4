"""A vision transformer of some hundred thousand parameters, for images from 8×8 to 64×64.

Dosovitskiy et al., *An Image is Worth 16x16 Words* (ICLR 2021, https://arxiv.org/abs/2010.11929), with fixed sine and
cosine positions in two dimensions and the mean over all patches in place of a class token as in Beyer, Zhai &
Kolesnikov, *Better plain ViT baselines for ImageNet-1k* (2022, https://arxiv.org/abs/2205.01580). So the image size is
not fixed.
"""

from __future__ import annotations

from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.models.options import require_positive

__all__ = ["EncoderBlock", "SmallViT", "sincos_positions", "small_vit"]

_MAX_PERIOD = 10_000.0


def small_vit(
    *, patch_size: int = 4, width: int = 96, depth: int = 6, num_heads: int = 3, classes: int = 10, channels: int = 3
) -> SmallViT:
    """``depth`` blocks of ``num_heads`` heads and ``width`` channels on square patches of ``patch_size`` pixels.

    The parameters are ``(channels·patch² + 1)·width`` in the patches, ``12·width² + 13·width`` in each block (linear
    layers four times as wide inside), ``2·width`` in the last norm and ``(width + 1)·classes`` in ``fc``.

    >>> sum(parameter.numel() for parameter in small_vit().parameters())
    676906
    """
    return SmallViT(patch_size, width, depth, num_heads, classes, channels)


@final
class SmallViT(nn.Module):
    """See :func:`small_vit`. Maps ``[batch, channels, height, width]`` to ``[batch, classes]``.

    Height and width are multiples of ``patch_size``. Feature layers: ``block1`` ... ``blockN`` and ``norm``, all
    ``[batch, patches, width]``.
    """

    def __init__(self, patch_size: int, width: int, depth: int, num_heads: int, classes: int, channels: int) -> None:
        super().__init__()
        require_positive(
            patch_size=patch_size, width=width, depth=depth, num_heads=num_heads, classes=classes, channels=channels
        )
        if width % 4 or width % num_heads:
            raise LimbeckError(
                f"width must be a multiple of 4 and of the {num_heads} heads, got {width}; "
                f"use {4 * num_heads * max(1, round(width / (4 * num_heads)))}"
            )
        self.patch_size, self.channels = patch_size, channels
        self.patch_embed = nn.Conv2d(channels, width, patch_size, stride=patch_size)
        self.block_names = tuple(f"block{i}" for i in range(1, depth + 1))
        for name in self.block_names:
            self.add_module(name, EncoderBlock(width, num_heads))
        self.norm = nn.LayerNorm(width)
        self.fc = nn.Linear(width, classes)

    def forward(self, image: Tensor) -> Tensor:
        """The logits, ``[batch, classes]``."""
        height, width = image.shape[-2:]
        if image.ndim != 4 or image.shape[1] != self.channels or height % self.patch_size or width % self.patch_size:
            raise LimbeckError(
                f"images must be [batch, {self.channels}, height, width] with sides that are multiples of "
                f"{self.patch_size}, got {list(image.shape)}; use another patch_size or image size"
            )
        patches = self.patch_embed(image)
        positions = sincos_positions(height // self.patch_size, width // self.patch_size, patches.shape[1])
        tokens = patches.flatten(2).transpose(1, 2) + positions.to(patches)
        for name in self.block_names:
            tokens = self.get_submodule(name)(tokens)
        logits: Tensor = self.fc(self.norm(tokens).mean(dim=1))
        return logits


@final
class EncoderBlock(nn.Module):
    """Pre-norm transformer block: attention and MLP, each with a residual connection."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        # [batch, patches, 3·width] → three of [batch, heads, patches, width / heads]
        qkv = self.qkv(self.norm1(tokens)).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        attention = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2]).transpose(1, 2).flatten(2)
        tokens = tokens + self.proj(attention)
        output: Tensor = tokens + self.fc2(F.gelu(self.fc1(self.norm2(tokens))))
        return output


def sincos_positions(rows: int, columns: int, width: int) -> Tensor:
    """``[rows · columns, width]``: sines and cosines of the row and of the column, each in a half of the width."""
    quarter = width // 4
    frequencies = _MAX_PERIOD ** (-torch.arange(quarter) / max(quarter - 1, 1))
    angles = (torch.arange(size)[:, None] * frequencies for size in (rows, columns))
    row_encoding, column_encoding = (torch.cat([angle.sin(), angle.cos()], dim=1) for angle in angles)
    return torch.cat(
        [row_encoding[:, None].expand(-1, columns, -1), column_encoding[None].expand(rows, -1, -1)], dim=2
    ).flatten(0, 1)
