"""A vision transformer of some hundred thousand parameters, for pictures from 8×8 to 64×64.

Dosovitskiy et al., *An Image is Worth 16x16 Words* (ICLR 2021, https://arxiv.org/abs/2010.11929), with what Beyer,
Zhai & Kolesnikov found to serve small ones, *Better plain ViT baselines for ImageNet-1k* (2022,
https://arxiv.org/abs/2205.01580): fixed sine and cosine positions in two dimensions, and the mean over all patches in
place of a class token. So it has no size of picture of its own.
"""

from __future__ import annotations

from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.models.checks import at_least

__all__ = ["SmallViT", "small_vit"]

_SLOWEST = 10_000.0


def small_vit(
    *, patch: int = 4, width: int = 96, depth: int = 6, heads: int = 3, classes: int = 10, channels: int = 3
) -> SmallViT:
    """``depth`` blocks on patches of ``patch`` × ``patch`` pixels, ``width`` numbers each, read by ``heads`` heads.

    Its parameters are ``(channels·patch² + 1)·width`` in the patches, ``12·width² + 13·width`` in each block (linear
    layers four times as wide inside), ``2·width`` in the last norm and ``(width + 1)·classes`` in ``fc``.

    >>> sum(parameter.numel() for parameter in small_vit().parameters())
    676906
    """
    return SmallViT(patch=patch, width=width, depth=depth, heads=heads, classes=classes, channels=channels)


@final
class SmallViT(nn.Module):
    """See :func:`small_vit`. Takes ``[batch, channels, height, width]`` with sides that are multiples of ``patch``.

    Tap ``block1`` ... ``blockN`` or ``norm``: ``[batch, patches, width]``.
    """

    def __init__(
        self, *, patch: int = 4, width: int = 96, depth: int = 6, heads: int = 3, classes: int = 10, channels: int = 3
    ) -> None:
        super().__init__()
        at_least(1, patch=patch, width=width, depth=depth, heads=heads, classes=classes, channels=channels)
        if width % 4 or width % heads:
            raise LimbeckError(
                f"the width of a ViT is a multiple of 4 and of its heads, and {width} is none for {heads} heads: "
                f"choose {4 * heads * max(1, round(width / (4 * heads)))}, say"
            )
        self.patch, self.channels = patch, channels
        self.embed = nn.Conv2d(channels, width, patch, stride=patch)
        self.blocks = tuple(f"block{number}" for number in range(1, depth + 1))
        for name in self.blocks:
            self.add_module(name, _Block(width, heads))
        self.norm = nn.LayerNorm(width)
        self.fc = nn.Linear(width, classes)

    def forward(self, picture: Tensor) -> Tensor:
        """The logits, ``[batch, classes]``."""
        height, width = picture.shape[-2:]
        if picture.ndim != 4 or picture.shape[1] != self.channels or height % self.patch or width % self.patch:
            raise LimbeckError(
                f"this ViT takes pictures [batch, {self.channels}, height, width] with sides that are multiples of "
                f"{self.patch}, and got {list(picture.shape)}: choose another patch, or a size for its teacher"
            )
        maps = self.embed(picture)
        places = _positions(height // self.patch, width // self.patch, maps.shape[1])
        tokens = maps.flatten(2).transpose(1, 2) + places.to(maps)
        for name in self.blocks:
            tokens = self.get_submodule(name)(tokens)
        logits: Tensor = self.fc(self.norm(tokens).mean(dim=1))
        return logits


@final
class _Block(nn.Module):
    """Attention and two linear layers, each after a norm and beside a short cut."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mixed, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self._attended(self.norm1(tokens))
        after: Tensor = tokens + self.narrow(F.gelu(self.wide(self.norm2(tokens))))
        return after

    def _attended(self, tokens: Tensor) -> Tensor:
        # [batch, patches, 3·width] → three of [batch, heads, patches, width / heads]
        split = self.mixed(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        read = F.scaled_dot_product_attention(split[0], split[1], split[2])
        attended: Tensor = self.out(read.transpose(1, 2).flatten(2))
        return attended


def _positions(rows: int, columns: int, width: int) -> Tensor:
    """``[rows · columns, width]``: sines and cosines of the row and of the column, each in a half of the width."""
    quarter = width // 4
    rates = _SLOWEST ** (-torch.arange(quarter) / max(quarter - 1, 1))
    down, across = torch.arange(rows)[:, None] * rates, torch.arange(columns)[:, None] * rates
    down = torch.cat([down.sin(), down.cos()], dim=1)[:, None].expand(rows, columns, -1)
    across = torch.cat([across.sin(), across.cos()], dim=1)[None].expand(rows, columns, -1)
    return torch.cat([down, across], dim=2).flatten(0, 1)
