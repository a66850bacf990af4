"""Masks read by index, the class of each pixel of an image: in memory, or in files."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, final

import numpy as np
import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.data.image_files import open_file
from limbeck.data.image_store import hash_files

__all__ = ["UNLABELED", "MaskFiles", "MaskStore", "MasksInMemory", "is_mask", "open_mask"]

UNLABELED: Final = -100


class MaskStore(Protocol):
    """Masks that are read by index, ``[n, height, width]`` int64 class indices, −100 for pixels without a class."""

    def __len__(self) -> int: ...

    def read(self, indices: Tensor) -> Tensor:
        """The masks at ``indices`` (``[n]`` integers)."""
        ...

    def fingerprint(self) -> str:
        """A hash that changes when the masks do."""
        ...


@final
@dataclass(frozen=True, slots=True)
class MasksInMemory:
    """Masks in memory.

    Args:
        tensor: ``[n, height, width]`` integers.
        ignore_index: value of pixels without a class; those below 0 have none either.
    """

    tensor: Tensor
    ignore_index: int = 255

    def __len__(self) -> int:
        return len(self.tensor)

    def read(self, indices: Tensor) -> Tensor:
        masks = self.tensor[indices].long()
        return masks.masked_fill((masks == self.ignore_index) | (masks < 0), UNLABELED)

    def fingerprint(self) -> str:
        description = f"{self.tensor.dtype} {list(self.tensor.shape)} {self.ignore_index} ".encode()
        return hashlib.sha256(description + self.tensor.contiguous().numpy().tobytes()).hexdigest()


@final
@dataclass(frozen=True, slots=True)
class MaskFiles:
    """Masks in image files whose pixel values are class indices (gray or palette), read on access.

    Args:
        paths: the files.
        size: height and width to resize to, nearest neighbor; ``None``: masks are unchanged and must have one size.
        ignore_index: value of pixels without a class.
    """

    paths: tuple[Path, ...]
    size: tuple[int, int] | None = None
    ignore_index: int = 255

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, indices: Tensor) -> Tensor:
        return MasksInMemory(self.read_uint8(indices.tolist()), self.ignore_index).read(torch.arange(len(indices)))

    def read_uint8(self, indices: Sequence[int]) -> Tensor:
        """The values of the pixels, ``[n, height, width]`` uint8."""
        masks = [_decode_mask(self.paths[i], self.size) for i in indices]
        if len(shapes := {tuple(mask.shape) for mask in masks}) > 1:
            raise LimbeckError(f"masks must have one size, got {sorted(shapes)[:3]} …: set `size`")
        return torch.stack(masks)

    def fingerprint(self) -> str:
        description = f"{self.size} {self.ignore_index} ".encode()
        return hashlib.sha256(description + hash_files(self.paths)).hexdigest()


def is_mask(targets: Any) -> bool:
    """Whether ``targets`` is a list of ``torchvision.tv_tensors.Mask``."""
    tv_tensors = sys.modules.get("torchvision.tv_tensors")  # without it, there are no masks
    is_list = isinstance(targets, list) and bool(targets)
    return tv_tensors is not None and is_list and isinstance(targets[0], tv_tensors.Mask)


def open_mask(path: Path) -> Any:
    """The PIL image of one channel in ``path``.

    Raises:
        LimbeckError: the file cannot be read, or has several channels.
    """
    try:
        with open_file(path) as file:
            image = file.copy()
    except Exception as error:  # each decoder raises its own error
        raise LimbeckError(f"the mask {path} cannot be read ({error}): replace or remove it") from error
    if image.mode not in ("L", "P", "1"):
        raise LimbeckError(
            f"the mask {path} must have one channel whose values are class indices, got mode {image.mode}: convert it"
        )
    return image


def _decode_mask(path: Path, size: tuple[int, int] | None) -> Tensor:
    from PIL import Image

    image = open_mask(path)
    if size is not None:
        image = image.resize(size[::-1], Image.Resampling.NEAREST)
    return torch.from_numpy(np.asarray(image).astype(np.uint8))
