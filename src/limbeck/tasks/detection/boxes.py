"""Detections: boxes after non-maximum suppression, and their matches with the boxes of the target."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from limbeck.data.box_store import COUNTED, CROWD

__all__ = ["Detections", "TargetBoxes", "box_areas", "match_detections", "select_detections"]


class Detections(NamedTuple):
    """Boxes found in an image, from the highest score to the lowest.

    Attributes:
        boxes: ``[n, 4]`` left, top, right, bottom in pixels.
        scores: ``[n]`` in 0..1.
        labels: ``[n]`` class indices.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor


class TargetBoxes(NamedTuple):
    """The boxes of the target of an image.

    Attributes:
        boxes: ``[k, 4]``.
        labels: ``[k]`` class indices.
        ignored: ``[k]``: 0, or that a box is ignored: 1, or 2 as a crowd (see :class:`~limbeck.data.BoxStore`).
    """

    boxes: Tensor
    labels: Tensor
    ignored: Tensor

    def counted(self) -> TargetBoxes:
        """Those that are not ignored."""
        is_counted = self.ignored == COUNTED
        return TargetBoxes(*(part[is_counted] for part in self))


def select_detections(
    boxes: Tensor, scores: Tensor, *, score_threshold: float, nms_threshold: float, num_candidates: int,
    max_detections: int,
) -> Detections:  # fmt: skip
    """The detections of an image: candidates above a score, non-maximum suppression by class, the highest scores.

    Args:
        boxes: ``[n, 4]`` candidates.
        scores: ``[n, classes]`` in 0..1.
        score_threshold: candidates of at most this score are left out.
        nms_threshold: IoU from which on the box of the lower score is left out.
        num_candidates: number of pairs of box and class with the highest scores that enter the suppression.
        max_detections: number of detections.
    """
    from torchvision.ops import batched_nms

    flat = scores.flatten()
    values, index = flat.topk(min(num_candidates, len(flat)))
    is_candidate = values > score_threshold
    values, index = values[is_candidate], index[is_candidate]
    rows = torch.div(index, scores.shape[1], rounding_mode="floor")
    candidates, labels = boxes[rows], index % scores.shape[1]
    kept = batched_nms(candidates.float(), values.float(), labels, nms_threshold)[:max_detections]
    return Detections(candidates[kept].cpu(), values[kept].cpu(), labels[kept].cpu())


def match_detections(
    detections: Detections, boxes: Tensor, labels: Tensor, ignored: Tensor | None = None, *, thresholds: Tensor,
    area_range: tuple[float, float] = (0.0, float("inf")),
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The box that each detection is matched with, and which detections are ignored, both ``[thresholds, n]``.

    From the highest score on, a detection is matched with the box of the highest IoU that no other is matched with, if
    that is at least the threshold; boxes in the range of areas that are not ignored come first. A detection is ignored
    that is matched with any other box, or with none and is outside of the range itself. Several detections may be
    matched with one ignored box; the IoU with a crowd is the part of the detection that is in it. So do pycocotools and
    (for ``difficult``) the evaluation of VOC.

    Args:
        detections: of one image.
        boxes: ``[k, 4]`` of the target.
        labels: ``[k]``.
        ignored: ``[k]``, see :class:`TargetBoxes`; ``None``: none is.
        thresholds: ``[thresholds]`` float64.
        area_range: smallest and largest area that counts.

    Returns:
        Indices of boxes (−1: none), and booleans.

    >>> found = Detections(torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 1]]), torch.tensor([0.9, 0.8]), torch.tensor([0, 0]))
    >>> match_detections(found, torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([0]), thresholds=torch.tensor([0.5]))[0]
    tensor([[ 0, -1]])
    """
    from torchvision.ops import box_iou

    low, high = area_range
    num_thresholds, num_detections, num_boxes = len(thresholds), len(detections.scores), len(boxes)
    matched = torch.full((num_thresholds, num_detections), -1)
    is_ignored = torch.zeros(num_thresholds, num_detections, dtype=torch.bool)
    areas = box_areas(boxes)
    outside, ignored = (areas < low) | (areas > high), torch.zeros_like(labels) if ignored is None else ignored
    is_reusable = ignored != COUNTED
    outside |= is_reusable
    iou = box_iou(detections.boxes.double(), boxes.double())
    if bool((ignored == CROWD).any()):
        iou = torch.where(ignored == CROWD, _covered_fraction(detections.boxes, boxes), iou)
    iou = iou.masked_fill(detections.labels[:, None] != labels, -1.0)
    is_taken = torch.zeros(num_thresholds, num_boxes, dtype=torch.bool)
    is_near = (iou >= thresholds.min()).any(dim=1) if num_boxes else is_ignored[0]
    for i in is_near.nonzero()[:, 0].tolist():
        is_open = ~is_taken & (iou[i] >= thresholds[:, None])
        in_range = is_open & ~outside
        is_candidate = torch.where(in_range.any(dim=1, keepdim=True), in_range, is_open)
        # Of equal values the last, as in COCO's code.
        index = num_boxes - 1 - iou[i].masked_fill(~is_candidate, -2.0).expand_as(is_candidate).flip(1).argmax(dim=1)
        is_match = is_open.any(dim=1)
        is_taken[is_match, index[is_match]] = ~is_reusable[index[is_match]]
        matched[is_match, i] = index[is_match]
        is_ignored[:, i] = is_match & outside[index]
    detected_areas = box_areas(detections.boxes)
    is_outside = (detected_areas < low) | (detected_areas > high)
    return matched, is_ignored | ((matched < 0) & is_outside)


def _covered_fraction(boxes: Tensor, regions: Tensor) -> Tensor:
    """``[n, k]``, the fraction of the area of each of ``boxes`` ``[n, 4]`` in each of ``regions`` ``[k, 4]``."""
    low = boxes[:, None, :2].double().maximum(regions[:, :2].double())
    high = boxes[:, None, 2:].double().minimum(regions[:, 2:].double())
    sides = (high - low).clamp(min=0)
    return sides[..., 0] * sides[..., 1] / box_areas(boxes)[:, None].clamp(min=1e-12)


def box_areas(boxes: Tensor) -> Tensor:
    """``[n]`` areas of ``[n, 4]`` boxes in square pixels, float64."""
    sides = boxes[:, 2:].double() - boxes[:, :2].double()
    return sides[:, 0] * sides[:, 1]
