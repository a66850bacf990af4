"""Images read by index: in memory, or from a user's data set."""

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
from limbeck.data.input_checks import read_item, require_finite, require_input_type, to_tensor
from limbeck.utils.batch_fields import get_input

__all__ = [
    "DatasetAdapter",
    "ImageStore",
    "InMemory",
    "evenly_spaced_indices",
    "hash_files",
    "preserve_rng_state",
    "stack_images",
    "tensor_bytes",
    "to_unit_range",
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
    """Images in memory: uint8 0..255 or float 0..1, ``[n, channels, height, width]`` (or any ``[n, ...]`` floats).

    Args:
        tensor: the images.
        paths: the file of each image; empty where they come from none.
    """

    tensor: Tensor
    paths: tuple[Path, ...] = ()

    def __repr__(self) -> str:
        return f"InMemory({list(self.tensor.shape)} {self.tensor.dtype})"

    def __len__(self) -> int:
        return len(self.tensor)

    def read(self, indices: Tensor) -> Tensor:
        return to_unit_range(self.tensor[indices])

    def fingerprint(self) -> str:
        description = f"{self.tensor.dtype} {list(self.tensor.shape)} ".encode()
        return hashlib.sha256(description + self.tensor.contiguous().numpy().tobytes()).hexdigest()

    def is_deterministic(self) -> bool:
        return True


@final
@dataclass(frozen=True, slots=True)
class DatasetAdapter:
    """The inputs of a map-style torch data set whose items are ``(input, target)``, or a mapping of both."""

    dataset: Any

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, indices: Tensor) -> Tensor:
        tensors = [self._read_item(i) for i in indices.tolist()]
        return to_unit_range(
            stack_images(tensors, "inputs of a data set must have one shape", "add a transform such as Resize")
        )

    def fingerprint(self) -> str:
        """A hash of all items; of type and length where the data set is not :meth:`is_deterministic`.

        Where the data set lists its files as ``samples``, as torchvision's folders do: of these files, as in
        :class:`~limbeck.data.image_files.ImageFiles`, and of 32 items.
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
        tensor = to_tensor(get_input(read_item(self.dataset, index)), index)
        require_input_type(tensor.dtype)
        require_finite(tensor[None], lambda _: f"sample {index} of the data set ({type(self.dataset).__name__})")
        return tensor


def to_unit_range(images: Tensor) -> Tensor:
    """uint8 of 0..255 as floats in 0..1; other types as floats."""
    return images.float() / 255 if images.dtype == torch.uint8 else images.float()


def stack_images(images: list[Tensor], rule: str, remedy: str) -> Tensor:
    """``images`` as one tensor; an error with ``rule`` and ``remedy`` where their shapes differ."""
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
