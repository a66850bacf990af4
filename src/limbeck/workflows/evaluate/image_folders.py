"""Folders of images that a data set does not have: a shifted version of it, two versions of each other, or something
else.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError, suggest_names
from limbeck.data import DataModule
from limbeck.data.sources import IMG_EXTENSIONS
from limbeck.data.split import UNLABELED, ImageFiles, InMemory, Split

__all__ = ["load_image_pairs", "load_images_by_class", "load_unlabeled_images", "uniform_noise"]


def load_images_by_class(folder: Path, data: DataModule) -> Split:
    """The images of ``folder``, one folder a class by the names of ``data``, brought to its size.

    Raises:
        LimbeckError: there is no such folder, no image in it, or a class that the data has not.
    """
    labeled_paths = _index_images(folder, data)
    return _make_split(
        [path for path, _ in labeled_paths.values()], torch.tensor([label for _, label in labeled_paths.values()]), data
    )


def load_image_pairs(first_dir: Path, second_dir: Path, data: DataModule) -> tuple[Split, Split]:
    """Two versions of the same images: those that have one class and name (but for the ending) in both folders.

    Raises:
        LimbeckError: a folder is absent, or they have no image in common.
    """
    first_images, second_images = _index_images(first_dir, data), _index_images(second_dir, data)
    shared_keys = [key for key in first_images if key in second_images]
    if not shared_keys:
        raise LimbeckError(
            f"{first_dir} and {second_dir} have no image in common: two versions of an image have one class folder "
            "and name"
        )
    target = torch.tensor([first_images[key][1] for key in shared_keys])
    return _make_split([first_images[key][0] for key in shared_keys], target, data), _make_split(
        [second_images[key][0] for key in shared_keys], target, data
    )


def load_unlabeled_images(folder: Path, data: DataModule) -> Split:
    """All images under ``folder``, without labels, brought to the size of ``data``."""
    paths = _list_images(_require_folder(folder))
    if not paths:
        raise LimbeckError(f"there is no image in {folder}: it needs *.png (or jpg, bmp, webp …) at any depth")
    return _make_split(paths, torch.full((len(paths),), UNLABELED), data)


def uniform_noise(num_images: int, data: DataModule, *, seed: int = 0) -> Split:
    """``num_images`` images of uniform noise, of the shape of ``data``: what no class looks like."""
    generator = torch.Generator().manual_seed(seed)
    return Split.from_images(
        InMemory(torch.rand(num_images, *data.input_shape, generator=generator)), torch.full((num_images,), UNLABELED)
    )


def _index_images(folder: Path, data: DataModule) -> Mapping[str, tuple[Path, int]]:
    """Path and class of each image by ``class/name`` without the ending."""
    classes = {name: label for label, name in enumerate(data.class_names)}
    images: dict[str, tuple[Path, int]] = {}
    for class_dir in sorted(
        path for path in _require_folder(folder).iterdir() if path.is_dir() and path.name[0] != "."
    ):
        if class_dir.name not in classes:
            raise LimbeckError(
                f"{folder} has a folder {class_dir.name!r}, which is no class of {data.name}; there are: "
                f"{suggest_names(class_dir.name, classes)}"
            )
        for path in _list_images(class_dir):
            key = path.relative_to(folder).with_suffix("").as_posix()
            if key in images:
                raise LimbeckError(f"{images[key][0]} and {path} have one name: keep one of them in {folder}")
            images[key] = path, classes[class_dir.name]
    if not images:
        raise LimbeckError(f"there is no image in {folder}: it needs <class>/*.png (or jpg, bmp, webp …)")
    return images


def _require_folder(folder: Path) -> Path:
    if not folder.is_dir():
        raise LimbeckError(f"there is no folder {folder}: name one with images")
    return folder


def _list_images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMG_EXTENSIONS)


def _make_split(paths: list[Path], target: Tensor, data: DataModule) -> Split:
    shape = data.input_shape
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise LimbeckError(f"a folder holds images, and the inputs of {data.name} are {list(shape)}")
    channels, height, width = shape
    files = ImageFiles(tuple(paths), height if height == width else None, channels)
    if (actual_shape := tuple(files.read(torch.tensor([0])).shape[1:])) != shape:
        raise LimbeckError(
            f"{paths[0]} is {list(actual_shape)}, and {data.name} has {list(shape)}: bring it to that size"
        )
    return Split.from_images(files, target)
