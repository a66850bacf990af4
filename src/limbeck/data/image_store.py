"""Pictures that are read by place: in memory, in files, or in a data set of somebody's own."""

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

__all__ = ["Files", "Images", "Stored", "Wrapped"]

_SMALL = 256 * 2**20
_LOOKED_AT = 32


class Images(Protocol):
    """Pictures that can be read by place, as float32 ``[n, channels, height, width]`` in 0..1."""

    def __len__(self) -> int: ...

    def read(self, places: Tensor) -> Tensor:
        """The pictures at ``places`` (``[n]`` integers)."""
        ...

    def fingerprint(self) -> str:
        """A hash that changes when the pictures do."""
        ...

    def steady(self) -> bool:
        """Whether a place gives the same picture each time."""
        ...


@final
@dataclass(frozen=True, slots=True)
class Stored:
    """Pictures in memory: uint8 0..255 or float 0..1, ``[n, channels, height, width]`` (or any ``[n, ...]`` floats)."""

    tensor: Tensor

    def __len__(self) -> int:
        return len(self.tensor)

    def read(self, places: Tensor) -> Tensor:
        chosen = self.tensor[places]
        return chosen.float() / 255 if chosen.dtype == torch.uint8 else chosen.float()

    def fingerprint(self) -> str:
        kind = f"{self.tensor.dtype} {list(self.tensor.shape)} ".encode()
        return hashlib.sha256(kind + self.tensor.contiguous().numpy().tobytes()).hexdigest()

    def steady(self) -> bool:
        return True


@final
@dataclass(frozen=True, slots=True)
class Files:
    """Pictures in files, read when asked for.

    Arguments:
        paths: the files.
        size: the shorter side is scaled to it and the centre cut out; ``None`` takes pictures as they are, all alike.
        channels: 1 for grey, 3 for colour.
    """

    paths: tuple[Path, ...]
    size: int | None
    channels: int

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, places: Tensor) -> Tensor:
        return self.read_bytes(places.tolist()).float() / 255

    def read_bytes(self, places: Sequence[int]) -> Tensor:
        """Like :meth:`read`, as uint8 0..255."""
        pictures = [_decode(self.paths[i], self.size, self.channels) for i in places]
        shapes = {tuple(picture.shape) for picture in pictures}
        if len(shapes) > 1:
            raise LimbeckError(
                f"the pictures have different sizes ({sorted(shapes)[:3]} …): set `size` to bring them to one"
            )
        return torch.stack(pictures)

    def fingerprint(self) -> str:
        """Names, sizes and bytes of the files; above 256 MB in all, the time of the last change for the bytes.

        So a small folder is the same in every copy, and a large one, which would take minutes to read, is another after
        it was copied.
        """
        told = f"{self.size} {self.channels} ".encode() + _told(self.paths)
        return hashlib.sha256(told).hexdigest()

    def steady(self) -> bool:
        return True


@final
@dataclass(frozen=True, slots=True)
class Wrapped:
    """The inputs of any map-style torch data set whose items are ``(input, target)``."""

    dataset: Any

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, places: Tensor) -> Tensor:
        tensors = [_tensor(self.dataset[i][0]) for i in places.tolist()]
        if len(shapes := {tuple(tensor.shape) for tensor in tensors}) > 1:
            raise LimbeckError(
                f"the data set's inputs have different shapes ({sorted(shapes)[:3]} …): give it a transform that "
                "brings them to one"
            )
        chosen = torch.stack(tensors)
        return chosen.float() / 255 if chosen.dtype == torch.uint8 else chosen.float()

    def fingerprint(self) -> str:
        """The bytes of every item, which are read for it; of a data set that is not :meth:`steady`, kind and length.

        Where the data set tells the file of each item under ``samples``, as torchvision's folders do: those files, told
        as :class:`Files` does, and the bytes of 32 items.
        """
        found = hashlib.sha256(f"{type(self.dataset).__name__} {len(self.dataset)}".encode())
        if self.steady():
            paths = _paths(self.dataset)
            found.update(b"" if paths is None else _told(paths))
            for i in range(len(self)) if paths is None else self._some():
                item = _tensor(self.dataset[i][0])
                found.update(f"\n{item.dtype} {list(item.shape)} ".encode() + _bytes(item))
        return found.hexdigest()

    def steady(self) -> bool:
        """Whether 32 items, evenly chosen and read twice, are the same both times; random states are left alone."""
        with _random_states_kept():
            for i in self._some():
                one, other = (_tensor(self.dataset[i][0]) for _ in range(2))
                if one.shape != other.shape or _bytes(one) != _bytes(other):
                    return False
        return True

    def _some(self) -> list[int]:
        many = min(len(self), _LOOKED_AT)
        return [place * len(self) // many for place in range(many)]


def _tensor(given: Any) -> Tensor:
    try:
        return torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise LimbeckError(
            f"the data set gives a {type(given).__name__} as input, and a network takes tensors: give it a transform "
            "that makes one, such as torchvision's ToTensor"
        ) from error


def _told(paths: Sequence[Path]) -> bytes:
    """A hash of files: names, sizes, and their bytes or, where these are many, the time of the last change."""
    facts = [path.stat() for path in paths]
    small = sum(fact.st_size for fact in facts) <= _SMALL
    found = hashlib.sha256(str(len(paths)).encode())
    for path, fact in zip(paths, facts, strict=True):
        found.update(f"\n{'/'.join(path.parts[-3:])} {fact.st_size} ".encode())
        found.update(path.read_bytes() if small else str(fact.st_mtime_ns).encode())
    return found.digest()


def _paths(dataset: Any) -> list[Path] | None:
    """The file of each item, where a data set of somebody's own says which it is."""
    samples = getattr(dataset, "samples", None)
    if not isinstance(samples, list) or len(samples) != len(dataset):
        return None
    first = [sample[0] if isinstance(sample, tuple) and sample else sample for sample in samples]
    told = all(isinstance(path, str | Path) for path in first) and all(Path(path).is_file() for path in first)
    return [Path(path) for path in first] if told else None


def _bytes(tensor: Tensor) -> bytes:
    # A number alone has no last dimension to be seen as bytes.
    return tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes()


@contextmanager
def _random_states_kept() -> Iterator[None]:
    import random

    import numpy as np

    python, numpy, own = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.default_generator.set_state(own)


def _decode(path: Path, size: int | None, channels: int) -> Tensor:
    import numpy as np
    from PIL import Image

    try:
        with Image.open(path) as file:
            mode, picture = file.mode, file.convert("L" if channels == 1 else "RGB")
    except Exception as error:  # each decoder raises its own; a damaged file is the same sentence for the user
        raise LimbeckError(f"the picture {path} cannot be read ({error}): mend or remove it") from error
    if mode[0] in "IF":  # PIL would clip everything above 255 to white
        raise LimbeckError(f"the picture {path} has more than 8 bits a channel (mode {mode}): bring it to 8 bits")
    if size is not None:
        width, height = picture.size
        scale = size / min(width, height)
        picture = picture.resize(
            (max(size, round(width * scale)), max(size, round(height * scale))), Image.Resampling.BILINEAR
        )
        left, top = (picture.size[0] - size) // 2, (picture.size[1] - size) // 2
        picture = picture.crop((left, top, left + size, top + size))
    pixels = torch.from_numpy(np.asarray(picture).copy())
    return pixels.unsqueeze(0) if channels == 1 else pixels.permute(2, 0, 1).contiguous()
