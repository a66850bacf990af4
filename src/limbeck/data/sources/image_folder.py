"""Folders of images, one folder per class."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Final, final

import torch

from limbeck.core.errors import LimbeckError, suggest_names
from limbeck.core.limits import MAX_INPUT_SIZE
from limbeck.data.augmentation import Augmentation
from limbeck.data.groups import groups_of_paths
from limbeck.data.image_files import list_image_files
from limbeck.data.module import DataModule, NormalizeMode, make_splits
from limbeck.data.sources.lookup import require_folder
from limbeck.data.sources.source_file import SourceFile, find_duplicate_files
from limbeck.data.sources.unlabeled_folder import find_unlabeled_folder, list_unlabeled, read_unlabeled
from limbeck.data.split import ImageFiles, InMemory, Split

__all__ = ["ImageFolder", "list_class_folders"]

_VALIDATION_FOLDERS, _TEST_FOLDERS = ("val", "validation", "valid"), ("test",)
_UNLABELED_NAMES: Final = ("unlabeled", "unlabelled", "unsupervised", "unsup")


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
        unlabeled: a folder in ``root``, or a path, with further training images without a label, in subfolders of any
            kind; resized and cropped to the size of the others.
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
    unlabeled: str | None = None
    cache_mb: int = 1024
    augment: Augmentation = Augmentation()
    normalize: NormalizeMode = "imagenet"

    def load(self, *, seed: int = 0) -> DataModule:
        """The data, with the classes in alphabetical order.

        Raises:
            LimbeckError: a folder is missing or empty, an image cannot be read, or a folder of a class has the name
                ``unlabeled``.

        Warns:
            UserWarning: of images that are not used, classes that a split lacks, and files that are in two splits.
        """
        if (self.size is not None and not 1 <= self.size <= MAX_INPUT_SIZE) or self.channels not in (1, 3):
            raise LimbeckError(
                f"size must be from 1 to {MAX_INPUT_SIZE} and channels 1 or 3, got {self.size} and {self.channels}"
            )
        root = require_folder(self.root, "a folder of class folders")
        unlabeled = find_unlabeled_folder(self.unlabeled, root)
        classes, folders = self._find_folders(root, unlabeled)
        files = {name: self._list_split(name, folder, classes, unlabeled) for name, folder in folders.items()}
        if empty := [name for name in classes if all(file.class_name != name for file in files["training"])]:
            folder = folders["training"] / empty[0]
            raise LimbeckError(f"the class folder {folder} has no image: add images, or remove it")
        splits, first_id = dict[str, Split](), 0
        for name, split_files in files.items():
            splits[name] = self._read_split(split_files, classes, first_id=first_id)
            first_id += len(split_files)
        labeled = list(chain(*files.values()))
        data = make_splits(
            root.resolve().name, classes, splits["training"], seed=seed,
            validation=splits.get("validation", _fraction(self.val_split)),
            test=splits.get("test", _fraction(self.test_split)), num_labeled=self.num_labeled,
            num_samples=self.num_samples, augment=self.augment, normalize=self.normalize,
            unlabeled=read_unlabeled(unlabeled, splits["training"], labeled=labeled, cache_mb=self.cache_mb),
        )  # fmt: skip
        _warn_of_missing_classes(classes, data)
        _warn_of_unused_images(root, folders, unlabeled)
        for first, second in find_duplicate_files([*labeled, *list_unlabeled(unlabeled)])[:1]:
            warnings.warn(
                f"{second.path} is the same image as {first.path}: metrics on an image that was trained on are too "
                "good; remove one of them (`limbeck data check` lists all)",
                stacklevel=2,
            )
        return data

    def list_files(self) -> list[SourceFile]:
        """Every image with its split and class; those of a folder that is split by fraction are in training."""
        root = require_folder(self.root, "a folder of class folders")
        unlabeled = find_unlabeled_folder(self.unlabeled, root)
        classes, folders = self._find_folders(root, unlabeled)
        _warn_of_unused_images(root, folders, unlabeled)
        files = [self._list_split(name, folder, classes, unlabeled) for name, folder in folders.items()]
        return [*chain(*files), *list_unlabeled(unlabeled)]

    def _find_folders(self, root: Path, unlabeled: Path | None) -> tuple[list[str], dict[str, Path]]:
        """The classes, and the folder of each split that has one."""
        train = root / "train" if (root / "train").is_dir() else root
        classes = self._select_classes(_class_folders(train, unlabeled), train)
        if train == root and set(classes) <= {*_VALIDATION_FOLDERS, *_TEST_FOLDERS}:
            raise LimbeckError(f"{root.resolve()} must have a train folder, got only {', '.join(classes)}")
        folders = {"training": train}
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
                continue
            folder = defaults[0] if setting is None else root / setting
            users = [name for name, used in folders.items() if used.resolve() == folder.resolve()]
            if users:
                user = "train" if users[0] == "training" else users[0]
                raise LimbeckError(f"`{key}: {folder.name}` is the {user} folder: a sample belongs to one split only")
            folders[split_name] = folder
        return classes, folders

    def _select_classes(self, folders: list[str], train: Path) -> list[str]:
        if self.classes is None:
            if wrong := [name for name in folders if name.lower() in _UNLABELED_NAMES]:
                raise LimbeckError(
                    f"the folder {train / wrong[0]} would be a class named {wrong[0]!r}: set data.unlabeled to it to "
                    "train on its images without a label, or list it in data.classes if it is a class"
                )
            return folders
        for name in self.classes:
            if name not in folders:
                raise LimbeckError(
                    f"classes: {self.root} has no class folder {name!r}; it has: {suggest_names(name, folders)}"
                )
        if len(set(self.classes)) < max(2, len(self.classes)):
            raise LimbeckError(f"classes must be at least two different folders, got {', '.join(self.classes)}")
        return [name for name in folders if name in self.classes]

    def _list_split(
        self, split_name: str, folder: Path, classes: list[str], unlabeled: Path | None
    ) -> list[SourceFile]:
        """The images of the classes in ``folder``."""
        names = _class_folders(folder, unlabeled if split_name == "training" else None)
        if self.classes is None and (unknown := sorted(set(names) - set(classes))):
            raise LimbeckError(f"{folder} has classes that the training split does not have: {', '.join(unknown[:5])}")
        files = [
            SourceFile(path, split_name, name)
            for name in classes if name in names
            for path in list_image_files(folder / name)
        ]  # fmt: skip
        if not files:
            raise LimbeckError(f"there is no image in {folder.resolve()}: add <class>/*.jpg (or png, bmp, webp …)")
        return files

    def _read_split(self, files: Sequence[SourceFile], classes: list[str], *, first_id: int) -> Split:
        paths, index = tuple(file.path for file in files), {name: label for label, name in enumerate(classes)}
        images = ImageFiles(paths, self.size, self.channels)
        fits_memory = images.read_uint8([0]).numel() * len(images) <= self.cache_mb * 2**20
        store = InMemory(images.read_uint8(range(len(images))), images.paths) if fits_memory else images
        groups = groups_of_paths(paths, self.group_pattern, Path(self.root))
        target = torch.tensor([index[str(file.class_name)] for file in files])
        return Split.from_images(store, target, first_id=first_id, groups=groups)


def _fraction(setting: float | str | None) -> float:
    return float(setting) if isinstance(setting, float | int) else 0.2


def _warn_of_missing_classes(classes: Sequence[str], data: DataModule) -> None:
    """Warn of classes without a training or validation sample."""
    for kind, split in (("training", data.train), ("validation", data.validation)):
        missing = [name for label, name in enumerate(classes) if not (split.target == label).any()]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            warnings.warn(
                f"no {kind} image is of the class {missing[0]!r}{more}: the class has too few images to split",
                stacklevel=3,
            )


def _warn_of_unused_images(root: Path, folders: Mapping[str, Path], unlabeled: Path | None) -> None:
    """Warn of images beside the class folders, and of folders with images beside those of the splits."""
    for folder in dict.fromkeys([root, *folders.values()]):
        loose = list_image_files(folder, nested=False)
        if loose and folder != unlabeled:
            warnings.warn(
                f"{len(loose)} images in {folder} are in no class folder and are not used, such as "
                f"{min(loose).name}: move them to a class, or to a folder for data.unlabeled",
                stacklevel=3,
            )
    if root in folders.values():
        return
    used = {folder.resolve() for folder in (*folders.values(), *([] if unlabeled is None else [unlabeled]))}
    for folder in sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")):
        is_used = any(folder.resolve() in (path, *path.parents) for path in used)
        if not is_used and (num_images := len(list_image_files(folder))):
            warnings.warn(
                f"{num_images} images in {folder} are in no split and are not used: set data.unlabeled to train on "
                "them without labels, or val_split or test_split",
                stacklevel=3,
            )


def _class_folders(folder: Path, unlabeled: Path | None) -> list[str]:
    """The class folders in ``folder``, without that of the unlabeled images."""
    skipped = None if unlabeled is None else unlabeled.resolve()
    return [name for name in list_class_folders(folder) if (folder / name).resolve() != skipped]


def list_class_folders(folder: Path) -> list[str]:
    """The sorted names of the folders in ``folder``."""
    names = sorted(item.name for item in folder.iterdir() if item.is_dir() and not item.name.startswith("."))
    if not names:
        raise LimbeckError(f"{folder.resolve()} must have one folder per class, got none")
    return names
