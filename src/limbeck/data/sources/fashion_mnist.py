"""Fashion-MNIST."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.data.augmentation import Augmentation
from limbeck.data.module import DataModule, NormalizeMode, make_splits
from limbeck.data.sources.lookup import candidate_folders, download_dataset, download_root
from limbeck.data.sources.unlabeled_folder import find_unlabeled_folder, read_unlabeled
from limbeck.data.split import InMemory, Split

__all__ = ["FashionMNIST"]

_CLASSES = (
    "t-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip

_MAX_BYTES = 2**30


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FashionMNIST:
    """Fashion-MNIST, 60,000 + 10,000 images of clothes, 28×28 (Xiao et al., 2017, https://arxiv.org/abs/1708.07747).

    Args:
        root: folder with the four ``*-ubyte`` files (or ``.gz``), or its parent; ``None``: ``$LIMBECK_DATA``, the
            folder of Debian's ``dataset-fashion-mnist``, or a download to ``~/.cache/limbeck``.
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
        unlabeled = find_unlabeled_folder(self.unlabeled, self.root)
        folder = self._find_folder() or self._download()
        train = _read_split(folder, "train", first_id=0)
        return make_splits(
            "FashionMNIST", _CLASSES, train, seed=seed, validation=self.val_split,
            test=_read_split(folder, "t10k", first_id=len(train)), num_labeled=self.num_labeled,
            num_samples=self.num_samples, augment=self.augment, normalize=self.normalize,
            unlabeled=read_unlabeled(unlabeled, train),
        )  # fmt: skip

    def _find_folder(self) -> Path | None:
        for folder in candidate_folders(self.root, "fashion-mnist", "fashion_mnist", "FashionMNIST/raw"):
            if any((folder / f"train-images-idx3-ubyte{suffix}").is_file() for suffix in ("", ".gz")):
                return folder
        return None

    def _download(self) -> Path:
        from torchvision.datasets import FashionMNIST as TorchvisionFashionMNIST

        root = download_root(self.root)
        download_dataset(
            "Fashion-MNIST", "apt install dataset-fashion-mnist",
            lambda: TorchvisionFashionMNIST(str(root), download=True),
        )  # fmt: skip
        return root / "FashionMNIST" / "raw"


def _read_split(folder: Path, name: str, *, first_id: int) -> Split:
    images = InMemory(_read_idx(folder, f"{name}-images-idx3-ubyte").unsqueeze(1))
    return Split.from_images(images, _read_idx(folder, f"{name}-labels-idx1-ubyte"), first_id=first_id)


def _read_idx(folder: Path, name: str) -> Tensor:
    """An array in the IDX format of MNIST: a magic number with the rank, the sizes, then bytes."""
    path = folder / name if (folder / name).is_file() else folder / f"{name}.gz"
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            rank = file.read(4)[3]
            sizes = struct.unpack(f">{rank}I", file.read(4 * rank))
            count = math.prod(sizes)
            # The header may ask for any size, and a small compressed file may have any.
            raw = file.read(min(count, _MAX_BYTES) + 1)
        if len(raw) != count:
            raise ValueError(f"its header asks for {count} bytes")
        return torch.frombuffer(bytearray(raw), dtype=torch.uint8).reshape(sizes)
    except (OSError, EOFError, IndexError, ValueError, struct.error, zlib.error, RuntimeError) as error:
        raise LimbeckError(f"{path} is not a complete IDX file ({error}): download it again") from error
