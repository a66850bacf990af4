"""One part of a data set: pictures, their classes, and the number by which each is known for ever."""

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

__all__ = ["Files", "Images", "Part", "Stored", "Wrapped"]

UNLABELLED = -100
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
        facts = [path.stat() for path in self.paths]
        small = sum(fact.st_size for fact in facts) <= _SMALL
        found = hashlib.sha256(f"{self.size} {self.channels} {len(facts)}".encode())
        for path, fact in zip(self.paths, facts, strict=True):
            found.update(f"\n{'/'.join(path.parts[-3:])} {fact.st_size} ".encode())
            found.update(path.read_bytes() if small else str(fact.st_mtime_ns).encode())
        return found.hexdigest()

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
        """The bytes of every item, which are read for it; of a data set that is not :meth:`steady`, kind and length."""
        found = hashlib.sha256(f"{type(self.dataset).__name__} {len(self.dataset)}".encode())
        if self.steady():
            for i in range(len(self)):
                item = _tensor(self.dataset[i][0])
                found.update(f"\n{item.dtype} {list(item.shape)} ".encode() + _bytes(item))
        return found.hexdigest()

    def steady(self) -> bool:
        """Whether 32 items, evenly chosen and read twice, are the same both times; random states are left alone."""
        many = min(len(self), _LOOKED_AT)
        with _random_states_kept():
            for i in (place * len(self) // many for place in range(many)):
                one, other = (_tensor(self.dataset[i][0]) for _ in range(2))
                if one.shape != other.shape or _bytes(one) != _bytes(other):
                    return False
        return True


@final
@dataclass(frozen=True, slots=True)
class Part:
    """Some samples of a data set.

    Attributes:
        images: the pictures, of this part and perhaps of others.
        places: ``[n]``, where this part's pictures stand in ``images``.
        target: ``[n]`` class numbers, −100 where there is no label.
        number: ``[n]``, the number of each sample in its source: its name in views and caches.
    """

    images: Images
    places: Tensor
    target: Tensor
    number: Tensor

    @classmethod
    def whole(cls, images: Images, target: Tensor, *, first: int = 0) -> Part:
        """All of ``images``, numbered from ``first``."""
        places = torch.arange(len(images))
        if target.ndim != 1:
            raise LimbeckError(f"labels are one class number for each sample, [n], not {list(target.shape)}")
        if len(images) != len(target):
            raise LimbeckError(f"there are {len(images)} pictures and {len(target)} labels")
        return cls(images, places, target.long(), places + first)

    def __len__(self) -> int:
        return len(self.places)

    def subset(self, which: Tensor) -> Part:
        """The samples at ``which`` (places in this part, or booleans)."""
        return Part(self.images, self.places[which], self.target[which], self.number[which])

    def labelled(self) -> Part:
        """The samples that have a label."""
        return self.subset(self.target != UNLABELLED)

    def read(self, which: Tensor) -> Tensor:
        """The pictures at ``which`` places of this part, float32 in 0..1."""
        return self.images.read(self.places[which])


def _tensor(given: Any) -> Tensor:
    try:
        return torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise LimbeckError(
            f"the data set gives a {type(given).__name__} as input, and a network takes tensors: give it a transform "
            "that makes one, such as torchvision's ToTensor"
        ) from error


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
