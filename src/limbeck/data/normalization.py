"""Normalization of images by channel mean and standard deviation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, final

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.data.split import Split

__all__ = [
    "FrameNormalization", "InputNormalization", "NoNormalization", "Normalization", "NormalizeFrames",
    "NormalizedModel",
]  # fmt: skip


class InputNormalization(Protocol):
    """A fixed map of inputs before a network.

    Attributes:
        mean: by channel, for the record; empty where there is none.
        std: by channel.
    """

    @property
    def mean(self) -> tuple[float, ...]: ...
    @property
    def std(self) -> tuple[float, ...]: ...

    def apply(self, inputs: Tensor) -> Tensor:
        """The inputs of a batch, normalized."""

    def invert(self, inputs: Tensor) -> Tensor:
        """The inputs of a batch before normalization."""


@final
@dataclass(frozen=True, slots=True)
class NoNormalization:
    """The identity, for inputs that are no numbers to normalize, such as tokens."""

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def apply(self, inputs: Tensor) -> Tensor:
        """``inputs``."""
        return inputs

    def invert(self, inputs: Tensor) -> Tensor:
        """``inputs``."""
        return inputs


@final
@dataclass(frozen=True, slots=True)
class FrameNormalization:
    """(x − mean) / std by band of frames ``[batch, frames, bands]``. Padding is normalized too; networks mask it.

    >>> FrameNormalization((1.0, 0.0), (2.0, 1.0)).apply(torch.ones(1, 1, 2))
    tensor([[[0., 1.]]])
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def from_frames(cls, frames: Sequence[Tensor]) -> FrameNormalization:
        """Mean and standard deviation over all frames of ``[length, bands]`` sequences."""
        values = torch.cat(list(frames)).double()
        mean, std = values.mean(dim=0), values.std(dim=0).clamp(min=1e-3)
        return cls(tuple(round(m, 6) for m in mean.tolist()), tuple(round(s, 6) for s in std.tolist()))

    def apply(self, inputs: Tensor) -> Tensor:
        """``[batch, frames, bands]``, normalized."""
        return (inputs - inputs.new_tensor(self.mean)) / inputs.new_tensor(self.std)

    def invert(self, inputs: Tensor) -> Tensor:
        """The frames before normalization."""
        return inputs * inputs.new_tensor(self.std) + inputs.new_tensor(self.mean)


@final
@dataclass(frozen=True, slots=True)
class Normalization:
    """(x − mean) / std by channel, for pixels in 0..1.

    >>> Normalization((0.5,), (0.25,)).apply(torch.ones(1, 1, 1, 1)).item()
    2.0
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def imagenet(cls, channels: int) -> Normalization:
        """The statistics of ImageNet; their average over channels for gray images."""
        if channels == 3:
            return cls((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        return cls((0.449,) * channels, (0.226,) * channels)

    @classmethod
    def none(cls, channels: int) -> Normalization:
        """The identity."""
        return cls((0.0,) * channels, (1.0,) * channels)

    @classmethod
    def from_split(cls, split: Split, *, max_samples: int = 5000) -> Normalization:
        """Mean and standard deviation of at most ``max_samples`` evenly spaced samples of ``split``."""
        num_samples = min(len(split), max_samples)
        indices = torch.arange(num_samples) * len(split) // num_samples
        # In chunks: 5,000 photographs in float64 would be gigabytes.
        count, total, square = 0, torch.zeros(1), torch.zeros(1)
        for chunk in torch.split(indices, 256):
            images = split.read(chunk).double().transpose(0, 1).flatten(1)
            count, total, square = count + images.shape[1], total + images.sum(1), square + images.square().sum(1)
        mean = total / count
        std = (((square - count * mean.square()) / max(count - 1, 1)).clamp(min=0)).sqrt().clamp(min=1e-3)
        return cls(tuple(round(m, 6) for m in mean.tolist()), tuple(round(s, 6) for s in std.tolist()))

    def apply(self, inputs: Tensor) -> Tensor:
        """``[batch, channels, ...]`` images, normalized."""
        mean, std = self._mean_std_like(inputs)
        return (inputs - mean) / std

    def invert(self, inputs: Tensor) -> Tensor:
        """The pixels of normalized ``[batch, channels, ...]`` images."""
        mean, std = self._mean_std_like(inputs)
        return inputs * std + mean

    def _mean_std_like(self, images: Tensor) -> tuple[Tensor, Tensor]:
        if images.ndim < 2 or images.shape[1] != len(self.mean):
            raise LimbeckError(f"images must have {len(self.mean)} channels, got the shape {list(images.shape)}")
        shape = (1, -1) + (1,) * (images.ndim - 2)
        return images.new_tensor(self.mean).reshape(shape), images.new_tensor(self.std).reshape(shape)


@final
class NormalizedModel(nn.Module):
    """A network with its normalization, as deployed: takes pixels in 0..1, ``[batch, channels, ...]``.

    Args:
        network: takes normalized images.
        normalization: of the data.
        num_dims: dimensions of one input, 3 for an image.

    >>> NormalizedModel(nn.Identity(), Normalization((0.5,), (0.25,)), num_dims=1)(torch.ones(1, 1))
    tensor([[2.]])
    >>> NormalizedModel(nn.Identity(), NoNormalization(), num_dims=1)(torch.ones(1, 1))
    tensor([[1.]])
    """

    def __init__(self, network: nn.Module, normalization: InputNormalization, *, num_dims: int) -> None:
        super().__init__()
        if isinstance(normalization, NoNormalization):
            normalization = Normalization.none(1)
        if not isinstance(normalization, Normalization):
            raise LimbeckError(f"the inputs must be images normalized by channel, got {type(normalization).__name__}")
        self.network = network
        shape = (1, -1) + (1,) * (num_dims - 1)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(normalization.mean).reshape(shape))
        self.register_buffer("std", torch.tensor(normalization.std).reshape(shape))

    def forward(self, pixels: Tensor) -> Any:
        return self.network((pixels - self.mean) / self.std)


@final
class NormalizeFrames(nn.Module):
    """A layer before a deployed network: normalizes frames ``[batch, frames, bands]``.

    Args:
        normalization: by band, or none.

    >>> NormalizeFrames(FrameNormalization((0.5,), (0.25,)))(torch.ones(1, 1, 1))
    tensor([[[2.]]])
    >>> NormalizeFrames(NoNormalization())(torch.ones(1, 1, 1))
    tensor([[[1.]]])
    """

    def __init__(self, normalization: InputNormalization) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(normalization.mean or (0.0,)))
        self.register_buffer("std", torch.tensor(normalization.std or (1.0,)))

    def forward(self, frames: Tensor) -> Tensor:
        return (frames - self.mean) / self.std
