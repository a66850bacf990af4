"""From an image file to the input of a deployed network, the same at training and in deployment."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, final

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.data.image_files import ImageFiles, read_image
from limbeck.data.image_store import InMemory
from limbeck.data.module import DataModule
from limbeck.data.normalization import Normalization

__all__ = ["ImagePreprocessing"]

_CHANNELS = {"RGB": 3, "L": 1}
_MAX_SIZE = 16_384
_FIXED: Mapping[str, Any] = {
    "resize": "cover", "interpolation": "bilinear", "crop": "center", "layout": "NCHW", "value_range": [0, 1],
    "normalization": "in the network",
}  # fmt: skip
"""What holds for every exported classifier."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePreprocessing:
    """How an image file becomes an input of a network that normalizes its inputs itself.

    The image is turned upright (EXIF), resized (bilinear, antialiased) to the smallest size that covers ``size``,
    cropped at its center, and scaled to 0..1. With a square ``size`` the shorter side is resized to it.

    Args:
        size: height and width of the input.
        channel_order: ``RGB``, or ``L`` for gray, as the modes of Pillow.
        mean: by channel, for values in 0..1.
        std: by channel.
    """

    size: tuple[int, int]
    channel_order: Literal["RGB", "L"]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def from_data(cls, data: DataModule) -> Self | None:
        """The preprocessing of the images of ``data``; ``None`` where it is unknown.

        It is unknown where inputs are no gray or color images in 0..1, and where a data set has transforms of its own.
        """
        images, normalization = data.validation.images, data.normalization
        if data.validation.boxes is not None:
            return None  # letterboxed, not cropped
        if not isinstance(images, ImageFiles | InMemory) or not isinstance(normalization, Normalization):
            return None
        if isinstance(images, ImageFiles) and isinstance(images.size, tuple):
            return None  # resized without its aspect ratio
        sample = data.validation.read(torch.tensor([0]))
        order = {channels: name for name, channels in _CHANNELS.items()}.get(sample.shape[1])
        if sample.ndim != 4 or order is None or not 0 <= float(sample.min()) <= float(sample.max()) <= 1:
            return None
        height, width = sample.shape[2:]
        return cls.from_dict(
            {"size": [height, width], "channel_order": order, "mean": normalization.mean, "std": normalization.std}
        )

    @classmethod
    def from_dict(cls, values: object) -> Self:
        """The preprocessing that :meth:`to_dict` describes.

        Raises:
            LimbeckError: a value is missing or invalid.
        """
        if not isinstance(values, Mapping):
            raise LimbeckError(f"preprocessing must be a mapping, got {type(values).__name__}")
        if other := [key for key, value in _FIXED.items() if values.get(key, value) != value]:
            raise LimbeckError(f"preprocessing.{other[0]} must be {_FIXED[other[0]]!r}, got {values[other[0]]!r}")
        size: Any = values.get("size")
        order = values.get("channel_order")
        if order not in list(_CHANNELS):
            raise LimbeckError(f"preprocessing.channel_order must be RGB or L, got {order!r}")
        if not _is_list(size, int, 2) or not all(1 <= side <= _MAX_SIZE for side in size):
            raise LimbeckError(f"preprocessing.size must be a height and a width from 1 to {_MAX_SIZE}, got {size!r}")
        for key in ("mean", "std"):
            if not _is_list(values.get(key), (int, float), _CHANNELS[order]):
                raise LimbeckError(
                    f"preprocessing.{key} must be {_CHANNELS[order]} numbers for {order}, got {values.get(key)!r}"
                )
        if not all(map(math.isfinite, (*values["mean"], *values["std"]))) or min(values["std"]) <= 0:
            raise LimbeckError(
                f"preprocessing.mean must be finite and preprocessing.std above 0, got {values['mean']} and "
                f"{values['std']}"
            )
        return cls(size=tuple(size), channel_order=order, mean=tuple(values["mean"]), std=tuple(values["std"]))

    def to_dict(self) -> dict[str, Any]:
        """Every step as plain data, for the metadata of a file and the record."""
        return {
            "size": list(self.size), "channel_order": self.channel_order, **_FIXED, "mean": list(self.mean),
            "std": list(self.std),
        }  # fmt: skip

    def read(self, paths: Sequence[Path]) -> Tensor:
        """The images at ``paths`` as float32 ``[n, channels, height, width]`` in 0..1.

        Raises:
            LimbeckError: an image cannot be read.
        """
        channels = _CHANNELS[self.channel_order]
        return torch.stack([read_image(path, self.size, channels) for path in paths]).float() / 255


def _is_list(value: Any, kind: type | tuple[type, ...], length: int) -> bool:
    if not isinstance(value, list | tuple) or len(value) != length:
        return False
    return all(isinstance(item, kind) and not isinstance(item, bool) for item in value)
