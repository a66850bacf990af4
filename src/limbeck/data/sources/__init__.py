"""Public data sets in the layouts people have, and any folder of images.

Each source is a frozen set of settings with one method, ``load(seed=…)``, that gives
:class:`~limbeck.data.module.DataModule`.
"""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError, suggest_names
from limbeck.data.augmentation import Augmentation
from limbeck.data.module import DataModule, NormalizeMode, make_splits
from limbeck.data.split import ImageFiles, ImageStore, InMemory, Split

__all__ = ["CIFAR10", "CIFAR100", "IMG_EXTENSIONS", "Digits", "FashionMNIST", "ImageFolder"]

IMG_EXTENSIONS = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".pgm", ".ppm", ".tif", ".tiff"}
_DEBIAN_ROOT = Path("/usr/share/datasets")
_VALIDATION_FOLDERS, _TEST_FOLDERS = ("val", "validation", "valid"), ("test",)
_FASHION_CLASSES = (
    "t-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Digits:
    """1,797 real handwritten digits, 8×8, inside scikit-learn (UCI ML, Alpaydin & Kaynak): no download.

    Arguments:
        num_labeled: how many training samples keep their label, evenly by class; ``None``: all.
        num_samples: how many training samples there are at all; ``None``: all.
        val_split: share of what is not test that choices are made on.
        test_split: share that is sealed.
        augment: how training images are changed.
        normalize: ``data`` (computed on the training split), ``imagenet`` or ``none``.
    """

    num_labeled: int | None = None
    num_samples: int | None = None
    val_split: float = 0.25
    test_split: float = 0.2
    augment: Augmentation = Augmentation()
    normalize: NormalizeMode = "data"

    def load(self, *, seed: int = 0) -> DataModule:
        """The data, cut by ``seed``."""
        from sklearn.datasets import load_digits

        bunch = load_digits()
        images = torch.from_numpy(bunch.images).float().div(16).unsqueeze(1)
        train = Split.from_images(InMemory(images), torch.from_numpy(bunch.target))
        return _make_data_module(
            self, "Digits", [str(i) for i in range(10)], train, self.val_split, self.test_split, seed
        )


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FashionMNIST:
    """Fashion-MNIST, 60,000 + 10,000 images of clothes, 28×28 (Xiao et al., 2017, https://arxiv.org/abs/1708.07747).

    Looked for in ``root``, in ``$LIMBECK_DATA``, in the folder of Debian's package ``dataset-fashion-mnist``, then
    downloaded by torchvision into ``root`` (or ``~/.cache/limbeck``).

    Arguments:
        root: the folder with the four ``*-ubyte`` files (or ``.gz``), or one above it.
        num_labeled: how many training samples keep their label, evenly by class; ``None``: all.
        num_samples: how many training samples there are at all; ``None``: all.
        val_split: share of the training samples that choices are made on.
        augment: how training images are changed.
        normalize: ``data`` (computed on the training split), ``imagenet`` or ``none``.
    """

    root: str | None = None
    num_labeled: int | None = None
    num_samples: int | None = None
    val_split: float = 0.1
    augment: Augmentation = Augmentation()
    normalize: NormalizeMode = "data"

    def load(self, *, seed: int = 0) -> DataModule:
        """The data; the official test split is held out."""
        folder = self._find_root() or self._download()
        train = Split.from_images(
            InMemory(_read_idx(folder, "train-images-idx3-ubyte").unsqueeze(1)),
            _read_idx(folder, "train-labels-idx1-ubyte"),
        )
        test = Split.from_images(
            InMemory(_read_idx(folder, "t10k-images-idx3-ubyte").unsqueeze(1)),
            _read_idx(folder, "t10k-labels-idx1-ubyte"),
            first_id=len(train),
        )
        return _make_data_module(self, "FashionMNIST", _FASHION_CLASSES, train, self.val_split, test, seed)

    def _find_root(self) -> Path | None:
        for base in _candidate_folders(self.root, "fashion-mnist", "fashion_mnist", "FashionMNIST/raw"):
            if any((base / f"train-images-idx3-ubyte{end}").is_file() for end in ("", ".gz")):
                return base
        return None

    def _download(self) -> Path:
        from torchvision.datasets import FashionMNIST as Published

        root = Path(self.root or Path.home() / ".cache" / "limbeck")
        _download_dataset(
            "Fashion-MNIST", "apt install dataset-fashion-mnist", lambda: Published(str(root), download=True)
        )
        return root / "FashionMNIST" / "raw"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class CIFAR10:
    """CIFAR-10, 50,000 + 10,000 images, 32×32 (Krizhevsky, 2009), as torchvision keeps it or as a folder of images.

    Arguments:
        root: where ``cifar-10-batches-py`` or ``train/<class>/…`` and ``test/<class>/…`` are; default:
            ``$LIMBECK_DATA`` is looked at, then torchvision downloads.
        num_labeled: how many training samples keep their label, evenly by class; ``None``: all.
        num_samples: how many training samples there are at all; ``None``: all.
        val_split: share of the training samples that choices are made on.
        augment: how training images are changed.
        normalize: ``data`` (computed on the training split), ``imagenet`` or ``none``.
    """

    root: str | None = None
    num_labeled: int | None = None
    num_samples: int | None = None
    val_split: float = 0.1
    augment: Augmentation = Augmentation()
    normalize: NormalizeMode = "data"

    def load(self, *, seed: int = 0) -> DataModule:
        """The data; the official test split is held out."""
        return _load_cifar(self, "CIFAR10", "cifar10", "cifar-10-batches-py", seed)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class CIFAR100:
    """CIFAR-100, 50,000 + 10,000 images in 100 classes, 32×32 (Krizhevsky, 2009). Settings as :class:`CIFAR10`."""

    root: str | None = None
    num_labeled: int | None = None
    num_samples: int | None = None
    val_split: float = 0.1
    augment: Augmentation = Augmentation()
    normalize: NormalizeMode = "data"

    def load(self, *, seed: int = 0) -> DataModule:
        """The data; the official test split is held out."""
        return _load_cifar(self, "CIFAR100", "cifar100", "cifar-100-python", seed)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFolder:
    """Any folder of images, one folder a class: ``root/<class>/…``, or ``root/{train,val,test}/<class>/…``.

    Where there is a ``train`` folder, ``val`` (or ``validation``) and ``test`` are used as such, and a split that is
    missing is taken from the training split by seed. Give ``val_split`` or ``test_split`` to override this, as a
    fraction or as the name of a folder: ``test_split: val`` seals the folder ``val`` (as Tiny-ImageNet and ImageNet
        are usually measured).

    Arguments:
        root: the folder.
        size: shorter side after scaling, then the center is cut out; ``None``: images as they are, all of one size.
        channels: 3 for color, 1 for gray.
        classes: the class folders to use, for a subset of the classes; ``None``: all.
        num_labeled: how many training samples keep their label, evenly by class; ``None``: all.
        num_samples: how many training samples there are at all; ``None``: all.
        val_split: a fraction, or a folder in ``root``; ``None``: ``val`` or ``validation`` if it exists, else 0.2.
        test_split: a fraction, or a folder in ``root``; ``None``: ``test`` if it exists, else 0.2.
        cache_mb: megabytes up to which all images are decoded once and kept.
        augment: how training images are changed.
        normalize: ``data`` (computed on the training split), ``imagenet`` or ``none``.
    """

    root: str
    size: int | None = None
    channels: int = 3
    classes: tuple[str, ...] | None = None
    num_labeled: int | None = None
    num_samples: int | None = None
    val_split: float | str | None = None
    test_split: float | str | None = None
    cache_mb: int = 1024
    augment: Augmentation = Augmentation()
    normalize: NormalizeMode = "imagenet"

    def load(self, *, seed: int = 0) -> DataModule:
        """The data, with the classes in the order of their names."""
        root = Path(self.root)
        if not root.is_dir():
            raise LimbeckError(
                f"there is no folder {root.resolve()}: give data.root, the folder with one folder a class"
            )
        if (self.size is not None and self.size < 1) or self.channels not in (1, 3):
            raise LimbeckError(f"size is 1 pixel or more and channels 1 or 3, not {self.size} and {self.channels}")
        train = root / "train" if (root / "train").is_dir() else root
        classes = self._select_classes(_list_class_folders(train))
        if train == root and set(classes) <= {*_VALIDATION_FOLDERS, *_TEST_FOLDERS}:
            raise LimbeckError(f"{root.resolve()} has the folders {', '.join(classes)} and no train folder")
        train_split = self._read_split(train, classes, first_id=0)
        if empty := [name for label, name in enumerate(classes) if not (train_split.target == label).any()]:
            raise LimbeckError(f"the class folder {train / empty[0]} holds no image: fill it or remove it")
        splits: dict[str, Split | float] = {}
        first_id, split_by_folder = len(train_split), {train.resolve(): "train"}
        for split_name, key, setting, other_setting, default_folders in (
            ("validation", "val_split", self.val_split, self.test_split, _VALIDATION_FOLDERS),
            ("test", "test_split", self.test_split, self.val_split, _TEST_FOLDERS),
        ):
            if train == root and isinstance(setting, str):
                raise LimbeckError(f"`{key}: {setting}` names a folder, and {root} has no train folder")
            # A folder that was given by name for the other split is not this split's default.
            names = tuple(
                name
                for name in default_folders
                if not isinstance(other_setting, str) or Path(name) != Path(other_setting)
            )
            source = setting if train == root else _resolve_split(root, setting, names)
            if not isinstance(source, Path):
                splits[split_name] = 0.2 if source is None else float(source)
                continue
            if (owner := split_by_folder.setdefault(source.resolve(), split_name)) != split_name:
                raise LimbeckError(
                    f"`{key}: {source.name}` names the {owner} folder: a sample belongs to one split only"
                )
            splits[split_name] = split = self._read_split(source, classes, first_id=first_id)
            first_id += len(split)
        return _make_data_module(
            self, root.resolve().name, classes, train_split, splits["validation"], splits["test"], seed
        )

    def _select_classes(self, classes: list[str]) -> list[str]:
        if self.classes is None:
            return classes
        for name in self.classes:
            if name not in classes:
                raise LimbeckError(
                    f"classes: there is no class folder {name!r} in {self.root}: there are "
                    f"{suggest_names(name, classes)}"
                )
        if len(set(self.classes)) < max(2, len(self.classes)):
            raise LimbeckError(f"classes: name at least two class folders, each once, not {', '.join(self.classes)}")
        return [name for name in classes if name in self.classes]

    def _read_split(self, folder: Path, classes: list[str], *, first_id: int) -> Split:
        if self.classes is None and (unknown := sorted(set(_list_class_folders(folder)) - set(classes))):
            raise LimbeckError(f"{folder} has classes that the training split does not have: {', '.join(unknown[:5])}")
        paths, target = list[Path](), list[int]()
        for label, name in enumerate(classes):
            class_paths = (
                sorted(p for p in (folder / name).rglob("*") if p.suffix.lower() in IMG_EXTENSIONS)
                if (folder / name).is_dir()
                else []
            )
            paths += class_paths
            target += [label] * len(class_paths)
        if not paths:
            raise LimbeckError(f"there is no image in {folder.resolve()}: it needs <class>/*.jpg (or png, bmp, webp …)")
        images: ImageStore = ImageFiles(tuple(paths), self.size, self.channels)
        assert isinstance(images, ImageFiles)
        num_bytes = images.read_uint8([0]).numel() * len(images)
        if num_bytes <= self.cache_mb * 2**20:
            images = InMemory(images.read_uint8(range(len(images))))
        return Split.from_images(images, torch.tensor(target), first_id=first_id)


def _make_data_module(
    source: Digits | FashionMNIST | CIFAR10 | CIFAR100 | ImageFolder, name: str, class_names: Any, train: Split,
    validation: Split | float, test: Split | float, seed: int,
) -> DataModule:  # fmt: skip
    return make_splits(
        name, class_names, train, seed=seed, validation=validation, test=test, num_labeled=source.num_labeled,
        num_samples=source.num_samples,
        augment=source.augment, normalize=source.normalize,
    )  # fmt: skip


def _load_cifar(source: CIFAR10 | CIFAR100, name: str, folder: str, archive: str, seed: int) -> DataModule:
    for base in _candidate_folders(source.root, folder):
        if (base / "train").is_dir():
            if (num_found := len(_list_class_folders(base / "train"))) != (
                num_classes := int(name.removeprefix("CIFAR"))
            ):
                raise LimbeckError(
                    f"{base.resolve()} holds {num_found} classes, and {name} has {num_classes}: give data.root, the "
                    "folder it "
                    "stands in, or use ImageFolder"
                )
            return ImageFolder(
                root=str(base), num_labeled=source.num_labeled, num_samples=source.num_samples,
                val_split=source.val_split, test_split="test",
                augment=source.augment, normalize=source.normalize,
            ).load(seed=seed)  # fmt: skip
    from torchvision import datasets

    dataset_class = getattr(datasets, name)
    root = next(
        (b for b in _candidate_folders(source.root) if (b / archive).is_dir()),
        Path(source.root or Path.home() / ".cache/limbeck"),
    )
    subsets = _download_dataset(
        name,
        "put its folder under data.root",
        lambda: [dataset_class(str(root), train=t, download=True) for t in (True, False)],
    )
    train, test = (
        Split.from_images(
            InMemory(torch.from_numpy(p.data).permute(0, 3, 1, 2).contiguous()),
            torch.tensor(p.targets),
            first_id=first_id,
        )
        for p, first_id in zip(subsets, (0, len(subsets[0])), strict=True)
    )
    return _make_data_module(source, name, subsets[0].classes, train, source.val_split, test, seed)


def _download_dataset(name: str, advice: str, fetch: Any) -> Any:
    try:
        return fetch()
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
        raise LimbeckError(
            f"{name} was found nowhere and could not be downloaded ({reason}): {advice}, "
            "or give --data-root, the folder it stands in"
        ) from error


def _candidate_folders(root: str | None, *names: str) -> list[Path]:
    """The folders to look in: the one given, and only without it the usual ones."""
    if root is not None:
        if not Path(root).is_dir():
            raise LimbeckError(f"there is no folder {Path(root).resolve()}: give --data-root or data.root another")
        roots = [Path(root)]
    else:
        roots = [Path(path) for path in (os.environ.get("LIMBECK_DATA"), str(_DEBIAN_ROOT)) if path]
        roots.append(Path.home() / ".cache" / "limbeck")
    return [base for top in roots for base in (top, *(top / name for name in names)) if base.is_dir()]


def _list_class_folders(folder: Path) -> list[str]:
    names = sorted(item.name for item in folder.iterdir() if item.is_dir() and not item.name.startswith("."))
    if not names:
        raise LimbeckError(f"{folder.resolve()} holds no folder, and images are looked for in one folder a class")
    return names


def _resolve_split(root: Path, setting: float | str | None, default_folders: tuple[str, ...]) -> Path | float | None:
    if isinstance(setting, str):
        if not (root / setting).is_dir():
            raise LimbeckError(
                f"{root} has no folder {setting!r}; it has: {suggest_names(setting, _list_class_folders(root))}"
            )
        return root / setting
    if setting is None:
        return next((root / name for name in default_folders if (root / name).is_dir()), None)
    return setting


def _read_idx(folder: Path, name: str) -> Tensor:
    """An array in the IDX format of MNIST: a magic number with the rank, the sizes, then bytes."""
    path = folder / name if (folder / name).is_file() else folder / f"{name}.gz"
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        rank = raw[3]
        sizes = struct.unpack(f">{rank}I", raw[4 : 4 + 4 * rank])
        return torch.frombuffer(bytearray(raw[4 + 4 * rank :]), dtype=torch.uint8).reshape(sizes)
    except (OSError, EOFError, IndexError, ValueError, struct.error, zlib.error, RuntimeError) as error:
        raise LimbeckError(f"{path} is no whole IDX file ({error}): fetch it again") from error
