"""``data.unlabeled``: a folder of training images without a label."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import torch

from limbeck.core.errors import LimbeckError
from limbeck.data.image_files import ImageFiles, list_image_files
from limbeck.data.image_store import ImageStore, InMemory
from limbeck.data.sources.source_file import SourceFile
from limbeck.data.split import Split

__all__ = ["find_unlabeled_folder", "list_unlabeled", "read_unlabeled"]


def find_unlabeled_folder(folder: str | None, root: str | Path | None = None) -> Path | None:
    """The folder that ``data.unlabeled`` names: in ``root``, or a path.

    Raises:
        LimbeckError: there is no such folder, or it has no image.
    """
    if folder is None:
        return None
    candidates = [Path(folder)] if root is None else [Path(root) / folder, Path(folder)]
    path = next((path for path in candidates if path.is_dir()), None)
    if path is None:
        raise LimbeckError(f"data.unlabeled must be a folder of images, got {folder!r}: there is no such folder")
    if not list_image_files(path):
        raise LimbeckError(f"data.unlabeled must have images, got none in {path}: add some, or remove the setting")
    return path


def list_unlabeled(folder: Path | None) -> list[SourceFile]:
    """The images in ``folder``, at any depth; none without a folder."""
    paths = [] if folder is None else list_image_files(folder)
    return [SourceFile(path, "unlabeled", None) for path in paths]


def read_unlabeled(
    folder: Path | None, train: Split, *, labeled: Iterable[SourceFile] = (), cache_mb: int = 1024,
    resize: Literal["crop", "letterbox"] = "crop",
) -> ImageStore | None:  # fmt: skip
    """The images in ``folder``, in the size of those of ``train``.

    Args:
        folder: of :func:`find_unlabeled_folder`; ``None``: no images.
        train: the labeled training images.
        labeled: the labeled files, of every split.
        cache_mb: size in megabytes up to which the images are held in memory.
        resize: ``crop``: cover the size and crop at the center (resized to both sides where they differ); or
            ``letterbox``, see :class:`~limbeck.data.image_files.ImageFiles`.

    Raises:
        LimbeckError: a labeled file is in the folder, or an image cannot be read.
    """
    if folder is None:
        return None
    paths = tuple(file.path for file in list_unlabeled(folder))
    by_path = {file.path.resolve(): file for file in labeled}
    if shared := next((file for path in paths if (file := by_path.get(path.resolve()))), None):
        raise LimbeckError(
            f"data.unlabeled must have no labeled image, got {shared.path} of the {shared.split} split: choose a "
            "folder beside them"
        )
    channels, height, width = train.read(torch.tensor([0])).shape[1:]
    if resize == "letterbox":
        images = ImageFiles(paths, (height, width), channels, "letterbox")
    else:
        images = ImageFiles(paths, height if height == width else (height, width), channels)
    fits_memory = channels * height * width * len(images) <= cache_mb * 2**20
    return InMemory(images.read_uint8(range(len(images)))) if fits_memory else images
