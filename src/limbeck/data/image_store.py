"""Images read by index: in memory, in files, or from a user's data set."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, final

import numpy as np
import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError

__all__ = [
    "DatasetAdapter",
    "ImageFiles",
    "ImageStore",
    "InMemory",
    "evenly_spaced_indices",
    "hash_files",
    "preserve_rng_state",
    "tensor_bytes",
]

_MAX_HASHED_BYTES = 256 * 2**20
_NUM_CHECKED = 32


class ImageStore(Protocol):
    """Images that are read by index, as float32 ``[n, channels, height, width]`` in 0..1."""

    def __len__(self) -> int: ...

    def read(self, indices: Tensor) -> Tensor:
        """The images at ``indices`` (``[n]`` integers)."""
        ...

    def fingerprint(self) -> str:
        """A hash that changes when the images do."""
        ...

    def is_deterministic(self) -> bool:
        """Whether an index gives the same image each time."""
        ...


@final
@dataclass(frozen=True, slots=True)
class InMemory:
    """Images in memory: uint8 0..255 or float 0..1, ``[n, channels, height, width]`` (or any ``[n, ...]`` floats)."""

    tensor: Tensor

    def __len__(self) -> int:
        return len(self.tensor)

    def read(self, indices: Tensor) -> Tensor:
        return _to_unit_range(self.tensor[indices])

    def fingerprint(self) -> str:
        description = f"{self.tensor.dtype} {list(self.tensor.shape)} ".encode()
        return hashlib.sha256(description + self.tensor.contiguous().numpy().tobytes()).hexdigest()

    def is_deterministic(self) -> bool:
        return True


@final
@dataclass(frozen=True, slots=True)
class ImageFiles:
    """Images in files, read on access: upright by their EXIF orientation, transparent pixels on white.

    Args:
        paths: the files.
        size: length of the shorter side after resizing, before a center crop; or height and width to resize to;
            ``None``: images are unchanged and must have one size.
        channels: 1 for gray, 3 for color.
    """

    paths: tuple[Path, ...]
    size: int | tuple[int, int] | None
    channels: int

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, indices: Tensor) -> Tensor:
        return _to_unit_range(self.read_uint8(indices.tolist()))

    def read_uint8(self, indices: Sequence[int]) -> Tensor:
        """Like :meth:`read`, as uint8 0..255."""
        images = [_decode_image(self.paths[i], self.size, self.channels) for i in indices]
        return _stack(images, "images must have one size", "set `size`")

    def fingerprint(self) -> str:
        """A hash of names, sizes and bytes of the files; above 256 MB in total, of modification times for bytes."""
        return hashlib.sha256(f"{self.size} {self.channels} ".encode() + hash_files(self.paths)).hexdigest()

    def is_deterministic(self) -> bool:
        return True


@final
@dataclass(frozen=True, slots=True)
class DatasetAdapter:
    """The inputs of a map-style torch data set whose items are ``(input, target)``."""

    dataset: Any

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, indices: Tensor) -> Tensor:
        tensors = [self._read_item(i) for i in indices.tolist()]
        return _to_unit_range(
            _stack(tensors, "inputs of a data set must have one shape", "add a transform such as Resize")
        )

    def fingerprint(self) -> str:
        """A hash of all items; of type and length where the data set is not :meth:`is_deterministic`.

        Where the data set lists its files as ``samples``, as torchvision's folders do: of these files, as in
        :class:`ImageFiles`, and of 32 items.
        """
        digest = hashlib.sha256(f"{type(self.dataset).__name__} {len(self.dataset)}".encode())
        if self.is_deterministic():
            paths = _sample_paths(self.dataset)
            digest.update(b"" if paths is None else hash_files(paths))
            for i in range(len(self)) if paths is None else evenly_spaced_indices(len(self)):
                item = self._read_item(i)
                digest.update(f"\n{item.dtype} {list(item.shape)} ".encode() + tensor_bytes(item))
        return digest.hexdigest()

    def is_deterministic(self) -> bool:
        """Whether 32 evenly spaced items are equal when read twice; random states are restored."""
        with preserve_rng_state():
            for i in evenly_spaced_indices(len(self)):
                first, second = self._read_item(i), self._read_item(i)
                if first.shape != second.shape or tensor_bytes(first) != tensor_bytes(second):
                    return False
        return True

    def _read_item(self, index: int) -> Tensor:
        value = self.dataset[index][0]
        try:
            return torch.as_tensor(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise LimbeckError(
                f"inputs of a data set must be tensors, got a {type(value).__name__}: add a transform such as ToTensor"
            ) from error


def _to_unit_range(images: Tensor) -> Tensor:
    return images.float() / 255 if images.dtype == torch.uint8 else images.float()


def _stack(images: list[Tensor], rule: str, remedy: str) -> Tensor:
    if len(shapes := {tuple(image.shape) for image in images}) > 1:
        raise LimbeckError(f"{rule}, got {sorted(shapes)[:3]} …: {remedy}")
    return torch.stack(images)


def hash_files(paths: Sequence[Path]) -> bytes:
    """A hash of names, sizes and bytes; above 256 MB in total, of modification times for bytes."""
    stats = [path.stat() for path in paths]
    hash_content = sum(stat.st_size for stat in stats) <= _MAX_HASHED_BYTES
    digest = hashlib.sha256(str(len(paths)).encode())
    for path, stat in zip(paths, stats, strict=True):
        digest.update(f"\n{'/'.join(path.parts[-3:])} {stat.st_size} ".encode())
        digest.update(path.read_bytes() if hash_content else str(stat.st_mtime_ns).encode())
    return digest.digest()


def _sample_paths(dataset: Any) -> list[Path] | None:
    """The file of each item, where a user's data set lists them."""
    samples = getattr(dataset, "samples", None)
    if not isinstance(samples, list) or len(samples) != len(dataset):
        return None
    paths = [sample[0] if isinstance(sample, tuple) and sample else sample for sample in samples]
    are_files = all(isinstance(path, str | Path) and Path(path).is_file() for path in paths)
    return [Path(path) for path in paths] if are_files else None


