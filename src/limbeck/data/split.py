"""One part of a data set: pictures, their classes, and the number by which each is known for ever."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.data.image_store import Files, Images, Stored, Wrapped

__all__ = ["UNLABELLED", "Files", "Images", "Part", "Stored", "Wrapped"]

UNLABELLED = -100


@final
@dataclass(frozen=True, slots=True)
class Part:
    """Some samples of a data set.

    Attributes:
        images: the pictures, of this part and perhaps of others.
        places: ``[n]``, where this part's pictures stand in ``images``.
        target: ``[n]`` class numbers, −100 where there is no label.
        number: ``[n]``, the number of each sample in its source: its name in views and caches.
    """

    images: Images
    places: Tensor
    target: Tensor
    number: Tensor

    @classmethod
    def whole(cls, images: Images, target: Tensor, *, first: int = 0) -> Part:
        """All of ``images``, numbered from ``first``."""
        places = torch.arange(len(images))
        if target.ndim != 1:
            raise LimbeckError(f"labels are one class number for each sample, [n], not {list(target.shape)}")
        if len(images) != len(target):
            raise LimbeckError(f"there are {len(images)} pictures and {len(target)} labels")
        return cls(images, places, target.long(), places + first)

    def __len__(self) -> int:
        return len(self.places)

    def subset(self, which: Tensor) -> Part:
        """The samples at ``which`` (places in this part, or booleans)."""
        return Part(self.images, self.places[which], self.target[which], self.number[which])

    def labelled(self) -> Part:
        """The samples that have a label."""
        return self.subset(self.target != UNLABELLED)

    def read(self, which: Tensor) -> Tensor:
        """The pictures at ``which`` places of this part, float32 in 0..1."""
        return self.images.read(self.places[which])
