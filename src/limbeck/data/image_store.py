"""Images read by index: in memory, in files, or from a user's data set."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, final

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError

__all__ = ["DatasetAdapter", "ImageFiles", "ImageStore", "InMemory"]

_MAX_HASHED_BYTES = 256 * 2**20
_NUM_CHECKED = 32


class ImageStore(Protocol):
    """Images that can be read by place, as float32 ``[n, channels, height, width]`` in 0..1."""

    def __len__(self) -> int: ...

    def read(self, indices: Tensor) -> Tensor:
        """The images at ``indices`` (``[n]`` integers)."""
        ...

    def fingerprint(self) -> str:
        """A hash that changes when the images do."""
        ...

    def is_deterministic(self) -> bool:
        """Whether a place gives the same image each time."""
        ...


@final
@dataclass(frozen=True, slots=True)
class InMemory:
    """Images in memory: uint8 0..255 or float 0..1, ``[n, channels, height, width]`` (or any ``[n, ...]`` floats)."""

    tensor: Tensor

    def __len__(self) -> int:
        return len(self.tensor)

    def read(self, indices: Tensor) -> Tensor:
        images = self.tensor[indices]
        return images.float() / 255 if images.dtype == torch.uint8 else images.float()

    def fingerprint(self) -> str:
        kind = f"{self.tensor.dtype} {list(self.tensor.shape)} ".encode()
        return hashlib.sha256(kind + self.tensor.contiguous().numpy().tobytes()).hexdigest()

    def is_deterministic(self) -> bool:
        return True


@final
@dataclass(frozen=True, slots=True)
class ImageFiles:
    """Images in files, read on access.

    Arguments:
        paths: the files.
        size: the shorter side is scaled to it and the center cut out; ``None`` takes images as they are, all alike.
        channels: 1 for gray, 3 for color.
    """

    paths: tuple[Path, ...]
    size: int | None
    channels: int

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, indices: Tensor) -> Tensor:
        return self.read_uint8(indices.tolist()).float() / 255

    def read_uint8(self, indices: Sequence[int]) -> Tensor:
        """Like :meth:`read`, as uint8 0..255."""
        images = [_decode_image(self.paths[i], self.size, self.channels) for i in indices]
        shapes = {tuple(image.shape) for image in images}
        if len(shapes) > 1:
            raise LimbeckError(
                f"the images have different sizes ({sorted(shapes)[:3]} …): set `size` to bring them to one"
            )
        return torch.stack(images)

    def fingerprint(self) -> str:
        """Names, sizes and bytes of the files; above 256 MB in all, the time of the last change for the bytes.

        So a small folder is the same in every copy, and a large one, which would take minutes to read, is another after
        it was copied.
        """
        description = f"{self.size} {self.channels} ".encode() + _hash_files(self.paths)
        return hashlib.sha256(description).hexdigest()

    def is_deterministic(self) -> bool:
        return True


@final
@dataclass(frozen=True, slots=True)
class DatasetAdapter:
    """The inputs of any map-style torch data set whose items are ``(input, target)``."""

    dataset: Any

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, indices: Tensor) -> Tensor:
        tensors = [_to_tensor(self.dataset[i][0]) for i in indices.tolist()]
        if len(shapes := {tuple(tensor.shape) for tensor in tensors}) > 1:
            raise LimbeckError(
                f"the data set's inputs have different shapes ({sorted(shapes)[:3]} …): give it a transform that "
                "brings them to one"
            )
        images = torch.stack(tensors)
        return images.float() / 255 if images.dtype == torch.uint8 else images.float()

    def fingerprint(self) -> str:
        """The bytes of every item, which are read for it; of a data set that is not :meth:`is_deterministic`, kind
        and length.

        Where the data set tells the file of each item under ``samples``, as torchvision's folders do: those files, told
        as :class:`ImageFiles` does, and the bytes of 32 items.
        """
        digest = hashlib.sha256(f"{type(self.dataset).__name__} {len(self.dataset)}".encode())
        if self.is_deterministic():
            paths = _sample_paths(self.dataset)
            digest.update(b"" if paths is None else _hash_files(paths))
            for i in range(len(self)) if paths is None else self._checked_indices():
                item = _to_tensor(self.dataset[i][0])
                digest.update(f"\n{item.dtype} {list(item.shape)} ".encode() + _tensor_bytes(item))
        return digest.hexdigest()

    def is_deterministic(self) -> bool:
        """Whether 32 items, evenly chosen and read twice, are the same both times; random states are restored."""
        with _preserve_rng_state():
            for i in self._checked_indices():
                first, second = (_to_tensor(self.dataset[i][0]) for _ in range(2))
                if first.shape != second.shape or _tensor_bytes(first) != _tensor_bytes(second):
                    return False
        return True

    def _checked_indices(self) -> list[int]:
        count = min(len(self), _NUM_CHECKED)
        return [i * len(self) // count for i in range(count)]


def _to_tensor(value: Any) -> Tensor:
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise LimbeckError(
            f"the data set gives a {type(value).__name__} as input, and a network takes tensors: give it a transform "
            "that makes one, such as torchvision's ToTensor"
        ) from error


def _hash_files(paths: Sequence[Path]) -> bytes:
    """A hash of files: names, sizes, and their bytes or, where these are many, the time of the last change."""
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
    candidates = [sample[0] if isinstance(sample, tuple) and sample else sample for sample in samples]
    are_files = all(isinstance(path, str | Path) for path in candidates) and all(
        Path(path).is_file() for path in candidates
    )
    return [Path(path) for path in candidates] if are_files else None


def _tensor_bytes(tensor: Tensor) -> bytes:
    # A number alone has no last dimension to be seen as bytes.
    return tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes()


@contextmanager
def _preserve_rng_state() -> Iterator[None]:
    import random

    import numpy as np

    python_state, numpy_state, torch_state = (
        random.getstate(),
        np.random.get_state(),
        torch.default_generator.get_state(),
    )
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.default_generator.set_state(torch_state)


def _decode_image(path: Path, size: int | None, channels: int) -> Tensor:
    import numpy as np
    from PIL import Image

    try:
        with Image.open(path) as file:
            mode, image = file.mode, file.convert("L" if channels == 1 else "RGB")
    except Exception as error:  # each decoder raises its own; a damaged file is the same sentence for the user
        raise LimbeckError(f"the image {path} cannot be read ({error}): mend or remove it") from error
    if mode[0] in "IF":  # PIL would clip everything above 255 to white
        raise LimbeckError(f"the image {path} has more than 8 bits a channel (mode {mode}): bring it to 8 bits")
    if size is not None:
        width, height = image.size
        scale = size / min(width, height)
        image = image.resize(
            (max(size, round(width * scale)), max(size, round(height * scale))), Image.Resampling.BILINEAR
        )
        left, top = (image.size[0] - size) // 2, (image.size[1] - size) // 2
        image = image.crop((left, top, left + size, top + size))
    pixels = torch.from_numpy(np.asarray(image).copy())
    return pixels.unsqueeze(0) if channels == 1 else pixels.permute(2, 0, 1).contiguous()
