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

__all__ = ["BoxStore", "clip_boxes_to_image", "remove_small_boxes"]

_MIN_SIZE: Final = 1.0
"""As ``min_size`` of ``torchvision.transforms.v2.SanitizeBoundingBoxes``."""


@final
@dataclass(frozen=True, slots=True)
class BoxStore:
    """Boxes of each image and their classes.

    A batch has ``boxes`` ``[batch, k, 4]`` in pixels, ``labels`` ``[batch, k]`` with −100 in the padding, and
    ``num_boxes`` ``[batch]``.

    Args:
        boxes: for each image ``[k, 4]``: left, top, right, bottom (``xyxy``) in pixels, or
            ``torchvision.tv_tensors.BoundingBoxes`` of any format.
        labels: for each image ``[k]`` class indices.

    Raises:
        LimbeckError: the shapes differ, or a box is empty or not finite.

    >>> store = BoxStore([torch.tensor([[0, 0, 2, 3]]), torch.zeros(0, 4)], [torch.tensor([1]), torch.tensor([])])
    >>> store.read(torch.tensor([1, 0]))["num_boxes"]
    tensor([0, 1])
    """

    boxes: Sequence[Tensor]
    labels: Sequence[Tensor]

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
        object.__setattr__(self, "boxes", tuple(boxes))
        object.__setattr__(self, "labels", tuple(labels))

    def __len__(self) -> int:
        return len(self.boxes)

    def read(self, indices: Tensor) -> dict[str, Tensor]:
        """``boxes`` ``[n, k, 4]``, ``labels`` ``[n, k]`` and ``num_boxes`` ``[n]`` of the images at ``indices``."""
        selected = indices.tolist()
        return {
            "boxes": pad_sequence([self.boxes[i] for i in selected], batch_first=True),
            "labels": pad_sequence([self.labels[i] for i in selected], batch_first=True, padding_value=UNLABELED),
            "num_boxes": torch.tensor([len(self.boxes[i]) for i in selected]),
        }

    def fingerprint(self) -> str:
        """A hash of all boxes and labels."""
        digest = hashlib.sha256()
        for boxes, labels in zip(self.boxes, self.labels, strict=True):
            digest.update(f"{len(boxes)} ".encode() + boxes.numpy().tobytes() + labels.numpy().tobytes())
        return digest.hexdigest()


def clip_boxes_to_image(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """``boxes`` ``[..., 4]`` within an image of ``size`` (height, width)."""
    height, width = size
    return boxes.clamp(min=0).minimum(torch.tensor([width, height, width, height], dtype=boxes.dtype))


def remove_small_boxes(fields: dict[str, Tensor]) -> dict[str, Tensor]:
    """``fields`` of :meth:`BoxStore.read` without boxes below 1 pixel of width or height; the rest comes first."""
    boxes, labels, counts = fields["boxes"], fields["labels"], fields["num_boxes"]
    is_box = torch.arange(boxes.shape[1]) < counts[:, None]
    keep = is_box & (boxes[..., 2:] - boxes[..., :2] >= _MIN_SIZE).all(dim=2)
    order = (~keep).long().argsort(dim=1, stable=True)
    keep = keep.gather(1, order)
    max_count = int(keep.sum(dim=1).max()) if keep.numel() else 0
    return {
        "boxes": boxes.gather(1, order[..., None].expand_as(boxes)).where(keep[..., None], 0.0)[:, :max_count],
        "labels": labels.gather(1, order).where(keep, UNLABELED)[:, :max_count],
        "num_boxes": keep.sum(dim=1).where(counts >= 0, counts),
    }


def _to_xyxy(boxes: Any) -> Tensor:
    """Float boxes as left, top, right, bottom."""
    tv_tensors = sys.modules.get("torchvision.tv_tensors")  # without it, there are no BoundingBoxes
    if tv_tensors is not None and isinstance(boxes, tv_tensors.BoundingBoxes):
        from torchvision.transforms.v2.functional import convert_bounding_box_format

        boxes = convert_bounding_box_format(boxes, new_format=tv_tensors.BoundingBoxFormat.XYXY).as_subclass(Tensor)
    return torch.as_tensor(boxes).float().reshape(-1, 4) if not len(boxes) else torch.as_tensor(boxes).float()
