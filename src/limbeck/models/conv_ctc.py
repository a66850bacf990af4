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

from limbeck.core.errors import LimbeckError
from limbeck.models.options import require_positive

__all__ = ["ConvCTC", "conv_ctc"]


def conv_ctc(
    *, width: int = 32, depth: int = 3, kernel: int = 9, stride: int = 2, lookahead: int | None = None,
    classes: int = 20, mels: int = 40,
) -> ConvCTC:  # fmt: skip
    """``depth`` blocks of ``width`` channels; one frame of logits for every ``stride`` frames of the input.

    Args:
        width: channels.
        depth: number of blocks.
        kernel: frames of a convolution.
        stride: input frames for each frame of the logits.
        lookahead: for streaming, the frames that each block sees ahead, 0 to ``kernel`` // 2: logits of a frame depend
            on ``stride`` · (1 + ``depth`` · ``lookahead``) input frames from its begin on, and on those before it.
            ``None``: as many frames ahead as behind.
        classes: number of classes.
        mels: number of mel bands.

    >>> logits = conv_ctc(classes=5, mels=8)(torch.zeros(2, 7, 8), torch.tensor([7, 3]))
    >>> logits.shape
    torch.Size([2, 4, 5])
    """
    return ConvCTC(width, depth, kernel, stride, classes, mels, lookahead=lookahead)


@final
class ConvCTC(nn.Module):
    """See :func:`conv_ctc`. Maps ``[batch, frames, mels]`` and lengths ``[batch]`` to ``[batch, ⌈frames/stride⌉,
    classes]``.

    Feature layers: ``stem`` and ``block1`` ... ``blockN``, each ``[batch, frames, width]``.
    """

    def __init__(
        self, width: int, depth: int, kernel: int, stride: int, classes: int, mels: int, *, lookahead: int | None = None
    ) -> None:
        super().__init__()
        require_positive(width=width, depth=depth, kernel=kernel, stride=stride, classes=classes, mels=mels)
        if lookahead is not None and not 0 <= lookahead <= kernel // 2:
            raise LimbeckError(f"lookahead must be from 0 to {kernel // 2}, half of kernel {kernel}, got {lookahead}")
        self.stride, self.lookahead = stride, lookahead
        self.stem = _Stem(mels, width, stride, streams=lookahead is not None)
        self.block_names = tuple(f"block{i}" for i in range(1, depth + 1))
        for name in self.block_names:
            self.add_module(name, _Block(width, kernel, lookahead))
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
    """A convolution over ``stride`` frames at a time, with two frames of context: one on both sides, or both before."""

    def __init__(self, mels: int, width: int, stride: int, *, streams: bool) -> None:
        super().__init__()
        self.stride, self.before = stride, 2 if streams else 1
        self.conv = nn.Conv1d(mels, width, stride + 2, stride=stride)
        self.norm = nn.LayerNorm(width)

    def forward(self, frames: Tensor) -> Tensor:
        # On the right, up to a whole number of windows, and context.
        missing = -frames.shape[1] % self.stride
        features = self.conv(F.pad(frames.transpose(1, 2), (self.before, missing + 2 - self.before)))
        normalized: Tensor = self.norm(features.transpose(1, 2))
        return normalized


@final
class _Block(nn.Module):
    """A residual block: depthwise convolution over time, LayerNorm, expansion by 2, GELU, projection."""

    def __init__(self, width: int, kernel: int, lookahead: int | None) -> None:
        super().__init__()
        ahead = kernel // 2 if lookahead is None else lookahead
        self.padding = (kernel - 1 - ahead, ahead)
        self.depthwise = nn.Conv1d(width, width, kernel, groups=width)
        self.norm = nn.LayerNorm(width)
        self.expand, self.project = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        padded = F.pad(features.transpose(1, 2), self.padding)
        mixed = self.norm(self.depthwise(padded).transpose(1, 2))
        output: Tensor = (features + self.project(F.gelu(self.expand(mixed)))) * mask
        return output
