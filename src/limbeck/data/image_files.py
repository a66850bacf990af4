"""Images in files: which files of a folder are images, and how they are decoded."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, NoReturn, final

import numpy as np
import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.data.image_store import hash_files, stack_images, to_unit_range
from limbeck.utils.io import require_regular_file

__all__ = [
    "IMG_EXTENSIONS",
    "ImageFiles",
    "letterbox_size",
    "list_image_files",
    "open_file",
    "open_image",
    "read_image",
    "read_image_size",
]

IMG_EXTENSIONS: Final = {
    ".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".pgm", ".ppm", ".tif", ".tiff",
}  # fmt: skip
_MAX_SHOWN_PATHS: Final = 5
_MAX_RESIZED_PIXELS: Final = 2**27
"""Before the center crop; more are hundreds of megabytes for one image."""
_EXIF_ORIENTATION: Final = 0x0112
_PADDING: Final = (128, 128, 128)
"""The color beside a letterboxed image."""


def list_image_files(folder: Path, *, nested: bool = True) -> list[Path]:
    """The image files in ``folder`` (``nested``: and below), sorted, without hidden ones."""
    return sorted(
        path for path in (folder.rglob("*") if nested else folder.iterdir())
        if path.suffix.lower() in IMG_EXTENSIONS and not path.name.startswith(".") and not path.is_dir()
    )  # fmt: skip


@final
@dataclass(frozen=True, slots=True)
class ImageFiles:
    """Images in files, read on access: upright by their EXIF orientation, transparent pixels on white.

    Args:
        paths: the files.
        size: length of the shorter side after resizing, before a center crop; or height and width to resize to;
            ``None``: images are unchanged and must have one size.
        channels: 1 for gray, 3 for color.
        resize: with a height and a width: ``stretch`` to both, or ``letterbox``: keep the aspect ratio, and pad with
            gray at the right or at the bottom.
    """

    paths: tuple[Path, ...]
    size: int | tuple[int, int] | None
    channels: int
    resize: Literal["stretch", "letterbox"] = "stretch"

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, indices: Tensor) -> Tensor:
        return to_unit_range(self.read_uint8(indices.tolist()))

    def read_uint8(self, indices: Sequence[int]) -> Tensor:
        """Like :meth:`read`, as uint8 0..255; the error of a file that cannot be read names the next ones, too."""
        images, errors = list[Tensor](), dict[Path, LimbeckError]()
        for path in (self.paths[i] for i in indices):
            try:
                images.append(_decode_image(path, self.size, self.channels, self.resize))
            except LimbeckError as error:
                errors[path] = error
        if errors:
            _raise_first(errors)
        return stack_images(images, "images must have one size", "set `size`")

    def fingerprint(self) -> str:
        """A hash of names, sizes and bytes of the files; above 256 MB in total, of modification times for bytes."""
        description = f"{self.size} {self.channels} {'' if self.resize == 'stretch' else self.resize}"
        return hashlib.sha256(description.encode() + hash_files(self.paths)).hexdigest()

    def is_deterministic(self) -> bool:
        return True


def _raise_first(errors: Mapping[Path, LimbeckError]) -> NoReturn:
    """Raise the first of ``errors``, with the other paths: replacing one file at a time would take many tries."""
    (_, first), *others = errors.items()
    if not others:
        raise first
    shown = ", ".join(str(path) for path, _ in others[:_MAX_SHOWN_PATHS])
    more = f" and {len(others) - _MAX_SHOWN_PATHS:,} more" if len(others) > _MAX_SHOWN_PATHS else ""
    raise LimbeckError(f"{first}; the same for {shown}{more}") from first


def open_file(path: Path) -> Any:
    """The PIL image in ``path``, whose pixels are not read yet.

    Raises:
        OSError: it is no file, or no image.
        ValueError: it is PostScript, which PIL would give to another program to run.
    """
    from PIL import Image

    image = Image.open(require_regular_file(path))
    if image.format == "EPS":
        image.close()
        raise ValueError("it is PostScript")
    return image


def open_image(path: Path, channels: int) -> Any:
    """The PIL image in ``path``, upright by its EXIF orientation, transparent pixels on white.

    Raises:
        LimbeckError: the file cannot be read, has more than 8 bits per channel, or more pixels than PIL allows.
    """
    from PIL import Image, ImageOps

    try:
        with open_file(path) as file:
            mode, upright = file.mode, ImageOps.exif_transpose(file)
            if upright.has_transparency_data:
                white = Image.new("RGBA", upright.size, "white")
                upright = Image.alpha_composite(white, upright.convert("RGBA"))
            image = upright.convert("L" if channels == 1 else "RGB")
    except Exception as error:  # each decoder raises its own error
        raise LimbeckError(f"the image {path} cannot be read ({error}): replace or remove it") from error
    if mode[0] in "IF":  # PIL would clip everything above 255 to white
        raise LimbeckError(f"the image {path} must have 8 bits per channel, got mode {mode}: convert it")
    return image


def read_image_size(path: Path) -> tuple[int, int]:
    """Height and width of the image in ``path``, upright by its EXIF orientation, without decoding its pixels.

    Raises:
        LimbeckError: the file cannot be read.
    """
    try:
        with open_file(path) as file:
            is_rotated = file.getexif().get(_EXIF_ORIENTATION, 1) >= 5
            return (file.width, file.height) if is_rotated else (file.height, file.width)
    except Exception as error:  # each decoder raises its own error
        raise LimbeckError(f"the image {path} cannot be read ({error}): replace or remove it") from error


def letterbox_size(size: tuple[int, int], new_size: tuple[int, int]) -> tuple[int, int]:
    """Height and width of an image of ``size`` that is resized with its aspect ratio to fit into ``new_size``.

    >>> letterbox_size((480, 640), (320, 320))
    (240, 320)
    """
    scale = min(new_size[0] / size[0], new_size[1] / size[1])
    height, width = (min(max(1, round(side * scale)), limit) for side, limit in zip(size, new_size, strict=True))
    return height, width


def read_image(path: Path, size: tuple[int, int], channels: int) -> Tensor:
    """One image as uint8 ``[channels, height, width]``, resized to cover ``size`` and cropped at its center.

    Raises:
        LimbeckError: as :func:`open_image`, or the resized image would be too large.
    """
    return _to_tensor(_resize_and_crop(open_image(path, channels), path, *size))


def _decode_image(path: Path, size: int | tuple[int, int] | None, channels: int, resize: str) -> Tensor:
    from PIL import Image

    image = open_image(path, channels)
    if isinstance(size, tuple) and resize == "letterbox":
        height, width = letterbox_size((image.height, image.width), size)
        canvas = Image.new(image.mode, size[::-1], _PADDING if channels == 3 else _PADDING[0])
        canvas.paste(image.resize((width, height), Image.Resampling.BILINEAR))
        image = canvas
    elif isinstance(size, tuple):
        image = image.resize(size[::-1], Image.Resampling.BILINEAR)
    elif size is not None:
        image = _resize_and_crop(image, path, size, size)
    return _to_tensor(image)


def _resize_and_crop(image: Any, path: Path, height: int, width: int) -> Any:
    """The PIL image resized to cover ``height`` and ``width``, cropped at its center."""
    from PIL import Image

    scale = max(width / image.size[0], height / image.size[1])
    resized_size = max(width, round(image.size[0] * scale)), max(height, round(image.size[1] * scale))
    if resized_size[0] * resized_size[1] > _MAX_RESIZED_PIXELS:
        size = height if height == width else f"{height}x{width}"
        raise LimbeckError(
            f"the image {path} must have sides of similar length, got {image.size[0]}x{image.size[1]}, which is "
            f"{resized_size[0]}x{resized_size[1]} at size {size}: crop or remove it, or set a smaller size"
        )
    image = image.resize(resized_size, Image.Resampling.BILINEAR)
    left, top = (image.size[0] - width) // 2, (image.size[1] - height) // 2
    return image.crop((left, top, left + width, top + height))


def _to_tensor(image: Any) -> Tensor:
    pixels = torch.from_numpy(np.asarray(image).copy())
    return pixels.unsqueeze(0) if pixels.ndim == 2 else pixels.permute(2, 0, 1).contiguous()
