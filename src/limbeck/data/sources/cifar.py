"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009), in torchvision's layout or as folders of images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch

from limbeck.core.errors import LimbeckError
from limbeck.data.augmentation import Augmentation
from limbeck.data.module import DataModule, NormalizeMode, make_splits
from limbeck.data.sources.image_folder import ImageFolder, list_class_folders
from limbeck.data.sources.lookup import candidate_folders, download_dataset, download_root
from limbeck.data.sources.source_file import SourceFile
from limbeck.data.sources.unlabeled_folder import find_unlabeled_folder, read_unlabeled
from limbeck.data.split import InMemory, Split

__all__ = ["CIFAR10", "CIFAR100"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class CIFAR10:
    """CIFAR-10, 50,000 + 10,000 images in 10 classes, 32×32.

    Args:
        root: parent of ``cifar-10-batches-py``, or of ``train/<class>/…`` and ``test/<class>/…``; ``None``:
            ``$LIMBECK_DATA``, or a download to ``~/.cache/limbeck``.
        val_split: validation fraction of the official training split.
        unlabeled: see :class:`~limbeck.data.Digits`.

    Other settings as :class:`~limbeck.data.Digits`.
    """

    root: str | None = None
    num_labeled: int | None = None
    num_samples: int | None = None
    val_split: float = 0.1
    unlabeled: str | None = None
    augment: Augmentation = Augmentation()
    normalize: NormalizeMode = "data"

    def load(self, *, seed: int = 0) -> DataModule:
        """The data; the official test split is held out."""
        return _load_cifar(self, "CIFAR10", 10, archive="cifar-10-batches-py", seed=seed)

    def list_files(self) -> list[SourceFile]:
        """The images where they are files; see :meth:`ImageFolder.list_files`."""
        folder = _find_image_folder(self, "CIFAR10", 10)
        return [] if folder is None else folder.list_files()


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class CIFAR100:
    """CIFAR-100, 50,000 + 10,000 images in 100 classes, 32×32. Settings as :class:`CIFAR10`."""

    root: str | None = None
    num_labeled: int | None = None
    num_samples: int | None = None
    val_split: float = 0.1
    unlabeled: str | None = None
    augment: Augmentation = Augmentation()
    normalize: NormalizeMode = "data"

    def load(self, *, seed: int = 0) -> DataModule:
        """The data; the official test split is held out."""
        return _load_cifar(self, "CIFAR100", 100, archive="cifar-100-python", seed=seed)

    def list_files(self) -> list[SourceFile]:
        """The images where they are files; see :meth:`ImageFolder.list_files`."""
        folder = _find_image_folder(self, "CIFAR100", 100)
        return [] if folder is None else folder.list_files()


def _find_image_folder(source: CIFAR10 | CIFAR100, name: str, classes: int) -> ImageFolder | None:
    """The data as folders of images, if they are."""
    for folder in candidate_folders(source.root, name.lower()):
        if (folder / "train").is_dir():
            if (num_folders := len(list_class_folders(folder / "train"))) != classes:
                raise LimbeckError(
                    f"{folder.resolve()} must have {classes} classes for {name}, got {num_folders}: set data.root, or "
                    "use ImageFolder"
                )
            return ImageFolder(
                root=str(folder), num_labeled=source.num_labeled, num_samples=source.num_samples,
                val_split=source.val_split, test_split="test", unlabeled=source.unlabeled, augment=source.augment,
                normalize=source.normalize,
            )  # fmt: skip
    return None


def _load_cifar(source: CIFAR10 | CIFAR100, name: str, classes: int, *, archive: str, seed: int) -> DataModule:
    if (image_folder := _find_image_folder(source, name, classes)) is not None:
        return image_folder.load(seed=seed)
    unlabeled = find_unlabeled_folder(source.unlabeled, source.root)
    from torchvision import datasets

    folders = [folder for folder in candidate_folders(source.root) if (folder / archive).is_dir()]
    root = folders[0] if folders else download_root(source.root)
    train_data, test_data = download_dataset(
        name, "put its folder under data.root",
        lambda: [getattr(datasets, name)(str(root), train=is_train, download=True) for is_train in (True, False)],
    )  # fmt: skip
    train, test = (
        Split.from_images(
            InMemory(torch.from_numpy(dataset.data).permute(0, 3, 1, 2).contiguous()), torch.tensor(dataset.targets),
            first_id=first_id,
        )
        for dataset, first_id in ((train_data, 0), (test_data, len(train_data)))
    )  # fmt: skip
    return make_splits(
        name, train_data.classes, train, seed=seed, validation=source.val_split, test=test,
        num_labeled=source.num_labeled, num_samples=source.num_samples, augment=source.augment,
        normalize=source.normalize, unlabeled=read_unlabeled(unlabeled, train),
    )  # fmt: skip
