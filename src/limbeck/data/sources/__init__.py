"""Public data sets in the layouts people have, and any folder of pictures.

Each source is a frozen set of settings with one method, ``load(seed=…)``, that gives
:class:`~limbeck.data.module.Data`.
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

from limbeck.core.errors import LimbeckError, nearest
from limbeck.data.augmentation import Views
from limbeck.data.module import Data, Normalize, arrange
from limbeck.data.split import Files, Images, Part, Stored

__all__ = ["CIFAR10", "CIFAR100", "PICTURES", "Digits", "FashionMNIST", "ImageFolder"]

PICTURES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".pgm", ".ppm", ".tif", ".tiff"}
_DEBIAN = Path("/usr/share/datasets")
_VALIDATION, _TEST = ("val", "validation", "valid"), ("test",)
_FASHION = ("t-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Digits:
    """1,797 real handwritten digits, 8×8, inside scikit-learn (UCI ML, Alpaydin & Kaynak): no download.

    Arguments:
        labels: how many training samples keep their label, evenly by class; ``None``: all.
        take: how many training samples there are at all; ``None``: all.
        validation: share of what is not test that choices are made on.
        test: share that is sealed.
        views: how training pictures are changed.
        normalize: ``data`` (measured on the training part), ``imagenet`` or ``none``.
    """

    labels: int | None = None
    take: int | None = None
    validation: float = 0.25
    test: float = 0.2
    views: Views = Views()
    normalize: Normalize = "data"

    def load(self, *, seed: int = 0) -> Data:
        """The data, cut by ``seed``."""
        from sklearn.datasets import load_digits

        bunch = load_digits()
        images = torch.from_numpy(bunch.images).float().div(16).unsqueeze(1)
        train = Part.whole(Stored(images), torch.from_numpy(bunch.target))
        return _arranged(self, "Digits", [str(i) for i in range(10)], train, self.validation, self.test, seed)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FashionMNIST:
    """Fashion-MNIST, 60,000 + 10,000 pictures of clothes, 28×28 (Xiao et al., 2017, https://arxiv.org/abs/1708.07747).

    Looked for in ``root``, in ``$LIMBECK_DATA``, in the folder of Debian's package ``dataset-fashion-mnist``, then
    downloaded by torchvision into ``root`` (or ``~/.cache/limbeck``).

    Arguments:
        root: the folder with the four ``*-ubyte`` files (or ``.gz``), or one above it.
        labels: how many training samples keep their label, evenly by class; ``None``: all.
        take: how many training samples there are at all; ``None``: all.
        validation: share of the training samples that choices are made on.
        views: how training pictures are changed.
        normalize: ``data`` (measured on the training part), ``imagenet`` or ``none``.
    """

    root: str | None = None
    labels: int | None = None
    take: int | None = None
    validation: float = 0.1
    views: Views = Views()
    normalize: Normalize = "data"

    def load(self, *, seed: int = 0) -> Data:
        """The data; the official test part is sealed."""
        folder = self._find() or self._download()
        train = Part.whole(
            Stored(_idx(folder, "train-images-idx3-ubyte").unsqueeze(1)), _idx(folder, "train-labels-idx1-ubyte")
        )
        test = Part.whole(
            Stored(_idx(folder, "t10k-images-idx3-ubyte").unsqueeze(1)),
            _idx(folder, "t10k-labels-idx1-ubyte"),
            first=len(train),
        )
        return _arranged(self, "FashionMNIST", _FASHION, train, self.validation, test, seed)

    def _find(self) -> Path | None:
        for base in _bases(self.root, "fashion-mnist", "fashion_mnist", "FashionMNIST/raw"):
            if any((base / f"train-images-idx3-ubyte{end}").is_file() for end in ("", ".gz")):
                return base
        return None

    def _download(self) -> Path:
        from torchvision.datasets import FashionMNIST as Published

        home = Path(self.root or Path.home() / ".cache" / "limbeck")
        _downloaded("Fashion-MNIST", "apt install dataset-fashion-mnist", lambda: Published(str(home), download=True))
        return home / "FashionMNIST" / "raw"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class CIFAR10:
    """CIFAR-10, 50,000 + 10,000 pictures, 32×32 (Krizhevsky, 2009), as torchvision keeps it or as a folder of pictures.

    Arguments:
        root: where ``cifar-10-batches-py`` or ``train/<class>/…`` and ``test/<class>/…`` stand; then ``$LIMBECK_DATA``
            is looked at, then torchvision downloads.
        labels: how many training samples keep their label, evenly by class; ``None``: all.
        take: how many training samples there are at all; ``None``: all.
        validation: share of the training samples that choices are made on.
        views: how training pictures are changed.
        normalize: ``data`` (measured on the training part), ``imagenet`` or ``none``.
    """

    root: str | None = None
    labels: int | None = None
    take: int | None = None
    validation: float = 0.1
    views: Views = Views()
    normalize: Normalize = "data"

    def load(self, *, seed: int = 0) -> Data:
        """The data; the official test part is sealed."""
        return _cifar(self, "CIFAR10", "cifar10", "cifar-10-batches-py", seed)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class CIFAR100:
    """CIFAR-100, 50,000 + 10,000 pictures in 100 classes, 32×32 (Krizhevsky, 2009). Settings as :class:`CIFAR10`."""

    root: str | None = None
    labels: int | None = None
    take: int | None = None
    validation: float = 0.1
    views: Views = Views()
    normalize: Normalize = "data"

    def load(self, *, seed: int = 0) -> Data:
        """The data; the official test part is sealed."""
        return _cifar(self, "CIFAR100", "cifar100", "cifar-100-python", seed)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFolder:
    """Any folder of pictures, one folder a class: ``root/<class>/…``, or ``root/{train,val,test}/<class>/…``.

    Where there is a ``train`` folder, ``val`` (or ``validation``) and ``test`` are used as such, and a part that is
    missing is cut off the training part by seed. Give ``validation`` or ``test`` to say otherwise, as a share or as the
    name of a folder: ``test: val`` seals the folder ``val`` (as Tiny-ImageNet and ImageNet are usually measured).

    Arguments:
        root: the folder.
        size: shorter side after scaling, then the centre is cut out; ``None``: pictures as they are, all of one size.
        channels: 3 for colour, 1 for grey.
        only: the class folders to use, for a subset of the classes; ``None``: all.
        labels: how many training samples keep their label, evenly by class; ``None``: all.
        take: how many training samples there are at all; ``None``: all.
        validation: a share, or a folder in ``root``; ``None``: ``val`` or ``validation`` where it stands, else 0.2.
        test: a share, or a folder in ``root``; ``None``: ``test`` where it stands, else 0.2.
        memory: megabytes up to which all pictures are decoded once and kept.
        views: how training pictures are changed.
        normalize: ``data`` (measured on the training part), ``imagenet`` or ``none``.
    """

    root: str
    size: int | None = None
    channels: int = 3
    only: tuple[str, ...] | None = None
    labels: int | None = None
    take: int | None = None
    validation: float | str | None = None
    test: float | str | None = None
    memory: int = 1024
    views: Views = Views()
    normalize: Normalize = "imagenet"

    def load(self, *, seed: int = 0) -> Data:
        """The data, with the classes in the order of their names."""
        root = Path(self.root)
        if not root.is_dir():
            raise LimbeckError(
                f"there is no folder {root.resolve()}: give data.root, the folder with one folder a class"
            )
        if (self.size is not None and self.size < 1) or self.channels not in (1, 3):
            raise LimbeckError(f"size is 1 pixel or more and channels 1 or 3, not {self.size} and {self.channels}")
        train = root / "train" if (root / "train").is_dir() else root
        classes = self._chosen(_folders(train))
        if train == root and set(classes) <= {*_VALIDATION, *_TEST}:
            raise LimbeckError(f"{root.resolve()} has the folders {', '.join(classes)} and no train folder beside them")
        whole = self._read(train, classes, first=0)
        if bare := [name for label, name in enumerate(classes) if not (whole.target == label).any()]:
            raise LimbeckError(f"the class folder {train / bare[0]} holds no picture: fill it or remove it")
        parts: dict[str, Part | float] = {}
        first, used = len(whole), {train.resolve(): "train"}
        for what, given, other, usual in (
            ("validation", self.validation, self.test, _VALIDATION),
            ("test", self.test, self.validation, _TEST),
        ):
            if train == root and isinstance(given, str):
                raise LimbeckError(f"`{what}: {given}` names a folder, and {root} has no train folder beside it")
            # A folder that the other part was given by name is not this part's usual one any more.
            names = tuple(name for name in usual if not isinstance(other, str) or Path(name) != Path(other))
            where = given if train == root else _part_folder(root, given, names)
            if not isinstance(where, Path):
                parts[what] = 0.2 if where is None else float(where)
                continue
            if (taken := used.setdefault(where.resolve(), what)) != what:
                raise LimbeckError(
                    f"`{what}: {where.name}` names the {taken} folder: a sample belongs to one part only"
                )
            parts[what] = part = self._read(where, classes, first=first)
            first += len(part)
        return _arranged(self, root.resolve().name, classes, whole, parts["validation"], parts["test"], seed)

    def _chosen(self, classes: list[str]) -> list[str]:
        if self.only is None:
            return classes
        for name in self.only:
            if name not in classes:
                raise LimbeckError(
                    f"only: there is no class folder {name!r} in {self.root}: there are {nearest(name, classes)}"
                )
        if len(set(self.only)) < max(2, len(self.only)):
            raise LimbeckError(f"only: name at least two class folders, each once, not {', '.join(self.only)}")
        return [name for name in classes if name in self.only]

    def _read(self, folder: Path, classes: list[str], *, first: int) -> Part:
        if self.only is None and (unknown := sorted(set(_folders(folder)) - set(classes))):
            raise LimbeckError(f"{folder} has classes that the training part has not: {', '.join(unknown[:5])}")
        paths, target = list[Path](), list[int]()
        for label, name in enumerate(classes):
            found = (
                sorted(p for p in (folder / name).rglob("*") if p.suffix.lower() in PICTURES)
                if (folder / name).is_dir()
                else []
            )
            paths += found
            target += [label] * len(found)
        if not paths:
            raise LimbeckError(
                f"there is no picture in {folder.resolve()}: it needs <class>/*.jpg (or png, bmp, webp …)"
            )
        files: Images = Files(tuple(paths), self.size, self.channels)
        assert isinstance(files, Files)
        pixels = files.read_bytes([0]).numel() * len(files)
        if pixels <= self.memory * 2**20:
            files = Stored(files.read_bytes(range(len(files))))
        return Part.whole(files, torch.tensor(target), first=first)


def _arranged(
    source: Digits | FashionMNIST | CIFAR10 | CIFAR100 | ImageFolder, name: str, classes: Any, train: Part,
    validation: Part | float, test: Part | float, seed: int,
) -> Data:  # fmt: skip
    return arrange(
        name, classes, train, seed=seed, validation=validation, test=test, labels=source.labels, keep=source.take,
        views=source.views, normalize=source.normalize,
    )  # fmt: skip


def _cifar(source: CIFAR10 | CIFAR100, name: str, folder: str, batches: str, seed: int) -> Data:
    for base in _bases(source.root, folder):
        if (base / "train").is_dir():
            if (found := len(_folders(base / "train"))) != (many := int(name.removeprefix("CIFAR"))):
                raise LimbeckError(
                    f"{base.resolve()} holds {found} classes, and {name} has {many}: give data.root, the folder it "
                    "stands in, or use ImageFolder"
                )
            return ImageFolder(
                root=str(base), labels=source.labels, take=source.take, validation=source.validation, test="test",
                views=source.views, normalize=source.normalize,
            ).load(seed=seed)  # fmt: skip
    from torchvision import datasets

    published = getattr(datasets, name)
    home = next(
        (b for b in _bases(source.root) if (b / batches).is_dir()), Path(source.root or Path.home() / ".cache/limbeck")
    )
    parts = _downloaded(
        name,
        "put its folder under data.root",
        lambda: [published(str(home), train=t, download=True) for t in (True, False)],
    )
    train, test = (
        Part.whole(
            Stored(torch.from_numpy(p.data).permute(0, 3, 1, 2).contiguous()), torch.tensor(p.targets), first=first
        )
        for p, first in zip(parts, (0, len(parts[0])), strict=True)
    )
    return _arranged(source, name, parts[0].classes, train, source.validation, test, seed)


def _downloaded(name: str, otherwise: str, fetch: Any) -> Any:
    try:
        return fetch()
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
        raise LimbeckError(
            f"{name} was found nowhere and could not be downloaded ({reason}): {otherwise}, "
            "or give --data-root, the folder it stands in"
        ) from error


def _bases(root: str | None, *names: str) -> list[Path]:
    """The folders to look in: the one given, and only without it the usual ones."""
    if root is not None:
        if not Path(root).is_dir():
            raise LimbeckError(f"there is no folder {Path(root).resolve()}: give --data-root or data.root another")
        tops = [Path(root)]
    else:
        tops = [Path(place) for place in (os.environ.get("LIMBECK_DATA"), str(_DEBIAN)) if place]
        tops.append(Path.home() / ".cache" / "limbeck")
    return [base for top in tops for base in (top, *(top / name for name in names)) if base.is_dir()]


def _folders(folder: Path) -> list[str]:
    names = sorted(item.name for item in folder.iterdir() if item.is_dir() and not item.name.startswith("."))
    if not names:
        raise LimbeckError(f"{folder.resolve()} holds no folder, and pictures are looked for in one folder a class")
    return names


def _part_folder(root: Path, given: float | str | None, usual: tuple[str, ...]) -> Path | float | None:
    if isinstance(given, str):
        if not (root / given).is_dir():
            raise LimbeckError(f"{root} has no folder {given!r}; it has: {nearest(given, _folders(root))}")
        return root / given
    if given is None:
        return next((root / name for name in usual if (root / name).is_dir()), None)
    return given


def _idx(folder: Path, name: str) -> Tensor:
    """An array in the IDX format of MNIST: a magic number with the rank, the sizes, then bytes."""
    path = folder / name if (folder / name).is_file() else folder / f"{name}.gz"
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        rank = raw[3]
        sizes = struct.unpack(f">{rank}I", raw[4 : 4 + 4 * rank])
        return torch.frombuffer(bytearray(raw[4 + 4 * rank :]), dtype=torch.uint8).reshape(sizes)
    except (OSError, EOFError, IndexError, ValueError, struct.error, zlib.error, RuntimeError) as error:
        raise LimbeckError(f"{path} is no whole IDX file ({error}): fetch it again") from error
