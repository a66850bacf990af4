"""A convolutional network over frames, for CTC and other labels by frame.

Separable convolutions over time with residual connections, as in QuartzNet (Kriman et al., 2020,
https://arxiv.org/abs/1910.10261), with the block of ConvNeXt (Liu et al., 2022, https://arxiv.org/abs/2201.03545):
depthwise convolution, LayerNorm, two pointwise layers. Frames beyond a sample's length are zero in every layer, so the
logits do not depend on the padding of a batch.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.models.options import require_positive

__all__ = ["ConvCTC", "conv_ctc"]


def conv_ctc(
    *, width: int = 32, depth: int = 3, kernel: int = 9, stride: int = 2, classes: int = 20, mels: int = 40
) -> ConvCTC:
    """``depth`` blocks of ``width`` channels; one frame of logits for every ``stride`` frames of the input.

    >>> logits = conv_ctc(classes=5, mels=8)(torch.zeros(2, 7, 8), torch.tensor([7, 3]))
    >>> logits.shape
    torch.Size([2, 4, 5])
    """
    return ConvCTC(width, depth, kernel, stride, classes, mels)


@final
class ConvCTC(nn.Module):
    """See :func:`conv_ctc`. Maps ``[batch, frames, mels]`` and lengths ``[batch]`` to ``[batch, ⌈frames/stride⌉,
    classes]``.

    Feature layers: ``stem`` and ``block1`` ... ``blockN``, each ``[batch, frames, width]``.
    """

    def __init__(self, width: int, depth: int, kernel: int, stride: int, classes: int, mels: int) -> None:
        super().__init__()
        require_positive(width=width, depth=depth, kernel=kernel, stride=stride, classes=classes, mels=mels)
        self.stride = stride
        self.stem = _Stem(mels, width, stride)
        self.block_names = tuple(f"block{i}" for i in range(1, depth + 1))
        for name in self.block_names:
            self.add_module(name, _Block(width, kernel))
        self.norm, self.classifier = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """The logits of each frame; those beyond ``⌈length/stride⌉`` are those of a zero frame."""
        logits: Tensor = self.classifier(self.encode(frames, lengths))
        return logits

    def encode(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """What the classifier reads, ``[batch, ⌈frames/stride⌉, width]``."""
        mask = torch.arange(frames.shape[1], device=frames.device) < lengths[:, None]
        features = self.stem(frames * mask[:, :, None])
        mask = (mask[:, :: self.stride])[:, :, None]
        for name in self.block_names:
            features = self.get_submodule(name)(features * mask, mask)
        encoded: Tensor = self.norm(features * mask)
        return encoded


@final
class _Stem(nn.Module):
    """A convolution over ``stride`` frames at a time, with a frame of context on both sides."""

    def __init__(self, mels: int, width: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv1d(mels, width, stride + 2, stride=stride)
        self.norm = nn.LayerNorm(width)

    def forward(self, frames: Tensor) -> Tensor:
        # One frame of context on the left; on the right, up to a whole number of windows and one of context.
        missing = -frames.shape[1] % self.stride
        features = self.conv(F.pad(frames.transpose(1, 2), (1, missing + 1)))
        normalized: Tensor = self.norm(features.transpose(1, 2))
        return normalized


@final
class _Block(nn.Module):
    """A residual block: depthwise convolution over time, LayerNorm, expansion by 2, GELU, projection."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(width, width, kernel, padding="same", groups=width)
        self.norm = nn.LayerNorm(width)
        self.expand, self.project = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        mixed = self.norm(self.depthwise(features.transpose(1, 2)).transpose(1, 2))
        output: Tensor = (features + self.project(F.gelu(self.expand(mixed)))) * mask
        return output
