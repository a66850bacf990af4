"""Detectors as they are deployed: pixels in, boxes and scores out, with or without non-maximum suppression."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError

__all__ = ["DeployedDetector", "suppress_batch"]


@final
class DeployedDetector(nn.Module):
    """The boxes and scores of a detector; or with ``max_detections``, its detections after non-maximum suppression.

    Args:
        network: takes pixels in 0..1, and returns ``boxes`` ``[batch, n, 4]`` and ``scores`` ``[batch, n, classes]``.
        score_threshold: as of :class:`limbeck.tasks.Detection`.
        nms_threshold: likewise.
        num_candidates: likewise.
        max_detections: likewise; ``None``: no suppression.
    """

    def __init__(
        self, network: nn.Module, *, score_threshold: float, nms_threshold: float, num_candidates: int,
        max_detections: int | None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.network, self.max_detections = network, max_detections
        self.score_threshold, self.nms_threshold = score_threshold, nms_threshold
        self.num_candidates = num_candidates

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """``boxes`` and ``scores``, and with suppression ``labels``."""
        raw = self.network(pixels)
        if "scores" not in raw:
            raise LimbeckError("a detector must be in eval mode to be deployed: call eval()")
        if self.max_detections is None:
            return {"boxes": raw["boxes"], "scores": raw["scores"]}
        boxes, scores, labels = suppress_batch(
            raw["boxes"], raw["scores"], score_threshold=self.score_threshold, nms_threshold=self.nms_threshold,
            num_candidates=self.num_candidates, max_detections=self.max_detections,
        )  # fmt: skip
        return {"boxes": boxes, "scores": scores, "labels": labels}


def suppress_batch(
    boxes: Tensor, scores: Tensor, *, score_threshold: float, nms_threshold: float, num_candidates: int,
    max_detections: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """:func:`~limbeck.tasks.detection.boxes.select_detections` of all images at once, padded.

    Shapes and sizes depend on no value, so that it can be exported.

    Returns:
        ``[batch, k, 4]`` boxes, ``[batch, k]`` scores from high to low (0 in the padding) and labels (−1 there).
    """
    from torchvision.ops import nms

    batch, num_boxes, classes = scores.shape
    count = min(num_candidates, num_boxes * classes)
    values, index = scores.flatten(1).topk(count)
    rows, labels = torch.div(index, classes, rounding_mode="floor"), index % classes
    candidates = boxes.gather(1, rows[..., None].expand(-1, -1, 4))
    # Boxes of other images and classes are moved apart, so that they do not overlap.
    image = torch.arange(batch, device=boxes.device)[:, None]
    offset = (image * classes + labels).to(boxes.dtype) * (candidates.max() - candidates.min() + 1)
    kept = nms((candidates + offset[..., None]).flatten(0, 1), values.flatten(), nms_threshold)
    is_kept = torch.zeros(batch * count, dtype=boxes.dtype, device=boxes.device).index_fill(0, kept, 1.0)
    is_kept = is_kept.reshape(batch, count) * (values > score_threshold)
    best, order = (values * is_kept).topk(min(max_detections, count))
    is_padding = best <= 0
    return (
        candidates.gather(1, order[..., None].expand(-1, -1, 4)).masked_fill(is_padding[..., None], 0.0),
        best,
        labels.gather(1, order).masked_fill(is_padding, -1),
    )