def evenly_spaced_indices(length: int) -> list[int]:
    """32 evenly spaced indices of a data set of ``length`` items."""
    count = min(length, _NUM_CHECKED)
    return [i * length // count for i in range(count)]


def tensor_bytes(tensor: Tensor) -> bytes:
    """The values of ``tensor``."""
    # A scalar has no last dimension to be viewed as bytes.
    return tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes()


@contextmanager
def preserve_rng_state(seed: int | None = None) -> Iterator[None]:
    """Restores the random states of Python, NumPy and torch at the end; ``seed`` seeds them within."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            if seed is not None:
                random.seed(seed)
                np.random.seed(seed % 2**32)
                torch.default_generator.manual_seed(seed)
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)


def _decode_image(path: Path, size: int | tuple[int, int] | None, channels: int) -> Tensor:
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as file:
            mode, upright = file.mode, ImageOps.exif_transpose(file)
            if upright.has_transparency_data:
                white = Image.new("RGBA", upright.size, "white")
                upright = Image.alpha_composite(white, upright.convert("RGBA"))
            image = upright.convert("L" if channels == 1 else "RGB")
    except Exception as error:  # each decoder raises its own error
        raise LimbeckError(f"the image {path} cannot be read ({error}): replace or remove it") from error
    if mode[0] in "IF":  # PIL would clip everything above 255 to white
        raise LimbeckError(f"the image {path} must have 8 bits per channel, got mode {mode}: convert it")
    if isinstance(size, tuple):
        image = image.resize(size[::-1], Image.Resampling.BILINEAR)
    elif size is not None:
        width, height = image.size
        scale = size / min(width, height)
        resized_size = max(size, round(width * scale)), max(size, round(height * scale))
        image = image.resize(resized_size, Image.Resampling.BILINEAR)
        left, top = (image.size[0] - size) // 2, (image.size[1] - size) // 2
        image = image.crop((left, top, left + size, top + size))
    pixels = torch.from_numpy(np.asarray(image).copy())
    return pixels.unsqueeze(0) if channels == 1 else pixels.permute(2, 0, 1).contiguous()
