"""Boxes of images: a different number for each image, padded in a batch."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, final

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from limbeck.core.errors import LimbeckError
from limbeck.data.mask_store import UNLABELED

__all__ = ["COUNTED", "CROWD", "IGNORED", "BoxStore", "clip_boxes_to_image", "remove_small_boxes"]

COUNTED: Final = 0
IGNORED: Final = 1
"""A box that is neither trained on nor counted in metrics, such as VOC's ``difficult``."""
CROWD: Final = 2
"""As :data:`IGNORED`, around many objects, such as COCO's ``iscrowd``: detections of a part of it are ignored too."""

_MIN_SIZE: Final = 1.0
"""As ``min_size`` of ``torchvision.transforms.v2.SanitizeBoundingBoxes``."""


@final
@dataclass(frozen=True, slots=True)
class BoxStore:
    """Boxes of each image and their classes.

    A batch has ``boxes`` ``[batch, k, 4]`` in pixels, ``labels`` ``[batch, k]`` with −100 in the padding, and
    ``num_boxes`` ``[batch]``. With ignored boxes it has ``ignored`` ``[batch, k]`` too; these come after the
    ``num_boxes`` boxes that count.

    Args:
        boxes: for each image ``[k, 4]``: left, top, right, bottom (``xyxy``) in pixels, or
            ``torchvision.tv_tensors.BoundingBoxes`` of any format.
        labels: for each image ``[k]`` class indices.
        ignored: for each image ``[k]``: 0 (counts), 1 (:data:`IGNORED`) or 2 (:data:`CROWD`); ``None``: all count.

    Raises:
        LimbeckError: the shapes differ, a box is empty or not finite, or ``ignored`` has another value.

    >>> store = BoxStore([torch.tensor([[0, 0, 2, 3]]), torch.zeros(0, 4)], [torch.tensor([1]), torch.tensor([])])
    >>> store.read(torch.tensor([1, 0]))["num_boxes"]
    tensor([0, 1])
    """

    boxes: Sequence[Tensor]
    labels: Sequence[Tensor]
    ignored: Sequence[Tensor] | None = None

    def __post_init__(self) -> None:
        if len(self.boxes) != len(self.labels):
            raise LimbeckError(
                f"boxes and labels must be of the same images, got {len(self.boxes)}, {len(self.labels)}"
            )
        boxes, labels = [_to_xyxy(boxes) for boxes in self.boxes], [torch.as_tensor(x).long() for x in self.labels]
        for i, (image_boxes, image_labels) in enumerate(zip(boxes, labels, strict=True)):
            if image_boxes.shape != (len(image_labels), 4) or image_labels.ndim != 1:
                raise LimbeckError(
                    f"boxes must be [k, 4] and labels [k], got {list(image_boxes.shape)} and "
                    f"{list(image_labels.shape)} for image {i}"
                )
            is_empty = (image_boxes[:, 2:] <= image_boxes[:, :2]).any(dim=1)
            if bool(is_empty.any()) or not bool(image_boxes.isfinite().all()):
                box = image_boxes[int(is_empty.long().argmax())].tolist()
                raise LimbeckError(
                    f"a box must be left, top, right, bottom with left < right and top < bottom, got {box} for image "
                    f"{i}: convert it, or give BoundingBoxes with their format"
                )
        ignored = None if self.ignored is None else _check_ignored(self.ignored, labels)
        if ignored is not None:  # the boxes that count come first
            order = [flags.bool().long().argsort(stable=True) for flags in ignored]
            boxes, labels, ignored = ([x[i] for x, i in zip(xs, order, strict=True)] for xs in (boxes, labels, ignored))
        object.__setattr__(self, "boxes", tuple(boxes))
        object.__setattr__(self, "labels", tuple(labels))
        object.__setattr__(self, "ignored", None if ignored is None else tuple(ignored))

    def __len__(self) -> int:
        return len(self.boxes)

    def read(self, indices: Tensor) -> dict[str, Tensor]:
        """``boxes`` ``[n, k, 4]``, ``labels`` ``[n, k]`` and ``num_boxes`` ``[n]`` of the images at ``indices``.

        With ignored boxes ``ignored`` ``[n, k]``, too.
        """
        selected = indices.tolist()
        fields = {
            "boxes": pad_sequence([self.boxes[i] for i in selected], batch_first=True),
            "labels": pad_sequence([self.labels[i] for i in selected], batch_first=True, padding_value=UNLABELED),
            "num_boxes": torch.tensor([len(self.boxes[i]) for i in selected]),
        }
        if self.ignored is not None:
            fields["ignored"] = pad_sequence([self.ignored[i] for i in selected], batch_first=True)
            fields["num_boxes"] -= (fields["ignored"] != COUNTED).sum(dim=1)
        return fields

    def counted_labels(self, index: int) -> Tensor:
        """The classes of the boxes of the image at ``index`` that are not ignored."""
        labels = self.labels[index]
        return labels if self.ignored is None else labels[self.ignored[index] == COUNTED]

    def fingerprint(self) -> str:
        """A hash of all boxes and labels."""
        digest = hashlib.sha256()
        for boxes, labels in zip(self.boxes, self.labels, strict=True):
            digest.update(f"{len(boxes)} ".encode() + boxes.numpy().tobytes() + labels.numpy().tobytes())
        for flags in self.ignored or ():
            digest.update(flags.numpy().tobytes())
        return digest.hexdigest()


