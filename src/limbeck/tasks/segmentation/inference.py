"""Logits of whole images from several forward passes: sliding windows, several scales, and horizontal flips.

As MMSegmentation's ``slide_inference`` and test-time augmentation
(https://mmsegmentation.readthedocs.io/en/latest/api.html#mmseg.models.segmentors.EncoderDecoder): logits are averaged
over the windows that cover a pixel, probabilities over scales and flips.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["averaged_logits", "resize", "sliding_window_logits", "window_starts"]

Network = Callable[[Tensor], Tensor]
"""Maps images ``[batch, channels, height, width]`` to logits ``[batch, classes, height, width]`` of their size."""


def averaged_logits(
    network: Network, image: Tensor, *, window: tuple[int, int] | None = None, overlap: float = 0.5,
    scales: Sequence[float] = (1.0,), flip: bool = False,
) -> Tensor:  # fmt: skip
    """Logits ``[batch, classes, height, width]`` of ``image``, averaged over windows, scales and flips.

    The image is resized to each scale (bilinear), the window is not, and the logits are resized to the image. The
    result is the logarithm of the mean of the probabilities; with one scale and no flip, it is the logits themselves.

    Args:
        network: returns logits of the size of what it gets.
        image: ``[batch, channels, height, width]``.
        window: height and width of the windows, see :func:`sliding_window_logits`; ``None``: the whole image.
        overlap: smallest share of a window that the next one covers as well, from 0 to below 1.
        scales: factors of height and width, above 0.
        flip: average with the image mirrored left to right.
    """
    height, width = image.shape[-2:]
    log_probabilities = []
    for scale in scales:
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
        scaled = resize(image, size)
        for is_flipped in (False, True) if flip else (False,):
            view = scaled.flip(-1) if is_flipped else scaled
            logits = network(view) if window is None else sliding_window_logits(network, view, window, overlap)
            logits = resize(logits.flip(-1) if is_flipped else logits, (height, width))
            if len(scales) == 1 and not flip:
                return logits
            log_probabilities.append(F.log_softmax(logits.float(), dim=1))
    return torch.stack(log_probabilities).logsumexp(dim=0) - math.log(len(log_probabilities))


def sliding_window_logits(network: Network, image: Tensor, window: tuple[int, int], overlap: float) -> Tensor:
    """Logits of ``image``, the mean over the windows that cover a pixel.

    A side of the window that is longer than the image is that of the image.
    """
    size = [min(side, length) for side, length in zip(window, image.shape[-2:], strict=True)]
    tops, lefts = (window_starts(length, side, overlap) for side, length in zip(size, image.shape[-2:], strict=True))
    if len(tops) == len(lefts) == 1:
        return network(image)
    total: Tensor | None = None
    count = torch.zeros(image.shape[-2:], device=image.device)
    for top, left in product(tops, lefts):
        region = (..., slice(top, top + size[0]), slice(left, left + size[1]))
        logits = network(image[region])
        if total is None:
            total = logits.new_zeros(*logits.shape[:2], *image.shape[-2:], dtype=torch.float32)
        total[region] += logits
        count[region] += 1
    assert total is not None
    return total / count


def window_starts(length: int, window: int, overlap: float) -> list[int]:
    """The first pixels of as few evenly spaced windows as cover ``length`` pixels with at least this overlap.

    >>> window_starts(10, 4, 0.5)
    [0, 2, 4, 6]
    >>> window_starts(10, 4, 0.0)
    [0, 3, 6]
    """
    if length <= window:
        return [0]
    step = max(1, window - math.ceil(window * overlap - 1e-6))  # 0.9 · 20 is 18, whatever its rounding
    num_steps = -(-(length - window) // step)
    return [round(i * (length - window) / num_steps) for i in range(num_steps + 1)]


def resize(tensor: Tensor, size: Sequence[int]) -> Tensor:
    """``tensor`` resized to height and width (bilinear, as torchvision's networks resize logits)."""
    if tensor.shape[-2:] == torch.Size(size):
        return tensor
    return F.interpolate(tensor, size=tuple(size), mode="bilinear", align_corners=False)
