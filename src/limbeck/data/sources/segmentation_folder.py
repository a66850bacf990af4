"""Folders of images and masks."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

from limbeck.core.errors import LimbeckError
from limbeck.data.augmentation import Augmentation
from limbeck.data.image_files import list_image_files
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

__all__ = ["SegmentationFolder"]

_LAYOUTS = (("{split}", "{split}annot"), ("images/{split}", "annotations/{split}"), ("images/{split}", "masks/{split}"))
_FOLDERS = {"train": ("train", "training"), "validation": ("val", "validation", "valid"), "test": ("test",)}


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentationFolder:
    """Images with a mask each: ``train/`` and ``trainannot/`` as in CamVid, or ``images/train/`` and
    ``annotations/train/`` (or ``masks/train/``); the same for ``val`` and ``test``.

    A mask has the name of its image, and one channel whose values are class indices (gray of 1 to 16 bits, or
    palette). A value that is no class is an error with the name of the file.

    Args:
        root: the folder, or its parent with ``name``; ``None``: ``$LIMBECK_DATA``.
        name: name of the data set, and of its folder.
        classes: names of the classes, by index.
        ignore_index: value of pixels without a class; not used with ``class_map``.
        class_map: the class index of each value of the masks, such as ``{7: 0, 8: 1}``; all other values have no class.
            ``None``: values are class indices.
        size: height and width that images and masks are resized to; ``None``: unchanged.
        val_split: validation fraction of the training split where there is no folder ``val``.
        test_split: test fraction of the training split where there is no folder ``test``.
        group_pattern: regular expression over the name of an image, whose first group (or match) names what is in one
            split only, such as ``"[^_]+"`` for the video in ``0001TP_006690.png``; ``None``: no groups.
        unlabeled: a folder in that of the images, or a path, with further training images without a mask; see
            :class:`~limbeck.data.Digits`.
        cache_mb: size in megabytes up to which the decoded images of a split are held in memory.

    Other settings as :class:`~limbeck.data.Digits`; transforms must transform masks too.
    """

    root: str | None = None
    name: str = "segmentation"
    classes: tuple[str, ...]
    ignore_index: int = 255
    class_map: Mapping[int, int] | None = None
    size: tuple[int, int] | None = None
    num_labeled: int | None = None
    num_samples: int | None = None
    val_split: float = 0.2
    test_split: float = 0.2
    group_pattern: str | None = None
    unlabeled: str | None = None
    cache_mb: int = 1024
    augment: Augmentation = Augmentation()
    normalize: NormalizeMode = "data"

    def load(self, *, seed: int = 0) -> DataModule:
        """The data; folders ``val`` and ``test`` are used as they are."""
        return load_mask_pairs(self, self.name, self._find_pairs(), seed=seed)

    def list_files(self) -> list[SourceFile]:
        """Every image and mask with its split; those of a folder that is split by fraction are in training."""
        return list_mask_files(self, self._find_pairs())

    def read_mask_size(self, path: Path) -> tuple[int, int]:
        """Width and height of a mask; an error where it has a value that is no class."""
        return read_mask_size(self, path)

    def _find_pairs(self) -> dict[str, MaskPairs]:
        check_mask_settings(self)
        return {
            split_name: MaskPairs(images, _pair_files(images, masks))
            for split_name, (images, masks) in self._find_folders().items()
        }

    def _find_folders(self) -> dict[str, tuple[Path, Path]]:
        """The folders of images and masks by split."""
        for root in candidate_folders(self.root, self.name):
            for image_pattern, mask_pattern in _LAYOUTS:
                folders = {
                    split: (root / image_pattern.format(split=name), root / mask_pattern.format(split=name))
                    for split, names in _FOLDERS.items()
                    for name in names
                    if (root / mask_pattern.format(split=name)).is_dir()
                }
                if "train" in folders:
                    return folders
        where = self.root or f"$LIMBECK_DATA, or set data.root, for {self.name}"
        raise DataNotFoundError(
            f"there must be folders train and trainannot, or images/train and annotations/train, in {where}"
        )


def _pair_files(images: Path, masks: Path) -> list[tuple[Path, Path]]:
    """Each image with its mask."""
    paths, by_stem = list_image_files(images, nested=False), defaultdict[str, list[Path]](list)
    for path in list_image_files(masks, nested=False):
        by_stem[path.stem].append(path)
    missing = [path.name for path in paths if path.stem not in by_stem]
    if missing or not paths:
        problem = f"{len(missing)} without, such as {missing[0]}" if missing else "no image"
        raise LimbeckError(f"each image in {images} must have a mask of its name in {masks}, got {problem}")
    if unused := sorted(by_stem.keys() - {path.stem for path in paths}):
        warnings.warn(
            f"{len(unused)} masks in {masks} have no image in {images} and are not used, such as {unused[0]}",
            stacklevel=4,
        )
    return [(path, by_stem[path.stem][-1]) for path in paths]
