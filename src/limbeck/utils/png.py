"""Small images as PNG, for reports."""

from __future__ import annotations

import io

import torch
from torch import Tensor

__all__ = ["encode_png"]


def encode_png(pixels: Tensor, *, max_side: int = 96) -> bytes:
    r"""``pixels`` (``[1 or 3, height, width]`` in 0..1) as PNG bytes, shrunk to ``max_side``; empty for other shapes.

    >>> encode_png(torch.zeros(3, 4, 4))[:4], encode_png(torch.zeros(7))
    (b'\x89PNG', b'')
    """
    from PIL import Image

    if pixels.ndim != 3 or pixels.shape[0] not in (1, 3):
        return b""
    values = (pixels.float().cpu() * 255).round().clamp(0, 255).to(torch.uint8)
    image = Image.fromarray(values[0].numpy() if len(values) == 1 else values.permute(1, 2, 0).numpy())
    image.thumbnail((max_side, max_side))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
