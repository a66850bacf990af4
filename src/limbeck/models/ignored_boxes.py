"""Anchors on ignored boxes (VOC's ``difficult``, COCO's ``iscrowd``), which are not trained as background.

An anchor is on an ignored box if at least half of its area is in it (as ``ignore_iof_thr`` of MMDetection,
https://github.com/open-mmlab/mmdetection); of FCOS the square of the stride around a location. Anchors that the
detector matches with a box that counts are trained as ever.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor
from torchvision.models.detection import FCOS
from torchvision.models.detection.ssd import SSD
from torchvision.ops import box_area, box_iou

__all__ = ["are_on_ignored", "exclude_background", "hide_background", "match_anchors"]

_MIN_COVERED: Final = 0.5
_CERTAIN: Final = 100.0
"""A logit whose loss and gradient are zero in float32."""

Target = Mapping[str, Tensor]


def are_on_ignored(boxes: Tensor, ignored: Tensor) -> Tensor:
    """``[n]`` booleans, whether at least half of each of ``boxes`` ``[n, 4]`` is in one of ``ignored`` ``[k, 4]``.

    >>> are_on_ignored(torch.tensor([[0.0, 0, 4, 4], [3, 0, 7, 4]]), torch.tensor([[0.0, 0, 4, 9]]))
    tensor([ True, False])
    """
    sides = boxes[:, None, 2:].minimum(ignored[:, 2:]) - boxes[:, None, :2].maximum(ignored[:, :2])
    covered: Tensor = sides.clamp(min=0).prod(dim=2) / box_area(boxes)[:, None]
    return (covered >= _MIN_COVERED).any(dim=1)


def match_anchors(network: Any, anchors: Tensor, target: Target) -> Tensor:
    """The box of each anchor by the matcher of a RetinaNet or SSD, ``[rows]``; negative: none."""
    if not len(target["boxes"]):
        return torch.full((len(anchors),), -1, dtype=torch.long, device=anchors.device)
    matched: Tensor = network.proposal_matcher(box_iou(target["boxes"], anchors))
    return matched


def hide_background(network: Any, logits: Tensor, anchors: Tensor, targets: Sequence[Target]) -> Tensor:
    """``logits`` ``[batch, rows, classes]``, certain of the background, without a loss, on ignored boxes.

    Args:
        network: a RetinaNet, FCOS or SSD.
        logits: of its head.
        anchors: ``[rows, 4]``.
        targets: for each image ``boxes``, and ``ignored`` boxes.
    """
    hidden = torch.stack([_is_hidden(network, anchors, target) for target in targets])
    certain = torch.full_like(logits[0, 0], -_CERTAIN)
    if isinstance(network, SSD):
        certain[0] = _CERTAIN
    return torch.where(hidden[..., None], certain, logits)


def exclude_background(
    labels: list[Tensor], boxes: Sequence[Tensor], targets: Sequence[Target], *, value: int
) -> list[Tensor]:
    """``labels``, 0 for the background, with ``value`` for the background on ignored boxes.

    They are unchanged if none would be left.

    Args:
        labels: for each image ``[n]``, of anchors or proposals.
        boxes: for each image ``[n, 4]``.
        targets: for each image ``ignored`` boxes.
        value: what the loss leaves out.
    """
    excluded = [
        image_labels.masked_fill((image_labels == 0) & are_on_ignored(image_boxes, target["ignored"]), value)
        for image_labels, image_boxes, target in zip(labels, boxes, targets, strict=True)
    ]
    return excluded if any(bool((x >= 0).any()) for x in excluded) else labels


def _is_hidden(network: Any, anchors: Tensor, target: Target) -> Tensor:
    if not len(target["ignored"]):
        return torch.zeros(len(anchors), dtype=torch.bool, device=anchors.device)
    if isinstance(network, FCOS):  # a location in a box may be for it
        centers, boxes = (anchors[:, None, :2] + anchors[:, None, 2:]) / 2, target["boxes"]
        is_background = ~((centers > boxes[:, :2]) & (centers < boxes[:, 2:])).all(dim=2).any(dim=1)
    else:
        is_background = match_anchors(network, anchors, target) < 0
    return is_background & are_on_ignored(anchors, target["ignored"])
