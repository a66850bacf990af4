"""Splits of images with masks, for the data sources of segmentation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from limbeck.core.errors import LimbeckError
from limbeck.data.groups import groups_of_paths
from limbeck.data.mask_store import MaskFiles
from limbeck.data.module import DataModule, make_splits
from limbeck.data.sources.image_settings import ImageSettings, check_image_size
from limbeck.data.sources.source_file import SourceFile
from limbeck.data.sources.unlabeled_folder import find_unlabeled_folder, list_unlabeled, read_unlabeled
from limbeck.data.split import ImageFiles, InMemory, Split

__all__ = ["MaskPairs", "MaskSettings", "check_mask_settings", "list_mask_files", "load_mask_pairs", "read_mask_size"]

_SPLIT_NAMES = {"train": "training"}


class MaskPairs(NamedTuple):
    """The images and masks of a split.

    Attributes:
        folder: the folder of the images, which paths are relative to in ``group_pattern``.
        pairs: each image with its mask.
    """

    folder: Path
    pairs: Sequence[tuple[Path, Path]]


class MaskSettings(ImageSettings, Protocol):
    """The settings that the data sources of segmentation share."""

    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def ignore_index(self) -> int: ...
    @property
    def class_map(self) -> Mapping[int, int] | None: ...
    @property
    def val_split(self) -> float: ...
    @property
    def test_split(self) -> float: ...


def load_mask_pairs(source: MaskSettings, name: str, splits: Mapping[str, MaskPairs], *, seed: int) -> DataModule:
    """The data of ``source``.

    Args:
        source: its settings.
        name: name of the data set.
        splits: ``train``, and ``validation`` and ``test`` where they are not split off by fraction.
        seed: seed of the splits.
    """
    unlabeled = find_unlabeled_folder(source.unlabeled, splits["train"].folder.parent)
    _require_different_images(splits)
    by_name, first_id = dict[str, Split](), 0
    for split_name, pairs in splits.items():
        by_name[split_name] = _read_split(source, pairs, first_id=first_id)
        first_id += len(by_name[split_name])
    return make_splits(
        name, source.classes, by_name["train"], seed=seed,
        validation=by_name.get("validation", source.val_split), test=by_name.get("test", source.test_split),
        num_labeled=source.num_labeled, num_samples=source.num_samples, augment=source.augment,
        normalize=source.normalize,
        unlabeled=read_unlabeled(
            unlabeled, by_name["train"], labeled=_list_labeled(splits), cache_mb=source.cache_mb
        ),
    )  # fmt: skip


def list_mask_files(source: MaskSettings, splits: Mapping[str, MaskPairs]) -> list[SourceFile]:
    """Every image and mask with its split; those that are split by fraction are in training."""
    unlabeled = find_unlabeled_folder(source.unlabeled, splits["train"].folder.parent)
    return [*_list_labeled(splits), *list_unlabeled(unlabeled)]


def read_mask_size(source: MaskSettings, path: Path) -> tuple[int, int]:
    """Width and height of a mask.

    Raises:
        LimbeckError: it cannot be read, or has a value that is no class.
    """
    height, width = _open_masks(source, (), size=None).read_one(path).shape
    return width, height


def check_mask_settings(source: MaskSettings) -> None:
    """Refuse settings that fit no masks."""
    names, class_map = source.classes, source.class_map
    num_classes = len(names)
    if len(set(names)) < num_classes:
        raise LimbeckError(f"classes must be different names, got {', '.join(names)}: rename one")
    if num_classes < 2 or (class_map is None and 0 <= source.ignore_index < num_classes):
        raise LimbeckError(
            f"classes must be two or more names and ignore_index none of their indices, got {source.classes} and "
            f"{source.ignore_index}"
        )
    if class_map is not None and not all(isinstance(x, int) for x in (*class_map, *class_map.values())):
        raise LimbeckError(f"class_map must map integers to integers, got {dict(class_map)}: correct it")
    if class_map is not None and not all(0 <= key < 2**16 for key in class_map):
        raise LimbeckError(f"keys of class_map must be values of pixels, 0 to 65535, got {sorted(class_map)}: fix them")
    if class_map is not None and (not class_map or not all(0 <= value < num_classes for value in class_map.values())):
        raise LimbeckError(
            f"class_map must map values of pixels to class indices from 0 to {num_classes - 1}, got "
            f"{dict(class_map)}: leave out values without a class"
        )
    check_image_size(source.size)


def _require_different_images(splits: Mapping[str, MaskPairs]) -> None:
    """Refuse an image that is listed twice, which would be trained on and measured."""
    users = dict[Path, str]()
    for split_name, split in splits.items():
        for image, _ in split.pairs:
            if image in users:
                raise LimbeckError(
                    f"an image must be in one split once, got {image} in {users[image]} and {split_name}: correct the "
                    "lists of images"
                )
            users[image] = split_name


def _list_labeled(splits: Mapping[str, MaskPairs]) -> list[SourceFile]:
    return [
        SourceFile(path, _SPLIT_NAMES.get(split_name, split_name), None, kind)
        for split_name, split in splits.items()
        for kind, paths in zip(("image", "mask"), zip(*split.pairs, strict=True), strict=True)
        for path in paths
    ]


def _read_split(source: MaskSettings, split: MaskPairs, *, first_id: int) -> Split:
    paths = [image for image, _ in split.pairs]
    images = ImageFiles(tuple(paths), source.size, 3)
    masks = _open_masks(source, tuple(mask for _, mask in split.pairs), size=source.size)
    groups = groups_of_paths(paths, source.group_pattern, split.folder)
    if images.read_uint8([0]).numel() * len(paths) > source.cache_mb * 2**20:
        return Split.from_masks(images, masks, first_id=first_id, groups=groups)
    in_memory = InMemory(images.read_uint8(range(len(paths))))
    return Split.from_masks(in_memory, masks.in_memory(), first_id=first_id, groups=groups)


def _open_masks(source: MaskSettings, paths: tuple[Path, ...], *, size: tuple[int, int] | None) -> MaskFiles:
    names = source.classes
    return MaskFiles(paths, size, source.ignore_index, len(names), source.class_map)
