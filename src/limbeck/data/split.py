"""Splits of a data set: samples with their targets, ids and groups, and stratified splitting by seed."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.data.box_store import BoxStore
from limbeck.data.collated_dataset import CollatedDataset
from limbeck.data.counter_rng import make_generator
from limbeck.data.groups import select_groups, to_groups
from limbeck.data.image_files import ImageFiles
from limbeck.data.image_store import DatasetAdapter, ImageStore, InMemory
from limbeck.data.mask_store import UNLABELED, MaskStore
from limbeck.data.sequence_store import SequenceStore

__all__ = [
    "UNLABELED",
    "DatasetAdapter",
    "ImageFiles",
    "ImageStore",
    "InMemory",
    "Split",
    "hide_labels",
    "stratified_split",
    "stratified_subsample",
]


_SPLIT, _SUBSAMPLE, _LABELS = 1, 2, 3


@final
@dataclass(frozen=True, slots=True)
class Split:
    """Samples of a data set.

    Attributes:
        images: the image store, or the sequences, possibly shared with other splits.
        indices: ``[n]``, indices of this split's images in ``images``.
        target: ``[n]`` class indices, −100 where there is no label. Of samples with other targets (masks, sequences,
            values) it is the class to split by, or 0.
        sample_ids: ``[n]``, id of each sample in its source, used for augmentation and caches.
        masks: the class of each pixel, in the order of ``images``; ``None``: no masks.
        values: ``[len(images), ...]`` targets that are no class (numbers, multi-hot rows); ``None``: no values.
        boxes: the boxes of each image, in the order of ``images``; ``None``: no boxes.
        groups: ``[n]``, the group of each sample (a speaker, an identity), which is in one split only; ``None``: no
            groups.
    """

    images: ImageStore
    indices: Tensor
    target: Tensor
    sample_ids: Tensor
    masks: MaskStore | None = None
    values: Tensor | None = None
    boxes: BoxStore | None = None
    groups: Tensor | None = None

    @classmethod
    def from_images(cls, images: ImageStore, target: Tensor, *, first_id: int = 0, groups: Any = None) -> Split:
        """All of ``images``, with sample ids from ``first_id``.

        Args:
            images: ``n`` inputs.
            target: ``[n]`` class indices, −100 where there is no label.
            first_id: sample id of the first.
            groups: ``[n]`` integers or names; which samples belong together. A split by fraction keeps groups whole.

        Raises:
            LimbeckError: the lengths differ, or ``groups`` are neither integers nor names.
        """
        if target.shape != (len(images),):
            raise LimbeckError(f"labels must be [{len(images)}], one class index per image, got {list(target.shape)}")
        indices = torch.arange(len(images))
        group_ids = None if groups is None else to_groups(groups, len(images))
        return cls(images, indices, target.long(), indices + first_id, groups=group_ids)

    @classmethod
    def from_masks(cls, images: ImageStore, masks: MaskStore, *, first_id: int = 0, groups: Any = None) -> Split:
        """As :meth:`from_images`, with a mask ``[height, width]`` for each image.

        Raises:
            LimbeckError: the lengths differ.
        """
        if len(images) != len(masks):
            raise LimbeckError(f"each image must have a mask, got {len(images)} images and {len(masks)} masks")
        split = cls.from_images(images, torch.zeros(len(images), dtype=torch.long), first_id=first_id, groups=groups)
        return replace(split, masks=masks)

    @classmethod
    def from_values(cls, images: ImageStore, values: Tensor, *, first_id: int = 0, groups: Any = None) -> Split:
        """As :meth:`from_images`, with ``values`` ``[n, ...]``; a sample with NaN has no label.

        Raises:
            LimbeckError: the lengths differ.
        """
        if len(images) != len(values):
            raise LimbeckError(f"each sample must have a target, got {len(images)} samples and {len(values)} targets")
        is_missing = values.isnan().flatten(1).any(dim=1) if values.ndim > 1 else values.isnan()
        target = torch.where(is_missing, UNLABELED, 0)
        return replace(cls.from_images(images, target, first_id=first_id, groups=groups), values=values)

    @classmethod
    def from_boxes(cls, images: ImageStore, boxes: BoxStore, *, first_id: int = 0, groups: Any = None) -> Split:
        """As :meth:`from_images`, with the boxes of each image.

        Raises:
            LimbeckError: the lengths differ.
        """
        if len(images) != len(boxes):
            raise LimbeckError(f"each image must have boxes, got {len(images)} images and boxes of {len(boxes)}")
        target = torch.zeros(len(images), dtype=torch.long)
        return replace(cls.from_images(images, target, first_id=first_id, groups=groups), boxes=boxes)

    @classmethod
    def from_sequences(
        cls, sequences: SequenceStore, target: Tensor, *, first_id: int = 0, groups: Any = None
    ) -> Split:
        """As :meth:`from_images`, with the class of each sequence; where a field is ``target``, the class to split by.

        Raises:
            LimbeckError: the lengths differ.
        """
        return cls.from_images(sequences, target, first_id=first_id, groups=groups)

    def __len__(self) -> int:
        return len(self.indices)

    def __repr__(self) -> str:
        return f"Split({len(self)} samples of {type(self.images).__name__})"

    @property
    def sequences(self) -> SequenceStore | None:
        """The sequences, where samples are sequences."""
        return self.images if isinstance(self.images, SequenceStore) else None

    @property
    def paths(self) -> list[Path]:
        """The image file of each sample; empty where images come from no files."""
        paths = self.images.paths if isinstance(self.images, ImageFiles | InMemory) else ()
        return [paths[i] for i in self.indices.tolist()] if paths else []

    def subset(self, indices: Tensor) -> Split:
        """The samples at ``indices`` (positions in this split, or booleans)."""
        groups = None if self.groups is None else self.groups[indices]
        return replace(
            self, indices=self.indices[indices], target=self.target[indices], sample_ids=self.sample_ids[indices],
            groups=groups,
        )  # fmt: skip

    def select_labeled(self) -> Split:
        """The samples that have a label."""
        return self.subset(self.target != UNLABELED)

    @property
    def has_class_targets(self) -> bool:
        """Whether the target of a sample is one class."""
        is_sequence = self.sequences is not None and "target" in self.sequences.fields
        has_store = self.masks is not None or self.boxes is not None or self.values is not None
        return not has_store and not is_sequence and not isinstance(self.images, CollatedDataset)

    def read(self, indices: Tensor) -> Tensor:
        """The images at ``indices`` of this split, float32 in 0..1; of sequences the padded input."""
        return self.images.read(self.indices[indices])

    def read_fields(self, indices: Tensor, *, with_input: bool = True) -> dict[str, Any]:
        """The fields of a batch: ``input`` and ``target``, or boxes; those of sequences; or those of ``collate_fn``.

        A sequence without a label has the target length −1, an image without annotations has ``num_boxes`` −1.
        ``with_input=False`` leaves the images out.
        """
        if isinstance(self.images, CollatedDataset):
            return self.images.read_batch(self.indices[indices])
        if self.sequences is None:
            images = {"input": self.read(indices)} if with_input else {}
            targets = {"target": self.read_target(indices)} if self.boxes is None else self._read_boxes(indices)
            return {**images, **targets}
        fields = self.sequences.read_fields(self.indices[indices])
        if "target" not in self.sequences.fields:
            return {**fields, "target": self.target[indices]}
        fields["target_length"] = fields["target_length"].masked_fill(self.target[indices] == UNLABELED, -1)
        return fields

    def read_target(self, indices: Tensor) -> Tensor:
        """The targets at ``indices``: ``[n]`` class indices, masks ``[n, height, width]``, or values ``[n, ...]``.

        No label is −100 in class indices and masks, and NaN in values.
        """
        target = self.target[indices]
        if self.values is not None:
            values = self.values[self.indices[indices]]
            return torch.where((target == UNLABELED).reshape(-1, *[1] * (values.ndim - 1)), torch.nan, values)
        if self.masks is None:
            return target
        masks = self.masks.read(self.indices[indices])
        return masks.masked_fill((target == UNLABELED)[:, None, None], UNLABELED)

    def _read_boxes(self, indices: Tensor) -> dict[str, Tensor]:
        assert self.boxes is not None
        fields, is_unlabeled = self.boxes.read(self.indices[indices]), self.target[indices] == UNLABELED
        hidden = {
            "boxes": fields["boxes"].masked_fill(is_unlabeled[:, None, None], 0.0),
            "labels": fields["labels"].masked_fill(is_unlabeled[:, None], UNLABELED),
            "num_boxes": fields["num_boxes"].masked_fill(is_unlabeled, -1),
        }
        if "ignored" in fields:
            hidden["ignored"] = fields["ignored"].masked_fill(is_unlabeled[:, None], 0)
        return hidden

    def fingerprint(self) -> list[str]:
        """Hashes of the samples, their images, labels, masks and boxes."""
        text = [self.images.fingerprint(), str(self.sample_ids.tolist()), str(self.target.tolist())]
        text += [store.fingerprint() for store in (self.masks, self.boxes) if store is not None]
        if self.values is not None:
            text.append(hashlib.sha256(self.values.contiguous().numpy().tobytes()).hexdigest())
        return text


def stratified_split(split: Split, fraction: float, *, seed: int, purpose: int = _SPLIT) -> tuple[Split, Split]:
    """Split off ``fraction`` of ``split``, in proportion by class: (remainder, fraction).

    A split with groups is cut between groups, as near to the fraction as they allow. Samples without a label stay in
    the remainder; those of a group of the fraction are in neither, with a warning.

    >>> split = Split.from_images(InMemory(torch.zeros(10, 1)), torch.tensor([0, 1] * 5))
    >>> remainder, validation = stratified_split(split, 0.2, seed=0)
    >>> len(remainder), sorted(validation.target.tolist())
    (8, [0, 1])
    """
    if not 0 < fraction < 1:
        raise LimbeckError(f"a split must be a fraction between 0 and 1, got {fraction}")
    is_labeled = split.target != UNLABELED
    if not is_labeled.any():
        raise LimbeckError("a split by fraction must have labeled samples, got none: label some")
    if split.groups is not None:
        selected = select_groups(split.target, split.groups, fraction, seed=seed, purpose=purpose)
        if num_dropped := int((selected & ~is_labeled).sum()):
            warnings.warn(
                f"{num_dropped} samples without a label are not used: their groups are in the validation or test split",
                stacklevel=3,
            )
        return split.subset(~selected), split.subset(selected & is_labeled)
    selected, target = torch.zeros_like(is_labeled), split.target[is_labeled]
    selected[is_labeled] = _select_stratified(target, round(fraction * len(target)), seed=seed, purpose=purpose)
    return split.subset(~selected), split.subset(selected)


def stratified_subsample(split: Split, num_samples: int, *, seed: int) -> Split:
    """``num_samples`` samples of ``split``, in proportion by class."""
    if not 0 < num_samples <= len(split):
        raise LimbeckError(f"`num_samples` must be from 1 to {len(split)}, got {num_samples}")
    return split.subset(_select_stratified(split.target, num_samples, seed=seed, purpose=_SUBSAMPLE))


def hide_labels(split: Split, num_labeled: int, *, seed: int) -> Split:
    """The same samples, of which ``num_labeled`` have a label, evenly by class; −100 for the others."""
    is_labeled = split.target != UNLABELED
    classes, maximum = len(torch.unique(split.target[is_labeled])), int(is_labeled.sum())
    if not max(classes, 1) <= num_labeled <= maximum:
        raise LimbeckError(
            f"`num_labeled` must be from {classes} (one per class) to {maximum} training samples, got {num_labeled}"
        )
    keep = torch.zeros_like(is_labeled)
    labels = split.target[is_labeled]
    keep[is_labeled] = _select_stratified(labels, num_labeled, seed=seed, purpose=_LABELS, evenly=True)
    return replace(split, target=torch.where(keep, split.target, UNLABELED))


def _select_stratified(target: Tensor, count: int, *, seed: int, purpose: int, evenly: bool = False) -> Tensor:
    """``[n]`` booleans, ``count`` of them true.

    Samples are taken in the order of a key: the j-th of a class with n members has the key (j + u) / n in proportion,
    or j + u evenly; u and the order within a class depend on the seed.
    """
    rng = make_generator(seed, purpose)
    jitter = torch.rand(len(target), generator=rng, dtype=torch.float64)
    sort_key = torch.empty(len(target), dtype=torch.float64)
    for label in torch.unique(target).tolist():
        members = (target == label).nonzero().squeeze(1)
        members = members[torch.randperm(len(members), generator=rng)]
        rank = torch.arange(len(members), dtype=torch.float64)
        sort_key[members] = rank + jitter[members] if evenly else (rank + jitter[members]) / len(members)
    selected = torch.zeros(len(target), dtype=torch.bool)
    selected[sort_key.argsort(stable=True)[:count]] = True
    return selected
