"""The handwritten digits of scikit-learn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch

from limbeck.data.augmentation import Augmentation
from limbeck.data.module import DataModule, NormalizeMode, make_splits
from limbeck.data.sources.unlabeled_folder import find_unlabeled_folder, read_unlabeled
from limbeck.data.split import InMemory, Split

__all__ = ["Digits"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Digits:
    """1,797 handwritten digits, 8×8, included in scikit-learn (Alpaydin & Kaynak, UCI ML).

    Args:
        num_labeled: number of labeled training samples, evenly by class; ``None``: all.
        num_samples: number of training samples; ``None``: all.
        val_split: validation fraction of the samples that are not test samples.
        test_split: test fraction.
        unlabeled: a folder with further training images without a label, in subfolders of any kind; resized and cropped
            to the size of the others.
        augment: transforms of training images.
        normalize: ``data`` (statistics of the training split), ``imagenet`` or ``none``.
    """

    num_labeled: int | None = None
    num_samples: int | None = None
    val_split: float = 0.25
    test_split: float = 0.2
    unlabeled: str | None = None
    augment: Augmentation = Augmentation()
    normalize: NormalizeMode = "data"

    def load(self, *, seed: int = 0) -> DataModule:
        """The data, split by ``seed``."""
        from sklearn.datasets import load_digits

        bunch = load_digits()
        images = torch.from_numpy(bunch.images).float().div(16).unsqueeze(1)
        split = Split.from_images(InMemory(images), torch.from_numpy(bunch.target))
        return make_splits(
            "Digits", "0123456789", split, seed=seed,
            validation=self.val_split, test=self.test_split, num_labeled=self.num_labeled,
            num_samples=self.num_samples, augment=self.augment, normalize=self.normalize,
            unlabeled=read_unlabeled(find_unlabeled_folder(self.unlabeled), split),
        )  # fmt: skip
