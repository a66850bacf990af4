"""Object detection: a row is an anchor or a location of the head, the target is boxes with classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, final

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.core.metric_spec import MetricSpec
from limbeck.core.outputs import Outputs
from limbeck.core.task import Example, ModelInputs, Scores
from limbeck.data.box_store import COUNTED
from limbeck.data.normalization import NormalizedModel
from limbeck.losses.temperature import DETECTION, Range
from limbeck.models.detector import require_detector_call
from limbeck.tasks.detection.boxes import Detections, TargetBoxes, select_detections
from limbeck.tasks.detection.codec import decode_detector_outputs, encode_detector_outputs
from limbeck.tasks.detection.deploy import DeployedDetector
from limbeck.tasks.detection.metrics import (
    MAP,
    MAP_50,
    MAP_75,
    METRICS,
    DetectionMetrics,
    image_statistics,
    mean_average_precision,
)
from limbeck.tasks.detection.report import detection_examples
from limbeck.utils.batch_fields import get_input, get_sample_ids

__all__ = ["Detection"]

_OUTPUTS: Final = ("logits", "box_deltas", "row_boxes", "anchors", "level")
_BY_ROW: Final = ("centerness_logits", "box_logits")


_MAX_DETECTIONS: Final = 10_000


@final
@dataclass(frozen=True, slots=True)
class Detection:
    """Boxes with classes.

    A batch is a mapping with ``input`` ``[batch, channels, height, width]``, ``boxes`` ``[batch, k, 4]`` (left, top,
    right, bottom in pixels), ``labels`` ``[batch, k]`` (−100 in the padding) and ``num_boxes`` ``[batch]`` (−1: not
    annotated). With ``ignored`` ``[batch, k]``, boxes after the first ``num_boxes`` with a value of 1 or 2 (a crowd)
    are neither trained on nor counted in metrics. The network is a :class:`limbeck.models.Detector`, or returns what it
    returns.

    Rows are the anchors of all levels of the head, or its locations, image after image: ``logits`` ``[rows, classes]``,
    and ``by_row`` ``anchors``, ``boxes``, ``box_deltas`` and ``level``. They depend on the anchors of the network:
    student and teacher have the same ones if both have the same kind of head, levels, strides and anchor sizes. Else
    losses on logits are refused, and losses on features work.

    Args:
        classes: number of classes, without the background.
        score_threshold: lowest score of a detection.
        nms_threshold: IoU of two boxes of a class from which on the one of the lower score is left out.
        max_detections: most detections of an image; COCO has 100.
        num_candidates: most pairs of box and class of an image that enter non-maximum suppression.
        cached_rows: number of rows of an image that a cache stores, those with the highest scores; ``None``: all rows.
            The other rows get the mean of their logits and no boxes.
        export_nms: whether the exported network ends with non-maximum suppression.
    """

    classes: int
    score_threshold: float = 0.05
    nms_threshold: float = 0.5
    max_detections: int = 100
    num_candidates: int = 1000
    cached_rows: int | None = None
    export_nms: bool = False
    temperatures: ClassVar[Range] = DETECTION
    primary_metric: ClassVar[MetricSpec] = MAP
    monitored_metrics: ClassVar[tuple[MetricSpec, ...]] = (MAP,)
    metric_specs: ClassVar[tuple[MetricSpec, ...]] = METRICS
    supervised_loss: ClassVar[str] = "DetectionLoss"
    max_resamples: ClassVar[int] = 1_000
    pipeline_tag: ClassVar[str] = "object-detection"
    input_axes: ClassVar[Mapping[str, Mapping[int, str]]] = {"input": {0: "batch"}}

    def __post_init__(self) -> None:
        if self.classes < 1 or self.num_candidates < 1:
            raise LimbeckError(f"classes and num_candidates must be at least 1, got {self}")
        if not 1 <= self.max_detections <= _MAX_DETECTIONS:
            raise LimbeckError(f"max_detections must be from 1 to {_MAX_DETECTIONS}, got {self.max_detections}")
        if not (0 <= self.score_threshold < 1 and 0 < self.nms_threshold <= 1):
            raise LimbeckError(f"score_threshold must be in [0, 1) and nms_threshold in (0, 1], got {self}")
        if self.cached_rows is not None and self.cached_rows < 1:
            raise LimbeckError(f"cached_rows must be at least 1, or None for all rows, got {self.cached_rows}")

    @property
    def output_axes(self) -> Mapping[str, Mapping[int, str]]:
        """``boxes`` and ``scores`` of each row; with ``export_nms`` of each detection, and ``labels``."""
        names = ("boxes", "scores", "labels") if self.export_nms else ("boxes", "scores")
        return {name: {0: "batch"} for name in names}

    @property
    def compared_outputs(self) -> tuple[str, ...]:
        """The outputs that do not depend on the order of nearly equal scores."""
        return ("scores",) if self.export_nms else ("boxes", "scores")

    @property
    def output_description(self) -> str:
        """What the exported network returns, for the metadata of the file."""
        boxes = "boxes are left, top, right, bottom in pixels of the input"
        if not self.export_nms:
            return f"{boxes} [batch, n, 4]; scores [batch, n, classes] are in 0..1; without non-maximum suppression"
        return (
            f"{boxes} [batch, {self.max_detections}, 4]; scores [batch, {self.max_detections}] are in 0..1, from high "
            f"to low, 0 in the padding; labels [batch, {self.max_detections}] are class indices, -1 in the padding; "
            f"after non-maximum suppression at IoU {self.nms_threshold} of scores above {self.score_threshold}"
        )

    def outputs(self, network: nn.Module, batch: Any) -> Outputs:
        """One row per anchor; ``extra`` has the losses of a network that is trained, see ``DetectionLoss``."""
        require_detector_call(network)
        is_trained = any(parameter.requires_grad for parameter in network.parameters())
        targets = self._targets(batch) if is_trained else None
        images = get_input(batch)
        return self._rows(network(images) if targets is None else network(images, targets), len(images))

    def has_sigmoid_classes(self, outputs: Outputs) -> bool:
        """Whether the head has no class for the background, as all but that of SSDLite."""
        return outputs.require_logits().shape[1] != self.classes + 1

    def target(self, batch: Any) -> None:
        """No target by row: which anchor is for which box is a choice of the head."""
        return

    def sample_targets(self, batch: Any) -> Mapping[str, Tensor]:
        """``boxes``, ``labels``, ``num_boxes`` and ``ignored`` of the batch, and ``image_size`` ``[batch, 2]``."""
        images = get_input(batch)
        size = torch.tensor(images.shape[-2:], device=images.device).expand(len(images), 2)
        return {**(self._targets(batch) or {}), "image_size": size}

    def monitor(self, network: nn.Module, batch: Any) -> Tensor:
        """The statistics of :meth:`score`."""
        return self.score(network, batch).statistics

    def score(self, network: nn.Module, batch: Any) -> Scores:
        """Detections; the statistics are scores, classes and matches of detections, and numbers of boxes."""
        require_detector_call(network)
        raw = network(get_input(batch))
        if not isinstance(raw, Mapping) or "boxes" not in raw or "scores" not in raw:
            raise LimbeckError(f"the network must return boxes and scores in eval mode, got {_describe(raw)}")
        for name in ("boxes", "scores"):
            if not bool(raw[name].isfinite().all()):
                raise LimbeckError(
                    f"{name} of the network must be finite, got NaN or infinity: check its weights and the images"
                )
        detections = self._detections(raw)
        targets = self._image_targets(batch, len(detections))
        labeled = [(found, target) for found, target in zip(detections, targets, strict=True) if target is not None]
        columns = tuple(zip(*labeled, strict=True)) if labeled else ((), ())
        return Scores(self._statistics(detections, targets), detections, columns)

    def metric_value(
        self, statistics: Tensor, weights: Tensor | None = None, *, metric: MetricSpec | None = None
    ) -> Tensor:
        """The mAP, or mAP50 or mAP75 of the same statistics."""
        indices = {MAP_50: (0,), MAP_75: (5,)}.get(metric or MAP, tuple(range(10)))
        return mean_average_precision(statistics, weights, classes=self.classes, iou_indices=indices)

    def metrics(self) -> DetectionMetrics:
        """The mAP, also by size of boxes, and AP of each class."""
        return DetectionMetrics(self.classes)

    def model_inputs(self, batch: Any) -> ModelInputs:
        """The image."""
        return ModelInputs((get_input(batch),))

    def encode_outputs(self, outputs: Outputs, batch: Any) -> Mapping[str, Tensor]:
        """Logits, boxes, offsets, anchors and levels of all rows, or of ``cached_rows`` rows without anchors."""
        return encode_detector_outputs(outputs, len(get_input(batch)), classes=self.classes, num_rows=self.cached_rows)

    def decode_outputs(self, stored: Mapping[str, Tensor], batch: Any) -> Outputs:
        """The outputs again; with ``cached_rows``, ``by_row["is_cached"]`` says which rows were stored."""
        return decode_detector_outputs(stored)

    def examples(self, batch: Any, scores: Mapping[str, Scores], facts: Mapping[str, Any]) -> list[Example]:
        """Images with the boxes of the target, and of each network with its errors."""
        pixels = get_input(batch)
        names = facts.get("class_names") or [str(index) for index in range(self.classes)]
        targets = self._image_targets(batch, len(pixels))
        return detection_examples(pixels, targets, get_sample_ids(batch, len(pixels)), scores, names)

    def deployment_model(self, network: nn.Module, data: Any) -> nn.Module:
        """The network with the normalization of the data: takes pixels in 0..1, returns boxes and scores."""
        return DeployedDetector(
            NormalizedModel(network, data.normalization, num_dims=3), score_threshold=self.score_threshold,
            nms_threshold=self.nms_threshold, num_candidates=self.num_candidates,
            max_detections=self.max_detections if self.export_nms else None,
        )  # fmt: skip

    def _detections(self, raw: Mapping[str, Tensor]) -> list[Detections]:
        """The detections of each image, selected here where the network has not done so."""
        if "labels" in raw:
            images = zip(*(raw[name].cpu() for name in ("boxes", "scores", "labels")), strict=True)
            return [Detections(*(part[image[2] >= 0] for part in image)) for image in images]
        if raw["scores"].shape[2] != self.classes:
            raise LimbeckError(
                f"scores of the network must be of {self.classes} classes, got {raw['scores'].shape[2]}: build it with "
                "the classes of the task"
            )
        return [
            select_detections(
                boxes, scores, score_threshold=self.score_threshold, nms_threshold=self.nms_threshold,
                num_candidates=self.num_candidates, max_detections=self.max_detections,
            )
            for boxes, scores in zip(raw["boxes"], raw["scores"], strict=True)
        ]  # fmt: skip

    def _image_targets(self, batch: Any, batch_size: int) -> list[TargetBoxes | None]:
        """The boxes of each image on the CPU; ``None`` for an image without annotations."""
        targets = self._targets(batch)
        if targets is None:
            return [None] * batch_size
        boxes, labels, counts = (targets[name].cpu() for name in ("boxes", "labels", "num_boxes"))
        ignored = targets["ignored"].cpu() if "ignored" in targets else torch.zeros_like(labels)
        is_box = (torch.arange(labels.shape[1]) < counts[:, None]) | (ignored != COUNTED)
        return [
            TargetBoxes(boxes[i, is_box[i]], labels[i, is_box[i]], ignored[i, is_box[i]]) if count >= 0 else None
            for i, count in enumerate(counts.tolist())
        ]

    def _statistics(self, detections: list[Detections], targets: list[TargetBoxes | None]) -> Tensor:
        rows = torch.full((len(detections), 3 * self.max_detections + self.classes), torch.nan, dtype=torch.float64)
        for row, found, target in zip(rows, detections, targets, strict=True):
            if target is not None:
                row.copy_(image_statistics(found, target, classes=self.classes, max_detections=self.max_detections))
        return rows

    def _rows(self, raw: Any, batch_size: int) -> Outputs:
        if not isinstance(raw, Mapping) or any(name not in raw for name in _OUTPUTS):
            raise LimbeckError(
                f"the network must return {', '.join(_OUTPUTS)} by name, got {_describe(raw)}: use "
                "limbeck.models.detector, or limbeck.models.Detector(network) around a detector of torchvision"
            )
        num_rows = len(raw["anchors"])
        by_row = {
            "anchors": raw["anchors"].repeat(batch_size, 1), "boxes": raw["row_boxes"].flatten(0, 1),
            "box_deltas": raw["box_deltas"].flatten(0, 1), "level": raw["level"].repeat(batch_size),
            **{name: raw[name].flatten(0, 1) for name in _BY_ROW if name in raw},
        }  # fmt: skip
        samples = torch.arange(batch_size, device=raw["logits"].device)
        return Outputs(
            logits=raw["logits"].flatten(0, 1),
            by_row=by_row,
            extra={name: value for name, value in raw.items() if name.startswith("loss_")},
            row_to_sample=samples.repeat_interleave(num_rows, output_size=batch_size * num_rows),
        )

    def _targets(self, batch: Any) -> dict[str, Tensor] | None:
        """``boxes``, ``labels``, ``num_boxes`` and, if given, ``ignored`` of a batch; ``None`` without boxes."""
        if not isinstance(batch, Mapping) or "boxes" not in batch:
            return None
        boxes, labels, counts = (batch[name] for name in ("boxes", "labels", "num_boxes"))
        if boxes.shape != (len(counts), labels.shape[1], 4) or labels.shape[0] != len(counts):
            raise LimbeckError(
                f"boxes must be [batch, k, 4], labels [batch, k] and num_boxes [batch], got {list(boxes.shape)}, "
                f"{list(labels.shape)} and {list(counts.shape)}"
            )
        # Only on the CPU, since reading values synchronizes a device.
        if labels.is_cpu and labels.numel() and int(labels.max()) >= self.classes:
            raise LimbeckError(
                f"labels of boxes must be from 0 to {self.classes - 1}, got {int(labels.max())}: set the task's classes"
            )
        ignored = {"ignored": batch["ignored"]} if "ignored" in batch else {}
        for flags in ignored.values():
            require_ignored(flags, labels, counts)
        return {"boxes": boxes, "labels": labels, "num_boxes": counts, **ignored}


def require_ignored(ignored: Tensor, labels: Tensor, counts: Tensor) -> None:
    """Refuse ``ignored`` of another shape, or of boxes before those that are counted."""
    if ignored.shape != labels.shape:
        raise LimbeckError(f"ignored must be [batch, k] as labels, got {list(ignored.shape)} and {list(labels.shape)}")
    # Only on the CPU, as for labels.
    is_counted = torch.arange(labels.shape[1], device=labels.device) < counts[:, None]
    if ignored.is_cpu and bool(((ignored != COUNTED) & is_counted).any()):
        raise LimbeckError("ignored boxes must come after the num_boxes boxes that count: sort them")


def _describe(raw: Any) -> str:
    return ", ".join(map(str, raw)) if isinstance(raw, Mapping) else f"a {type(raw).__name__}"
