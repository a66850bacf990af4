"""Folders of images and masks."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch

from limbeck.core.errors import LimbeckError
from limbeck.core.limits import MAX_INPUT_SIZE
from limbeck.data.augmentation import Augmentation
from limbeck.data.groups import groups_of_paths
from limbeck.data.image_files import list_image_files
from limbeck.data.mask_store import MaskFiles, MasksInMemory
from limbeck.data.module import DataModule, NormalizeMode, make_splits
from limbeck.data.sources.lookup import DataNotFoundError, candidate_folders
from limbeck.data.sources.source_file import SourceFile
from limbeck.data.sources.unlabeled_folder import find_unlabeled_folder, list_unlabeled, read_unlabeled
from limbeck.data.split import ImageFiles, InMemory, Split

__all__ = ["SegmentationFolder"]

_LAYOUTS = (("{split}", "{split}annot"), ("images/{split}", "annotations/{split}"), ("images/{split}", "masks/{split}"))
_FOLDERS = {"train": ("train", "training"), "validation": ("val", "validation", "valid"), "test": ("test",)}


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentationFolder:
    """Images with a mask each: ``train/`` and ``trainannot/`` as in CamVid, or ``images/train/`` and
    ``annotations/train/`` (or ``masks/train/``); the same for ``val`` and ``test``.

    A mask has the name of its image, and one channel whose values are class indices.

    Args:
        root: the folder, or its parent with ``name``; ``None``: ``$LIMBECK_DATA``.
        name: name of the data set, and of its folder.
        classes: names of the classes, by index.
        ignore_index: value of pixels without a class.
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
        if len(self.classes) < 2 or 0 <= self.ignore_index < len(self.classes):
            raise LimbeckError(
                f"classes must be two or more names and ignore_index none of their indices, got {self.classes} and "
                f"{self.ignore_index}"
            )
        if self.size is not None and not 1 <= min(self.size) <= max(self.size) <= MAX_INPUT_SIZE:
            raise LimbeckError(f"size must be height and width from 1 to {MAX_INPUT_SIZE}, got {self.size}")
        folders = self._find_folders()
        unlabeled = find_unlabeled_folder(self.unlabeled, folders["train"][0].parent)
        splits, first_id = dict[str, Split](), 0
        for split_name, (images, masks) in folders.items():
            splits[split_name] = self._read_split(images, masks, first_id=first_id)
            first_id += len(splits[split_name])
        return make_splits(
            self.name, self.classes, splits["train"], seed=seed, validation=splits.get("validation", self.val_split),
            test=splits.get("test", self.test_split), num_labeled=self.num_labeled, num_samples=self.num_samples,
            augment=self.augment, normalize=self.normalize,
            unlabeled=read_unlabeled(
                unlabeled, splits["train"], labeled=self._list_labeled(folders), cache_mb=self.cache_mb
            ),
        )  # fmt: skip

    def list_files(self) -> list[SourceFile]:
        """Every image and mask with its split; those of a folder that is split by fraction are in training."""
        folders = self._find_folders()
        unlabeled = find_unlabeled_folder(self.unlabeled, folders["train"][0].parent)
        return [*self._list_labeled(folders), *list_unlabeled(unlabeled)]

    def _list_labeled(self, folders: Mapping[str, tuple[Path, Path]]) -> list[SourceFile]:
        names = {"train": "training"}
        return [
            SourceFile(path, names.get(split_name, split_name), None, kind)
            for split_name, pair in folders.items()
            for kind, paths in zip(("image", "mask"), zip(*_pair_files(*pair), strict=True), strict=True)
            for path in paths
        ]

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

    def _read_split(self, images: Path, masks: Path, *, first_id: int) -> Split:
        pairs = _pair_files(images, masks)
        paths = [image for image, _ in pairs]
        image_files = ImageFiles(tuple(paths), self.size, 3)
        mask_files = MaskFiles(tuple(mask for _, mask in pairs), self.size, self.ignore_index)
        groups = groups_of_paths(paths, self.group_pattern, images)
        if image_files.read_uint8([0]).numel() * len(paths) > self.cache_mb * 2**20:
            return Split.from_masks(image_files, mask_files, first_id=first_id, groups=groups)
        every = range(len(paths))
        values = mask_files.read_uint8(every)
        self._check_values(torch.unique(values).tolist(), masks)
        in_memory = InMemory(image_files.read_uint8(every)), MasksInMemory(values, self.ignore_index)
        return Split.from_masks(*in_memory, first_id=first_id, groups=groups)

    def _check_values(self, values: list[int], masks: Path) -> None:
        wrong = [value for value in values if value >= len(self.classes) and value != self.ignore_index]
        if wrong:
            raise LimbeckError(
                f"masks must have values below {len(self.classes)}, the number of classes, or ignore_index "
                f"{self.ignore_index}, got {wrong[0]} in {masks}; set ignore_index, or add classes"
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
