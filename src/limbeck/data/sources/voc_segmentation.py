"""Pascal VOC segmentation (Everingham et al., IJCV 2010, http://host.robots.ox.ac.uk/pascal/VOC/)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import ClassVar, final

from limbeck.core.errors import LimbeckError
from limbeck.data.augmentation import Augmentation
from limbeck.data.module import DataModule, NormalizeMode
from limbeck.data.sources.lookup import DataNotFoundError, candidate_folders
from limbeck.data.sources.mask_pairs import (
    MaskPairs,
    check_mask_settings,
    list_mask_files,
    load_mask_pairs,
    read_mask_size,
)
from limbeck.data.sources.source_file import SourceFile
from limbeck.utils.io import is_file, read_text

__all__ = ["VOCSegmentation"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class VOCSegmentation:
    """Pascal VOC with its 20 classes and background, in the layout of ``torchvision.datasets.VOCSegmentation``:
    ``VOCdevkit/VOC2012`` with ``JPEGImages``, ``SegmentationClass`` and ``ImageSets/Segmentation``.

    The masks of its test split are not public, so its ``val`` is the test split here, and the validation split is split
    off ``train``. Pixels at borders of objects have no class.

    Args:
        root: the folder with ``VOCdevkit``, or that of the year; ``None``: ``$LIMBECK_DATA``.
        year: the year, which names the folder.
        size: height and width that images and masks are resized to, since images differ in size.
        val_split: validation fraction of ``train``.

    Other settings as :class:`SegmentationFolder`.
    """

    classes: ClassVar = (
        "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
        "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
    )  # fmt: skip
    ignore_index: ClassVar = 255
    class_map: ClassVar[Mapping[int, int] | None] = None
    test_split: ClassVar = 0.2

    root: str | None = None
    year: str = "2012"
    size: tuple[int, int] | None = (256, 256)
    num_labeled: int | None = None
    num_samples: int | None = None
    val_split: float = 0.2
    group_pattern: str | None = None
    unlabeled: str | None = None
    cache_mb: int = 1024
    augment: Augmentation = Augmentation()
    normalize: NormalizeMode = "imagenet"

    def load(self, *, seed: int = 0) -> DataModule:
        """The data."""
        return load_mask_pairs(self, f"voc{self.year}", self._find_pairs(), seed=seed)

    def list_files(self) -> list[SourceFile]:
        """Every image and mask of ``train`` (in training) and ``val`` (in test)."""
        return list_mask_files(self, self._find_pairs())

    def read_mask_size(self, path: Path) -> tuple[int, int]:
        """Width and height of a mask; an error where it has a value that is no class."""
        return read_mask_size(self, path)

    def _find_pairs(self) -> dict[str, MaskPairs]:
        check_mask_settings(self)
        year = f"VOC{self.year}"
        for root in candidate_folders(self.root, "VOCdevkit", f"VOCdevkit/{year}", year):
            if (root / "SegmentationClass").is_dir() and (root / "ImageSets" / "Segmentation").is_dir():
                return {name: _pair_files(root, split) for name, split in (("train", "train"), ("test", "val"))}
        where = self.root or f"$LIMBECK_DATA, or set data.root, for {year}"
        raise DataNotFoundError(
            f"there must be folders JPEGImages, SegmentationClass and ImageSets/Segmentation of {year} in {where}"
        )


def _pair_files(root: Path, split: str) -> MaskPairs:
    list_file, folder = root / "ImageSets" / "Segmentation" / f"{split}.txt", root / "JPEGImages"
    if not list_file.is_file():
        raise DataNotFoundError(f"there is no file {list_file}, which lists the images of {split}: extract it")
    names = read_text(list_file).split()
    if wrong := [name for name in names if PurePath(name).name != name]:
        raise LimbeckError(f"{list_file} must list names of images, got {wrong[0][:40]!r}: correct it")
    pairs = [(folder / f"{name}.jpg", root / "SegmentationClass" / f"{name}.png") for name in names]
    missing = [path for pair in pairs for path in pair if not is_file(path)]
    if missing or not pairs:
        problem = f"no file {missing[0]}" if missing else "no name"
        raise LimbeckError(f"each name in {list_file} must have an image and a mask, got {problem}: extract all files")
    return MaskPairs(folder, pairs)
