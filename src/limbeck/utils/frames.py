"""Positions of padded sequences at the rate of a network: which are valid, and their average at another rate."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["average_frames", "frame_stride", "length_mask", "mask_frames"]


def frame_stride(num_inputs: int, num_frames: int) -> int | None:
    """Input positions for each of ``num_frames``, the last one rounded up; ``None`` where no whole number fits.

    >>> frame_stride(11, 3), frame_stride(11, 11), frame_stride(11, 12)
    (4, 1, None)
    """
    quotient = num_inputs / max(num_frames, 1)
    strides = (max(1, round(quotient)), math.ceil(quotient))
    return next((stride for stride in strides if stride and -(-num_inputs // stride) == num_frames), None)


def length_mask(lengths: Tensor, padded: Tensor) -> Tensor:
    """Which positions of ``padded`` ``[batch, positions, ...]`` are before ``lengths`` ``[batch]``, as booleans.

    >>> length_mask(torch.tensor([2, 0]), torch.zeros(2, 3))
    tensor([[ True,  True, False],
            [False, False, False]])
    """
    return torch.arange(padded.shape[1], device=padded.device) < lengths.to(padded.device)[:, None]


def mask_frames(input_mask: Tensor, num_frames: int) -> Tensor | None:
    """Which of ``num_frames`` are valid, ``[batch, num_frames]``; ``None`` where frames have no whole stride.

    Args:
        input_mask: ``[batch, longest]`` booleans, false in the padding.
        num_frames: number of frames of a feature.

    >>> mask_frames(torch.tensor([[True, True, True, False, False]]), 3)
    tensor([[ True,  True, False]])
    """
    stride = frame_stride(input_mask.shape[1], num_frames)
    return None if stride is None else input_mask[:, ::stride]


def average_frames(frames: Tensor, mask: Tensor, *, stride: int, target_stride: int, num_targets: int) -> Tensor:
    """``frames`` at another rate, ``[batch, num_targets, channels]``.

    A target has the mean of the valid frames that overlap with it, by their overlap; zero without one.

    Args:
        frames: ``[batch, frames, channels]``.
        mask: ``[batch, frames]`` booleans, which frames are valid.
        stride: input positions of a frame.
        target_stride: input positions of a target.
        num_targets: number of targets.

    >>> frames = torch.tensor([[[1.0], [3.0], [5.0]]])
    >>> average_frames(frames, torch.ones(1, 3, dtype=torch.bool), stride=1, target_stride=2, num_targets=2)
    tensor([[[2.],
             [5.]]])
    """
    target_start = torch.arange(num_targets, device=frames.device)[:, None] * target_stride
    frame_start = torch.arange(frames.shape[1], device=frames.device)[None] * stride
    end = torch.minimum(target_start + target_stride, frame_start + stride)
    overlap = (end - torch.maximum(target_start, frame_start)).clamp(min=0)
    weights = overlap[None] * mask[:, None]
    weights = weights / weights.sum(dim=2, keepdim=True).clamp(min=1)
    return weights.to(frames.dtype) @ frames
