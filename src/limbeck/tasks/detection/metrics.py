"""The metrics of object detection, as COCO's: average precision over thresholds of intersection over union (IoU).

Lin et al., 2014, https://arxiv.org/abs/1405.0312, and the definition at https://cocodataset.org/#detection-eval: the
detections of a class, from high to low scores, are matched with the boxes of their image, and average precision (AP)
is the mean of the precision at 101 recalls, where the precision at a recall is the largest at that recall or above.
Detections of equal score are one step of the curve, so that it does not depend on the order of images; COCO's code
takes them in the order of images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, final

import numpy as np
import torch
from torch import Tensor

from limbeck.core.metric_spec import MetricSpec
from limbeck.tasks.detection.boxes import Detections, TargetBoxes, box_areas, match_detections

IOU_THRESHOLDS: Final = torch.from_numpy(np.linspace(0.5, 0.95, 10))
_RECALLS: Final = torch.from_numpy(np.linspace(0.0, 1.0, 101))
_AREAS: Final = {
    "map": (0.0, float("inf")), "map_small": (0.0, 32.0**2), "map_medium": (32.0**2, 96.0**2),
    "map_large": (96.0**2, float("inf")),
}  # fmt: skip
_MAX_ELEMENTS: Final = 2_000_000

MAP: Final = MetricSpec(
    name="map", label="mAP", phrase="mAP",
    description="COCO's mean over classes and IoU thresholds from 0.5 to 0.95 of average precision.",
)  # fmt: skip
MAP_50: Final = MetricSpec(
    name="map_50", label="mAP50", phrase="mAP50", description="Mean over classes of average precision at IoU 0.5."
)
MAP_75: Final = MetricSpec(
    name="map_75", label="mAP75", phrase="mAP75", description="Mean over classes of average precision at IoU 0.75."
)
METRICS: Final = (
    MAP, MAP_50, MAP_75,
    MetricSpec(name="map_small", label="mAP small", phrase="mAP of small boxes",
               description="mAP of boxes with an area of up to 32² pixels of the network's input."),
    MetricSpec(name="map_medium", label="mAP medium", phrase="mAP of medium boxes",
               description="mAP of boxes with an area of 32² to 96² pixels of the network's input."),
    MetricSpec(name="map_large", label="mAP large", phrase="mAP of large boxes",
               description="mAP of boxes with an area of 96² pixels of the network's input or more."),
)  # fmt: skip


def image_statistics(detections: Detections, target: TargetBoxes, *, classes: int, max_detections: int) -> Tensor:
    """``[3 · max_detections + classes]`` float64 from which :func:`mean_average_precision` is computed.

    The scores of the detections (−1 in the padding), their classes, their matches as a number whose bit t is set where
    the detection is matched at ``IOU_THRESHOLDS[t]``, and bit 10 + t where it is ignored there, and the number of boxes
    of each class that are not ignored.
    """
    matched, ignored = match_detections(detections, *target, thresholds=IOU_THRESHOLDS)
    columns = torch.full((3, max_detections), -1.0, dtype=torch.float64)
    columns[2] = 0.0
    flags = torch.cat([matched >= 0, ignored])
    bits = (flags * 2 ** torch.arange(len(flags))[:, None]).sum(dim=0)
    columns[:, : len(detections.scores)] = torch.stack(
        [detections.scores.double(), detections.labels.double(), bits.double()]
    )
    return torch.cat([columns.flatten(), torch.bincount(target.counted().labels, minlength=classes).double()])


def mean_average_precision(
    statistics: Tensor, weights: Tensor | None, *, classes: int, iou_indices: Sequence[int] = tuple(range(10))
) -> Tensor:
    """Mean average precision (mAP) of images with these statistics, a scalar or ``[resamples]``; NaN without any box.

    Args:
        statistics: ``[n, k]``, see :func:`image_statistics`.
        weights: ``[resamples, n]``, how often each resample has each image; ``None``: each image once.
        classes: number of classes.
        iou_indices: which of ``IOU_THRESHOLDS``.
    """
    image_weights = torch.ones(1, len(statistics)) if weights is None else weights
    num_boxes = image_weights.double() @ statistics[:, -classes:].double()
    scores, labels, bits = statistics[:, :-classes].double().reshape(len(statistics), 3, -1).unbind(dim=1)
    by_class = []
    for c in range(classes):
        image, column = (labels == c).nonzero(as_tuple=True)
        class_bits = bits[image, column].long()
        matches = torch.stack([(class_bits >> t) % 2 == 1 for t in iou_indices])
        ignored = torch.stack([(class_bits >> (t + len(IOU_THRESHOLDS))) % 2 == 1 for t in iou_indices])
        step = max(1, _MAX_ELEMENTS // max(1, len(image)))
        chunks = [
            average_precision(scores[image, column], matches, chunk[:, image].double(), counts, ignored)
            for chunk, counts in zip(torch.split(image_weights, step), torch.split(num_boxes[:, c], step), strict=True)
        ]
        by_class.append(torch.cat(chunks))
    values = torch.cat(by_class, dim=1).nanmean(dim=1)
    return values[0] if weights is None else values


def average_precision(
    scores: Tensor, matches: Tensor, weights: Tensor, num_boxes: Tensor, ignored: Tensor | None = None
) -> Tensor:
    """Average precision of one class, ``[resamples, thresholds]``; NaN where a resample has no box.

    Args:
        scores: ``[m]`` of all detections of the class.
        matches: ``[thresholds, m]`` booleans, whether a detection is matched with a box.
        weights: ``[resamples, m]``, how often a resample has each detection.
        num_boxes: ``[resamples]``.
        ignored: ``[thresholds, m]`` booleans, whether a detection counts neither as right nor as wrong.

    >>> scores, matches = torch.tensor([0.9, 0.8, 0.7]), torch.tensor([[True, False, True]])
    >>> average_precision(scores, matches, torch.ones(1, 3).double(), torch.tensor([2.0]).double())
    tensor([[0.8350]], dtype=torch.float64)
    """
    values = torch.stack(
        [precision.mean(dim=1) for precision in precision_at_recalls(scores, matches, weights, num_boxes, ignored)],
        dim=1,
    )
    return values.masked_fill(num_boxes[:, None] == 0, torch.nan)


def precision_at_recalls(
    scores: Tensor, matches: Tensor, weights: Tensor, num_boxes: Tensor, ignored: Tensor | None = None
) -> list[Tensor]:
    """The precision at 101 recalls from 0 to 1, ``[resamples, 101]`` for each threshold; see :func:`average_precision`.

    The largest precision at a recall or above is reached at a match, so only matches are points of the curve.
    """
    order = scores.argsort(descending=True)
    scores, matches, weights = scores[order], matches[:, order], weights[:, order]
    is_end = torch.cat([scores.diff() != 0, torch.ones(min(1, len(scores)), dtype=torch.bool)])
    # The last position of the detections of equal score, for each detection.
    group_end = is_end.nonzero()[:, 0][is_end.long().cumsum(0) - is_end.long()]
    has_ignored = ignored is not None and bool(ignored.any())
    counted = ~ignored[:, order] if ignored is not None and has_ignored else torch.ones_like(matches)
    num_selected, curves = weights.cumsum(dim=1), []
    recalls = _RECALLS.expand(len(weights), -1).contiguous()
    for is_match, is_counted in zip(matches, counted, strict=True):
        if has_ignored:
            num_selected = (weights * is_counted).cumsum(dim=1)
        hits = (is_match & is_counted).nonzero()[:, 0]
        ends = group_end[hits]
        is_last = torch.cat([ends.diff() != 0, torch.ones(min(1, len(ends)), dtype=torch.bool)])
        num_correct = weights[:, hits].cumsum(dim=1)[:, is_last]
        precision = num_correct / num_selected[:, ends[is_last]].clamp(min=1)
        largest = precision.flip(1).cummax(dim=1).values.flip(1) if precision.shape[1] else precision
        recall = num_correct / num_boxes[:, None].clamp(min=1)
        index = torch.searchsorted(recall.contiguous(), recalls)
        curves.append(torch.nn.functional.pad(largest, (0, 1)).gather(1, index))
    return curves


@final
class DetectionMetrics:
    """Mean average precision, also by size of boxes, AP of each class, and precision over recall at IoU 0.5.

    Args:
        classes: number of classes.
    """

    def __init__(self, classes: int) -> None:
        self._classes = classes
        self._scores, self._labels = list[Tensor](), list[Tensor]()
        self._matches: dict[str, list[Tensor]] = {name: [] for name in _AREAS}
        self._ignored: dict[str, list[Tensor]] = {name: [] for name in _AREAS}
        self._num_boxes = dict.fromkeys(_AREAS, torch.zeros(classes, dtype=torch.long))
        self._num_images = torch.zeros(classes, dtype=torch.long)

    def update(self, detections: Sequence[Detections], targets: Sequence[TargetBoxes]) -> None:
        """Add the detections of some images, with the boxes of their targets."""
        for found, target in zip(detections, targets, strict=True):
            counted = target.counted()
            self._scores.append(found.scores.double())
            self._labels.append(found.labels)
            self._num_images += torch.bincount(counted.labels, minlength=self._classes) > 0
            areas = box_areas(counted.boxes)
            for name, area in _AREAS.items():
                matched, ignored = match_detections(found, *target, thresholds=IOU_THRESHOLDS, area_range=area)
                self._matches[name].append(matched >= 0)
                self._ignored[name].append(ignored)
                labels = counted.labels[(areas >= area[0]) & (areas <= area[1])]
                self._num_boxes[name] = self._num_boxes[name] + torch.bincount(labels, minlength=self._classes)

    def compute(self) -> Mapping[str, Any]:
        """The metrics by name, as fractions; NaN where there is no box.

        ``per_class`` is the AP of each class, ``class_num_samples`` the number of images with a box of it, and
        ``precision_at_recalls`` its precision at IoU 0.5 at the recalls 0, 0.01, … 1 (``None`` without a box).
        """
        by_area = {name: self._by_class(name) for name in _AREAS}
        precision = by_area["map"]
        values = {name: float(table.mean(dim=(1, 2)).nanmean()) for name, table in by_area.items()}
        return {
            **values,
            "map_50": float(precision[:, 0].mean(dim=1).nanmean()),
            "map_75": float(precision[:, 5].mean(dim=1).nanmean()),
            "per_class": precision.mean(dim=(1, 2)).tolist(),
            "class_num_samples": self._num_images.tolist(),
            "precision_at_recalls": [
                None if row.isnan().any() else [round(value, 4) for value in row.tolist()] for row in precision[:, 0]
            ],
        }

    def _by_class(self, name: str) -> Tensor:
        """``[classes, thresholds, 101]`` precisions; NaN for a class without a box."""
        table = torch.full((self._classes, len(IOU_THRESHOLDS), len(_RECALLS)), torch.nan, dtype=torch.float64)
        if not self._scores:
            return table
        scores, labels = torch.cat(self._scores), torch.cat(self._labels)
        matches, ignored = torch.cat(self._matches[name], dim=1), torch.cat(self._ignored[name], dim=1)
        for c in self._num_boxes[name].nonzero()[:, 0].tolist():
            count = self._num_boxes[name][c : c + 1].double()
            for t in range(len(IOU_THRESHOLDS)):
                kept = (labels == c) & ~ignored[t]
                ones = torch.ones(1, int(kept.sum()), dtype=torch.float64)
                table[c, t] = precision_at_recalls(scores[kept], matches[t : t + 1, kept], ones, count)[0][0]
        return table
