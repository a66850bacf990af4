"""Number, size and color of the images of a folder, from the headers of some of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

from limbeck.core.errors import LimbeckError
from limbeck.data.image_files import list_image_files, open_file
from limbeck.data.sources.image_folder import list_class_folders

__all__ = ["ImageSummary", "summarize_images"]

_MAX_HEADERS: Final = 200
_GRAY_MODES: Final = ("1", "L", "LA", "I", "I;16", "F")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSummary:
    """The training images of a folder.

    Attributes:
        class_names: the class folders, sorted.
        num_images: number of training images.
        size: shorter side in pixels, the median of the images read.
        is_uniform: whether all are square and of one size.
        channels: 1 where all are gray, else 3.
    """

    class_names: tuple[str, ...]
    num_images: int
    size: int
    is_uniform: bool
    channels: int


def summarize_images(root: Path, *, unlabeled: str | None = None) -> ImageSummary:
    """The summary of ``root``, which has a folder per class, or ``train`` with a folder per class.

    Args:
        root: the folder.
        unlabeled: a folder in it that is no class.

    Raises:
        LimbeckError: there is no folder, no class, or no image that can be read.
    """
    if not root.is_dir():
        raise LimbeckError(f"--data must be a folder with one folder of images per class, and there is no {root}")
    train = root / "train" if (root / "train").is_dir() else root
    classes = [name for name in list_class_folders(train) if name != unlabeled]
    files = [path for name in classes for path in list_image_files(train / name)]
    headers = _read_headers(files[:: max(1, len(files) // _MAX_HEADERS)])
    if not headers:
        raise LimbeckError(
            f"{root} must hold images as CLASS/NAME.png (or jpg, bmp, webp …), got none that can be read"
        )
    sides = sorted(min(size) for size, _ in headers)
    return ImageSummary(
        class_names=tuple(classes), num_images=len(files), size=sides[len(sides) // 2],
        is_uniform=len({size for size, _ in headers}) == 1 and headers[0][0][0] == headers[0][0][1],
        channels=1 if all(mode in _GRAY_MODES for _, mode in headers) else 3,
    )  # fmt: skip


def _read_headers(files: Sequence[Path]) -> list[tuple[tuple[int, int], str]]:
    """Size and mode of each file; a damaged one is left out, since loading the data reports it."""
    from PIL import Image

    headers = []
    for path in files:
        try:
            with open_file(path) as image:
                headers.append((image.size, image.mode))
        except (OSError, ValueError, Image.DecompressionBombError):
            continue
    return headers
