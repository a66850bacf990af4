"""Masks read by index, the class of each pixel of an image: in memory, or in files."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence
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
    """Masks in image files whose pixel values are class indices (gray of 1 to 16 bits, or palette), read on access.

    Args:
        paths: the files.
        size: height and width to resize to, nearest neighbor; ``None``: masks are unchanged and must have one size.
        ignore_index: value of pixels without a class; not used with ``class_map``.
        classes: number of classes; other values but ``ignore_index`` are an error. ``None``: any value is a class.
        class_map: the class of each value, by value; other values have no class. ``None``: a value is its class.
    """

    paths: tuple[Path, ...]
    size: tuple[int, int] | None = None
    ignore_index: int = 255
    classes: int | None = None
    class_map: Mapping[int, int] | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, indices: Tensor) -> Tensor:
        masks = self._read_values(indices.tolist())
        return masks.read(torch.arange(len(indices)))

    def in_memory(self) -> MasksInMemory:
        """The same masks, decoded."""
        return self._read_values(range(len(self)))

    def read_one(self, path: Path) -> Tensor:
        """The values of the pixels of a mask, ``[height, width]``: classes, or :attr:`no_class`.

        Raises:
            LimbeckError: the file cannot be read, or has a value that is no class.
        """
        values = _decode_mask(path, self.size)
        if self.class_map is not None:
            return self._map_values(values)
        largest, classes = int(values.max()), self.classes
        if classes is not None and largest >= classes:
            wrong = values[(values >= classes) & (values != self.ignore_index)]
            if len(wrong):
                raise LimbeckError(
                    f"the mask {path} must have values below {classes}, the number of classes, or ignore_index "
                    f"{self.ignore_index}, got {int(wrong[0])}: set ignore_index or class_map, or add classes"
                )
        return values

    @property
    def no_class(self) -> int:
        """The value of pixels without a class in :meth:`read_one`."""
        if self.class_map is None:
            return self.ignore_index
        return 255 if max(self.class_map.values()) < 255 else UNLABELED

    def fingerprint(self) -> str:
        values = "" if self.class_map is None else f" {sorted(self.class_map.items())}"
        description = f"{self.size} {self.ignore_index}{values} ".encode()
        return hashlib.sha256(description + hash_files(self.paths)).hexdigest()

    def _read_values(self, indices: Sequence[int]) -> MasksInMemory:
        masks = [self.read_one(self.paths[i]) for i in indices]
        if len(shapes := {tuple(mask.shape) for mask in masks}) > 1:
            raise LimbeckError(f"masks must have one size, got {sorted(shapes)[:3]} …: set `size`")
        return MasksInMemory(torch.stack(masks), self.no_class)

    def _map_values(self, values: Tensor) -> Tensor:
        assert self.class_map is not None
        dtype = torch.uint8 if self.no_class == 255 else torch.int32
        # The last entry is that of all values above the keys and below 0.
        end = max(self.class_map) + 1
        table = torch.full((end + 1,), self.no_class, dtype=dtype)
        for value, class_index in self.class_map.items():
            table[value] = class_index
        values = values.long()
        return table[values.masked_fill((values < 0) | (values > end), end)]


def is_mask(targets: Any) -> bool:
    """Whether ``targets`` is a list of ``torchvision.tv_tensors.Mask``."""
    tv_tensors = sys.modules.get("torchvision.tv_tensors")  # without it, there are no masks
    is_list = isinstance(targets, list) and bool(targets)
    return tv_tensors is not None and is_list and isinstance(targets[0], tv_tensors.Mask)


def open_mask(path: Path) -> Any:
    """The PIL image of one channel in ``path``, whose values are those of the file: indices of a palette, not colors.

    Raises:
        LimbeckError: the file cannot be read, or has several channels.
    """
    try:
        with open_file(path) as file:
            divisor = _PIL_FACTORS.get(_raw_mode(file), 1)
            image = file.copy()
    except Exception as error:  # each decoder raises its own error
        raise LimbeckError(f"the mask {path} cannot be read ({error}): replace or remove it") from error
    if image.mode not in ("L", "P", "1", "I") and not image.mode.startswith("I;16"):
        raise LimbeckError(
            f"the mask {path} must have one channel whose values are class indices, got mode {image.mode}: convert it"
        )
    return image if divisor == 1 else image.point(lambda value: value // divisor)


_PIL_FACTORS: Final = {"L;2": 85, "L;4": 17}
"""PIL scales gray values of 2 and 4 bits to 0..255."""


def _raw_mode(file: Any) -> str:
    """The mode of the pixels in an image file, before PIL converts them."""
    args = file.tile[0][3] if getattr(file, "tile", None) else ""
    mode = args[0] if isinstance(args, tuple) and args else args
    return mode if isinstance(mode, str) else ""


def _decode_mask(path: Path, size: tuple[int, int] | None) -> Tensor:
    from PIL import Image

    image = open_mask(path)
    if image.mode.startswith("I"):
        image = image.convert("I")
    if size is not None:
        image = image.resize(size[::-1], Image.Resampling.NEAREST)
    return torch.from_numpy(np.asarray(image).astype(np.int32 if image.mode == "I" else np.uint8))
