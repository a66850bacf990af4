"""The metrics of semantic segmentation, all from confusion matrices: mean IoU, pixel accuracy, mean class accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, final

import torch
from torch import Tensor

from limbeck.core.metric_spec import MetricSpec

MIOU: Final = MetricSpec(
    name="miou", label="Mean IoU", phrase="mean IoU",
    description="The mean over classes of intersection over union, of the pixels of all images together.",
)  # fmt: skip
METRICS: Final = (
    MIOU,
    MetricSpec(
        name="pixel_accuracy",
        label="Pixel accuracy",
        phrase="pixel accuracy",
        description="The fraction of the pixels with a class that are predicted correctly.",
    ),
    MetricSpec(
        name="mean_class_accuracy",
        label="Mean class accuracy",
        phrase="mean class accuracy",
        description="The mean over classes of the fraction of a class's pixels that are predicted correctly.",
    ),
)
_MAX_RECORDED_CLASSES: Final = 100
"""The confusion matrix of more classes would be most of a record."""


def confusion_matrices(predicted: Tensor, target: Tensor, *, classes: int) -> Tensor:
    """Pixels of each image by class of the target and predicted class, ``[batch, classes, classes]`` int64.

    Args:
        predicted: ``[batch, ...]`` class indices.
        target: of the same shape; pixels below 0 have no class and are left out.
        classes: number of classes.

    >>> confusion_matrices(torch.tensor([[0, 1, 1]]), torch.tensor([[0, 0, -100]]), classes=2)
    tensor([[[1, 1],
             [0, 0]]])
    """
    predicted, target, batch = predicted.flatten(1), target.flatten(1).long(), len(target)
    has_class = target >= 0
    image = torch.arange(batch, device=target.device)[:, None].expand_as(target)
    cells = ((image * classes + target) * classes + predicted)[has_class]
    return torch.bincount(cells, minlength=batch * classes**2).reshape(batch, classes, classes)


def intersections_and_unions(confusion: Tensor) -> Tensor:
    """``[..., 2·classes]`` float64: the intersection of each class, then the union of each.

    >>> intersections_and_unions(torch.tensor([[2, 1], [0, 3]]))
    tensor([2., 3., 3., 4.], dtype=torch.float64)
    """
    confusion = confusion.double()
    intersections = confusion.diagonal(dim1=-2, dim2=-1)
    unions = confusion.sum(dim=-1) + confusion.sum(dim=-2) - intersections
    return torch.cat([intersections, unions], dim=-1)


def iou_by_class(sums: Tensor) -> Tensor:
    """Intersection over union of each class, ``[..., classes]``; NaN for a class without a union.

    Args:
        sums: ``[..., 2·classes]``, see :func:`intersections_and_unions`.
    """
    intersections, unions = sums.chunk(2, dim=-1)
    return intersections / unions  # 0 / 0 is NaN


def mean_iou(sums: Tensor) -> Tensor:
    """Mean over the classes that have a union (in the target or the predictions), ``[...]``; NaN without any.

    >>> mean_iou(torch.tensor([1.0, 0.0, 2.0, 0.0]))
    tensor(0.5000)
    """
    return iou_by_class(sums).nanmean(dim=-1)


@final
class SegmentationMetrics:
    """Metrics of confusion matrices, summed over batches.

    Args:
        classes: number of classes.
        inference: settings of inference that differ from one pass over the whole image, for the record.
    """

    def __init__(self, classes: int, *, inference: Mapping[str, Any] | None = None) -> None:
        self._inference = dict(inference or {})
        self._confusion = torch.zeros(classes, classes, dtype=torch.int64)
        self._num_images = torch.zeros(classes, dtype=torch.int64)

    def update(self, confusion: Tensor) -> None:
        """Add the confusion matrices of the labeled images of a batch, ``[batch, classes, classes]``."""
        confusion = confusion.cpu()
        self._confusion += confusion.sum(dim=0)
        self._num_images += (confusion.sum(dim=2) > 0).sum(dim=0)

    def compute(self) -> Mapping[str, Any]:
        """The metrics by name, as fractions.

        ``per_class`` is the IoU of each class (NaN where neither target nor predictions have it),
        ``class_num_samples`` the number of images whose target has it. The mean class accuracy is over the classes in
        the target. ``inference`` is there if not empty, and ``confusion_matrix`` up to 100 classes: a row for each
        class of the target, a column for each predicted class.
        """
        sums = intersections_and_unions(self._confusion)
        correct, num_pixels = self._confusion.diagonal().double(), self._confusion.sum(dim=1).double()
        is_recorded = len(self._confusion) <= _MAX_RECORDED_CLASSES
        confusion = {"confusion_matrix": {"unit": "pixels", "counts": self._confusion.tolist()}} if is_recorded else {}
        return {
            "miou": float(mean_iou(sums)),
            "pixel_accuracy": float(correct.sum() / num_pixels.sum()),
            "mean_class_accuracy": float((correct / num_pixels).nanmean()),
            "per_class": iou_by_class(sums).tolist(),
            "class_num_samples": self._num_images.tolist(),
            **confusion,
            **({"inference": self._inference} if self._inference else {}),
        }
