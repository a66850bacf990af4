"""Folders of images, one folder per class."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch

from limbeck.core.errors import LimbeckError, suggest_names
from limbeck.core.limits import MAX_INPUT_SIZE
from limbeck.data.augmentation import Augmentation
from limbeck.data.groups import groups_of_paths
from limbeck.data.module import DataModule, NormalizeMode, make_splits
from limbeck.data.split import ImageFiles, InMemory, Split

__all__ = ["IMG_EXTENSIONS", "ImageFolder", "list_class_folders"]

IMG_EXTENSIONS = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".pgm", ".ppm", ".tif", ".tiff"}
_VALIDATION_FOLDERS, _TEST_FOLDERS = ("val", "validation", "valid"), ("test",)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFolder:
    """A folder of images: ``root/<class>/…``, or ``root/{train,val,test}/<class>/…``.

    Args:
        root: the folder.
        size: shorter side after resizing, before a center crop; ``None``: images are unchanged and have one size.
        channels: 3 for color, 1 for gray.
        classes: the class folders to use; ``None``: all.
        val_split: a fraction of the training split, or a folder in ``root``; ``None``: the folder ``val`` or
            ``validation`` if it exists, else 0.2.
        test_split: a fraction, or a folder in ``root``, such as ``val`` for ImageNet; ``None``: the folder ``test`` if
            it exists, else 0.2.
        group_pattern: regular expression over the path of a file in ``root``, whose first group (or match) names what
            is in one split only, such as ``"([0-9]+)_"`` for a person in ``cat/17_3.jpg``; ``None``: no groups.
        cache_mb: size in megabytes up to which the decoded images of a split are held in memory.

    Other settings as :class:`~limbeck.data.Digits`.
    """

    root: str
    size: int | None = None
    channels: int = 3
    classes: tuple[str, ...] | None = None
    num_labeled: int | None = None
    num_samples: int | None = None
    val_split: float | str | None = None
    test_split: float | str | None = None
    group_pattern: str | None = None
    cache_mb: int = 1024
    augment: Augmentation = Augmentation()
    normalize: NormalizeMode = "imagenet"

    def load(self, *, seed: int = 0) -> DataModule:
        """The data, with the classes in alphabetical order."""
        root = Path(self.root)
        if not root.is_dir():
            raise LimbeckError(f"there is no folder {root.resolve()}: set data.root to a folder of class folders")
        if (self.size is not None and not 1 <= self.size <= MAX_INPUT_SIZE) or self.channels not in (1, 3):
            raise LimbeckError(
                f"size must be from 1 to {MAX_INPUT_SIZE} and channels 1 or 3, got {self.size} and {self.channels}"
            )
        train = root / "train" if (root / "train").is_dir() else root
        classes = self._select_classes(list_class_folders(train))
        if train == root and set(classes) <= {*_VALIDATION_FOLDERS, *_TEST_FOLDERS}:
            raise LimbeckError(f"{root.resolve()} must have a train folder, got only {', '.join(classes)}")
        train_split = self._read_split(train, classes, first_id=0)
        if empty := [name for label, name in enumerate(classes) if not (train_split.target == label).any()]:
            raise LimbeckError(f"the class folder {train / empty[0]} has no image: add images, or remove it")
        splits = self._load_splits(root, train, classes, len(train_split))
        data = make_splits(
            root.resolve().name, classes, train_split, seed=seed, validation=splits["validation"],
            test=splits["test"], num_labeled=self.num_labeled, num_samples=self.num_samples, augment=self.augment,
            normalize=self.normalize,
        )  # fmt: skip
        self._warn(train, root, classes, data)
        return data

    def _warn(self, train: Path, root: Path, classes: Sequence[str], data: DataModule) -> None:
        """Warnings of classes without a training or validation sample, and of files that are in two splits."""
        for kind, split in (("training", data.train), ("validation", data.validation)):
            missing = [name for label, name in enumerate(classes) if not (split.target == label).any()]
            if missing:
                more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
                warnings.warn(
                    f"no {kind} image is of the class {missing[0]!r}{more}: the class has too few images to split",
                    stacklevel=3,
                )
        if train == root:
            return
        digests = {digest: path for path in _image_paths(train) if (digest := _cheap_digest(path))}
        for name in (*_VALIDATION_FOLDERS, *_TEST_FOLDERS):
            for path in _image_paths(root / name) if (root / name).is_dir() else ():
                twin = digests.get(_cheap_digest(path))
                if twin is not None and twin.read_bytes() == path.read_bytes():
                    warnings.warn(
                        f"{path} is the same image as {twin}: metrics on an image that was trained on are too good; "
                        "remove one of them",
                        stacklevel=3,
                    )
                    return

    def _load_splits(self, root: Path, train: Path, classes: list[str], first_id: int) -> dict[str, Split | float]:
        """The validation and test split, each read from its folder, or as a fraction."""
        splits: dict[str, Split | float] = {}
        split_by_folder = {train.resolve(): "train"}
        for split_name, key, setting, other_setting, default_folders in (
            ("validation", "val_split", self.val_split, self.test_split, _VALIDATION_FOLDERS),
            ("test", "test_split", self.test_split, self.val_split, _TEST_FOLDERS),
        ):
            if isinstance(setting, str):
                if train == root:
                    raise LimbeckError(f"`{key}: {setting}` needs a train folder, and {root} has none: set a fraction")
                if not (root / setting).is_dir():
                    names = suggest_names(setting, list_class_folders(root))
                    raise LimbeckError(f"{root} has no folder {setting!r}; it has: {names}")
            # A folder that was set for the other split is not this split's default.
            names_of_other = Path(other_setting) if isinstance(other_setting, str) else None
            defaults = [root / n for n in default_folders if Path(n) != names_of_other and (root / n).is_dir()]
            if isinstance(setting, float | int) or (setting is None and (train == root or not defaults)):
                splits[split_name] = 0.2 if setting is None else float(setting)
                continue
            folder = defaults[0] if setting is None else root / setting
            if (user := split_by_folder.setdefault(folder.resolve(), split_name)) != split_name:
                raise LimbeckError(f"`{key}: {folder.name}` is the {user} folder: a sample belongs to one split only")
            splits[split_name] = split = self._read_split(folder, classes, first_id=first_id)
            first_id += len(split)
        return splits

    def _select_classes(self, folders: list[str]) -> list[str]:
        if self.classes is None:
            return folders
        for name in self.classes:
            if name not in folders:
                raise LimbeckError(
                    f"classes: {self.root} has no class folder {name!r}; it has: {suggest_names(name, folders)}"
                )
        if len(set(self.classes)) < max(2, len(self.classes)):
            raise LimbeckError(f"classes must be at least two different folders, got {', '.join(self.classes)}")
        return [name for name in folders if name in self.classes]

    def _read_split(self, folder: Path, classes: list[str], *, first_id: int) -> Split:
        if self.classes is None and (unknown := sorted(set(list_class_folders(folder)) - set(classes))):
            raise LimbeckError(f"{folder} has classes that the training split does not have: {', '.join(unknown[:5])}")
        paths, target = list[Path](), list[int]()
        for label, name in enumerate(classes):
            if (folder / name).is_dir():
                files = _image_paths(folder / name)
                paths += files
                target += [label] * len(files)
        if not paths:
            raise LimbeckError(f"there is no image in {folder.resolve()}: add <class>/*.jpg (or png, bmp, webp …)")
        images = ImageFiles(tuple(paths), self.size, self.channels)
        fits_memory = images.read_uint8([0]).numel() * len(images) <= self.cache_mb * 2**20
        store = InMemory(images.read_uint8(range(len(images)))) if fits_memory else images
        groups = groups_of_paths(paths, self.group_pattern, Path(self.root))
        return Split.from_images(store, torch.tensor(target), first_id=first_id, groups=groups)


def _image_paths(folder: Path) -> list[Path]:
    """The image files in ``folder`` and below, without hidden ones."""
    return sorted(
        path for path in folder.rglob("*") if path.suffix.lower() in IMG_EXTENSIONS and not path.name.startswith(".")
    )


def _cheap_digest(path: Path) -> tuple[int, bytes]:
    """Size and first bytes, which differ for nearly all different images."""
    with path.open("rb") as file:
        return path.stat().st_size, file.read(4096)


def list_class_folders(folder: Path) -> list[str]:
    """The sorted names of the folders in ``folder``."""
    names = sorted(item.name for item in folder.iterdir() if item.is_dir() and not item.name.startswith("."))
    if not names:
        raise LimbeckError(f"{folder.resolve()} must have one folder per class, got none")
    return names
