"""One split of a data set: images, targets and sample ids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.data.image_store import DatasetAdapter, ImageFiles, ImageStore, InMemory

__all__ = ["UNLABELED", "DatasetAdapter", "ImageFiles", "ImageStore", "InMemory", "Split"]

UNLABELED = -100


@final
@dataclass(frozen=True, slots=True)
class Split:
    """Samples of a data set.

    Attributes:
        images: the image store, possibly shared with other splits.
        indices: ``[n]``, indices of this split's images in ``images``.
        target: ``[n]`` class numbers, −100 where there is no label.
        sample_ids: ``[n]``, id of each sample in its source, used for augmentation and caches.
    """

    images: ImageStore
    indices: Tensor
    target: Tensor
    sample_ids: Tensor

    @classmethod
    def from_images(cls, images: ImageStore, target: Tensor, *, first_id: int = 0) -> Split:
        """All of ``images``, numbered from ``first_id``."""
        indices = torch.arange(len(images))
        if target.ndim != 1:
            raise LimbeckError(f"labels are one class number for each sample, [n], not {list(target.shape)}")
        if len(images) != len(target):
            raise LimbeckError(f"there are {len(images)} images and {len(target)} labels")
        return cls(images, indices, target.long(), indices + first_id)

    def __len__(self) -> int:
        return len(self.indices)

    def subset(self, indices: Tensor) -> Split:
        """The samples at ``indices`` (positions in this split, or booleans)."""
        return Split(self.images, self.indices[indices], self.target[indices], self.sample_ids[indices])

    def select_labeled(self) -> Split:
        """The samples that have a label."""
        return self.subset(self.target != UNLABELED)

    def read(self, indices: Tensor) -> Tensor:
        """The images at ``indices`` of this split, float32 in 0..1."""
        return self.images.read(self.indices[indices])