def clip_boxes_to_image(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """``boxes`` ``[..., 4]`` within an image of ``size`` (height, width)."""
    height, width = size
    return boxes.clamp(min=0).minimum(torch.tensor([width, height, width, height], dtype=boxes.dtype))


def remove_small_boxes(fields: dict[str, Tensor]) -> dict[str, Tensor]:
    """``fields`` of :meth:`BoxStore.read` without boxes below 1 pixel of width or height; the rest comes first."""
    boxes, labels, counts = fields["boxes"], fields["labels"], fields["num_boxes"]
    ignored = fields.get("ignored", torch.zeros_like(labels))
    is_box = (torch.arange(boxes.shape[1]) < counts[:, None]) | (ignored != COUNTED)
    keep = is_box & (boxes[..., 2:] - boxes[..., :2] >= _MIN_SIZE).all(dim=2)
    order = (~keep).long().argsort(dim=1, stable=True)
    keep = keep.gather(1, order)
    max_count = int(keep.sum(dim=1).max()) if keep.numel() else 0
    ignored = ignored.gather(1, order).where(keep, COUNTED)[:, :max_count]
    result = {
        "boxes": boxes.gather(1, order[..., None].expand_as(boxes)).where(keep[..., None], 0.0)[:, :max_count],
        "labels": labels.gather(1, order).where(keep, UNLABELED)[:, :max_count],
        "num_boxes": (keep.sum(dim=1) - (ignored != COUNTED).sum(dim=1)).where(counts >= 0, counts),
    }
    return {**result, "ignored": ignored} if "ignored" in fields else result


def _check_ignored(ignored: Sequence[Tensor], labels: Sequence[Tensor]) -> list[Tensor] | None:
    """``ignored`` as integers; ``None`` where no box is ignored."""
    flags = [torch.as_tensor(x).long() for x in ignored]
    if [x.shape for x in flags] != [x.shape for x in labels]:
        raise LimbeckError("ignored must be [k] for each image, as labels are, got other shapes")
    values = torch.cat([torch.zeros(0, dtype=torch.long), *flags])
    if bool(((values < COUNTED) | (values > CROWD)).any()):
        raise LimbeckError(f"ignored must be 0, 1 or 2 (crowd), got {sorted(set(values.tolist()))}")
    return flags if bool(values.any()) else None


def _to_xyxy(boxes: Any) -> Tensor:
    """Float boxes as left, top, right, bottom."""
    tv_tensors = sys.modules.get("torchvision.tv_tensors")  # without it, there are no BoundingBoxes
    if tv_tensors is not None and isinstance(boxes, tv_tensors.BoundingBoxes):
        from torchvision.transforms.v2.functional import convert_bounding_box_format

        boxes = convert_bounding_box_format(boxes, new_format=tv_tensors.BoundingBoxFormat.XYXY).as_subclass(Tensor)
    return torch.as_tensor(boxes).float().reshape(-1, 4) if not len(boxes) else torch.as_tensor(boxes).float()
