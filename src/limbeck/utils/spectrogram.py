"""Log-mel frames as an image."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["draw_spectrogram"]

_MEL_HEIGHT, _FRAME_WIDTH = 2, 3


def draw_spectrogram(frames: Tensor) -> Tensor:
    """``[frames, mels]`` as a gray image ``[1, height, width]`` in 0..1: time to the right, high pitch up, loud dark.

    >>> draw_spectrogram(torch.tensor([[0.0, 1.0]]))[0, ::2, 0]
    tensor([0., 1.])
    """
    image = frames.T.flip(0).float()
    low, high = image.min(), image.max()
    image = 1 - (image - low) / (high - low).clamp(min=1e-6)
    return F.interpolate(image[None, None], scale_factor=(_MEL_HEIGHT, _FRAME_WIDTH), mode="nearest")[0].to(torch.float)
