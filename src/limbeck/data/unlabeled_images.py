"""Training images or texts without a label, added to the labeled samples of a split."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.data.box_store import BoxStore
from limbeck.data.image_files import ImageFiles
from limbeck.data.image_store import ImageStore, InMemory
from limbeck.data.mask_store import UNLABELED, MaskStore
from limbeck.data.sequence_store import SequenceStore
from limbeck.data.split import Split

__all__ = [
    "ConcatImages",
    "PartialMasks",
    "add_unlabeled",
    "reads_user_code",
]


@final
@dataclass(frozen=True, slots=True)
class ConcatImages:
    """The images of two stores, one after the other.

    Args:
        first: the images at 0..m−1.
        second: the images from m on, of the same shape.
    """

    first: ImageStore
    second: ImageStore

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def read(self, indices: Tensor) -> Tensor:
        is_first = indices < len(self.first)
        if is_first.all():
            return self.first.read(indices)
        second = self.second.read(indices[~is_first] - len(self.first))
        images = second.new_empty(len(indices), *second.shape[1:])
        images[~is_first] = second
        if is_first.any():
            images[is_first] = self.first.read(indices[is_first])
        return images

    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self.first.fingerprint()} {self.second.fingerprint()}".encode()).hexdigest()

    def is_deterministic(self) -> bool:
        return self.first.is_deterministic() and self.second.is_deterministic()


@final
@dataclass(frozen=True, slots=True)
class PartialMasks:
    """Masks of the first images of a store; the others have none.

    Args:
        masks: the masks.
        num_unlabeled: number of images without a mask, after those that have one.
    """

    masks: MaskStore
    num_unlabeled: int

    def __len__(self) -> int:
        return len(self.masks) + self.num_unlabeled

    def read(self, indices: Tensor) -> Tensor:
        has_mask = indices < len(self.masks)
        values = self.masks.read(indices.where(has_mask, 0))
        return values.masked_fill(~has_mask[:, None, None], UNLABELED)

    def fingerprint(self) -> str:
        return f"{self.masks.fingerprint()} {self.num_unlabeled}"


def reads_user_code(images: Any) -> bool:
    """Whether items are read by a user's data set, which may draw from the global random generators."""
    if isinstance(images, ConcatImages):
        return reads_user_code(images.first) or reads_user_code(images.second)
    return not isinstance(images, InMemory | ImageFiles | SequenceStore)


def add_unlabeled(train: Split, images: ImageStore, *, first_id: int) -> Split:
    """``train`` with ``images``, which have no label.

    Args:
        train: images with classes, masks or boxes, or sequences with classes.
        images: further images of the same shape, or sequences of the same fields.
        first_id: sample id of the first of ``images``.

    Raises:
        LimbeckError: the samples of ``train`` have other targets, or the shapes differ.
    """
    if not train.has_class_targets and train.masks is None and train.boxes is None:
        raise LimbeckError(
            "unlabeled images need a training split of images with classes, masks or boxes: remove `unlabeled`"
        )
    numbers = torch.arange(len(images))
    joined: ImageStore
    if isinstance(train.images, SequenceStore) and isinstance(images, SequenceStore):
        joined = _concat_sequences(train.images, images)
    else:
        joined = _concat_images(train.images, images)
    return replace(
        train,
        images=joined,
        indices=torch.cat([train.indices, numbers + len(train.images)]),
        target=torch.cat([train.target, torch.full_like(numbers, UNLABELED)]),
        sample_ids=torch.cat([train.sample_ids, numbers + first_id]),
        masks=None if train.masks is None else PartialMasks(train.masks, len(images)),
        boxes=None if train.boxes is None else _add_images_without_boxes(train.boxes, len(images)),
        groups=None,  # an unlabeled image has no group, and those of `train` are checked already
    )


def _concat_images(first: ImageStore, second: ImageStore) -> ConcatImages:
    shape, unlabeled_shape = (list(store.read(torch.tensor([0])).shape[1:]) for store in (first, second))
    if shape != unlabeled_shape:
        raise LimbeckError(f"unlabeled images must be {shape} as the labeled ones, got {unlabeled_shape}: resize them")
    return ConcatImages(first, second)


def _concat_sequences(first: SequenceStore, second: SequenceStore) -> SequenceStore:
    if first.fields.keys() != second.fields.keys():
        raise LimbeckError(
            f"unlabeled sequences must have the fields {', '.join(first.fields)}, got {', '.join(second.fields)}"
        )
    fields = {name: [*sequences, *second.fields[name]] for name, sequences in first.fields.items()}
    return SequenceStore(fields, pad_values=first.pad_values, masks=first.masks)


def _add_images_without_boxes(store: BoxStore, count: int) -> BoxStore:
    empty, nothing = [torch.zeros(0, 4)] * count, [torch.zeros(0, dtype=torch.long)] * count
    ignored = None if store.ignored is None else [*store.ignored, *nothing]
    return BoxStore([*store.boxes, *empty], [*store.labels, *nothing], ignored)
