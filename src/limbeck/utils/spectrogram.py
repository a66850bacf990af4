"""Log-mel frames as an image, and with tokens at their frames."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["draw_labels", "draw_spectrogram"]

_MEL_HEIGHT, _FRAME_WIDTH = 2, 3
_MAX_WIDTH, _LINE_HEIGHT, _FONT_SIZE, _NUM_LINES = 640, 14, 11, 3
_FONT = "DejaVuSans.ttf"  # with the International Phonetic Alphabet


def draw_spectrogram(frames: Tensor) -> Tensor:
    """``[frames, mels]`` as a gray image ``[1, height, width]`` in 0..1: time to the right, high pitch up, loud dark.

    >>> draw_spectrogram(torch.tensor([[0.0, 1.0]]))[0, ::2, 0]
    tensor([0., 1.])
    """
    image = frames.T.flip(0).float()
    low, high = image.min(), image.max()
    image = 1 - (image - low) / (high - low).clamp(min=1e-6)
    return F.interpolate(image[None, None], scale_factor=(_MEL_HEIGHT, _FRAME_WIDTH), mode="nearest")[0].to(torch.float)


def draw_labels(spectrogram: Tensor, positions: Sequence[float], labels: Sequence[str]) -> Tensor:
    """``spectrogram`` ``[1, height, width]``, at most 640 wide, above ``labels`` that begin at ``positions``.

    A tick marks each position, as a fraction of the width. Labels are in up to three lines; one that overlaps
    in each is left out.

    >>> draw_labels(torch.ones(1, 20, 60), [0.5], ["a"]).shape
    torch.Size([1, 64, 60])
    """
    import matplotlib as mpl
    from PIL import Image, ImageDraw, ImageFont

    height, width = spectrogram.shape[1], min(spectrogram.shape[2], _MAX_WIDTH)
    resized = F.interpolate(spectrogram[None].float(), size=(height, width), mode="area")[0, 0]
    image = Image.new("L", (width, height + 2 + _NUM_LINES * _LINE_HEIGHT), 255)
    image.paste(Image.fromarray((255 * resized.clamp(0, 1)).round().to(torch.uint8).numpy()), (0, 0))
    font = ImageFont.truetype(str(Path(mpl.get_data_path()) / "fonts" / "ttf" / _FONT), _FONT_SIZE)
    draw, ends = ImageDraw.Draw(image), [-1.0] * _NUM_LINES
    for position, label in zip(positions, labels, strict=True):
        x = position * width
        draw.line((x, height, x, height + 3), fill=0)
        start = min(x, max(0.0, width - font.getlength(label)))
        line = next((i for i, end in enumerate(ends) if end < start), None)
        if line is not None:
            draw.text((start, height + 2 + line * _LINE_HEIGHT), label, fill=0, font=font)
            ends[line] = start + font.getlength(label) + 1
    return torch.from_numpy(np.array(image)).float()[None] / 255
