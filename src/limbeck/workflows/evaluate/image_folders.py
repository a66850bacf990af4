"""Folders of pictures beside a data set: a shifted version of it, two versions of each other, or something else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError, nearest
from limbeck.data import Data
from limbeck.data.sources import PICTURES
from limbeck.data.split import UNLABELLED, Files, Part, Stored

__all__ = ["any_pictures", "by_class", "noise", "twins"]


def by_class(folder: Path, data: Data) -> Part:
    """The pictures of ``folder``, one folder a class by the names of ``data``, brought to its size.

    Raises:
        LimbeckError: there is no such folder, no picture in it, or a class that the data has not.
    """
    found = _named(folder, data)
    return _part([path for path, _ in found.values()], torch.tensor([label for _, label in found.values()]), data)


def twins(first: Path, second: Path, data: Data) -> tuple[Part, Part]:
    """Two versions of the same pictures: those that have one class and name (but for the ending) in both folders.

    Raises:
        LimbeckError: a folder is absent, or they have no picture in common.
    """
    one, other = _named(first, data), _named(second, data)
    both = [key for key in one if key in other]
    if not both:
        raise LimbeckError(
            f"{first} and {second} have no picture in common: two versions of a picture have one class folder and name"
        )
    target = torch.tensor([one[key][1] for key in both])
    return _part([one[key][0] for key in both], target, data), _part([other[key][0] for key in both], target, data)


def any_pictures(folder: Path, data: Data) -> Part:
    """All pictures under ``folder``, without labels, brought to the size of ``data``."""
    paths = _pictures(_folder(folder))
    if not paths:
        raise LimbeckError(f"there is no picture in {folder}: it needs *.png (or jpg, bmp, webp …) at any depth")
    return _part(paths, torch.full((len(paths),), UNLABELLED), data)


def noise(many: int, data: Data, *, seed: int = 0) -> Part:
    """``many`` pictures of uniform noise, of the shape of ``data``: what no class looks like."""
    generator = torch.Generator().manual_seed(seed)
    return Part.whole(Stored(torch.rand(many, *data.shape, generator=generator)), torch.full((many,), UNLABELLED))


def _named(folder: Path, data: Data) -> Mapping[str, tuple[Path, int]]:
    """Path and class of each picture by ``class/name`` without the ending."""
    classes = {name: label for label, name in enumerate(data.classes)}
    found: dict[str, tuple[Path, int]] = {}
    for inner in sorted(path for path in _folder(folder).iterdir() if path.is_dir() and path.name[0] != "."):
        if inner.name not in classes:
            raise LimbeckError(
                f"{folder} has a folder {inner.name!r}, which is no class of {data.name}; there are: "
                f"{nearest(inner.name, classes)}"
            )
        for path in _pictures(inner):
            key = path.relative_to(folder).with_suffix("").as_posix()
            if key in found:
                raise LimbeckError(f"{found[key][0]} and {path} have one name: keep one of them in {folder}")
            found[key] = path, classes[inner.name]
    if not found:
        raise LimbeckError(f"there is no picture in {folder}: it needs <class>/*.png (or jpg, bmp, webp …)")
    return found


def _folder(folder: Path) -> Path:
    if not folder.is_dir():
        raise LimbeckError(f"there is no folder {folder}: name one with pictures")
    return folder


def _pictures(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURES)


def _part(paths: list[Path], target: Tensor, data: Data) -> Part:
    shape = data.shape
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise LimbeckError(f"a folder holds pictures, and the inputs of {data.name} are {list(shape)}")
    channels, height, width = shape
    files = Files(tuple(paths), height if height == width else None, channels)
    if (found := tuple(files.read(torch.tensor([0])).shape[1:])) != shape:
        raise LimbeckError(f"{paths[0]} is {list(found)}, and {data.name} has {list(shape)}: bring it to that size")
    return Part.whole(files, target)
