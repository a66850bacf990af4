"""The outputs and losses of torchvision's detectors for a batch of images of one size, by torchvision's own modules.

https://docs.pytorch.org/vision/stable/models.html#object-detection. The detector's transform, which resizes and
normalizes, is not used. A row is an anchor (of FCOS a location) of the head: all anchors of the first level, then those
of the next. Those of Faster R-CNN are the anchors of its region proposal network, since the proposals, which depend on
the weights, are others in each network.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import fastrcnn_loss
from torchvision.models.detection.rpn import concat_box_prediction_layers
from torchvision.models.detection.ssd import SSD
from torchvision.ops import clip_boxes_to_image

from limbeck.models.ignored_boxes import exclude_background, hide_background, match_anchors

__all__ = ["count_classes", "detector_outputs", "is_detector"]

Targets = Mapping[str, Tensor]


def is_detector(network: object) -> bool:
    """Whether ``network`` is a detector of torchvision that :func:`detector_outputs` supports."""
    return isinstance(network, RetinaNet | FCOS | SSD | FasterRCNN)


def count_classes(network: Any) -> int:
    """Number of classes of the detector, without the background."""
    if isinstance(network, FasterRCNN):
        return int(network.roi_heads.box_predictor.cls_score.out_features) - 1
    if isinstance(network, SSD):
        return int(network.head.classification_head.num_columns) - 1
    return int(network.head.classification_head.num_classes)


def detector_outputs(network: Any, images: Tensor, targets: Targets | None) -> dict[str, Tensor]:
    """See :class:`limbeck.models.Detector`.

    Args:
        network: a detector of torchvision, see :func:`is_detector`.
        images: ``[batch, channels, height, width]``.
        targets: ``boxes``, ``labels``, ``num_boxes`` and, if there are any, ``ignored``; or ``None``.
    """
    features = network.backbone(images)
    features = {"0": features} if isinstance(features, Tensor) else features
    run = _run_two_stage if isinstance(network, FasterRCNN) else _run_one_stage
    return run(network, images, features, targets)


def _run_one_stage(
    network: Any, images: Tensor, features: Mapping[str, Tensor], targets: Targets | None
) -> dict[str, Tensor]:
    maps = list(features.values())
    head = {name: _upcast(tensor) for name, tensor in network.head(maps).items()}
    anchors, counts = _make_anchors(network.anchor_generator, images, maps)
    row_boxes = _decode_boxes(network.box_coder, head["bbox_regression"], anchors)
    outputs = {
        "logits": head["cls_logits"], "box_deltas": head["bbox_regression"], "row_boxes": row_boxes,
        "anchors": anchors, "level": _levels(counts, images.device),
    }  # fmt: skip
    if "bbox_ctrness" in head:
        outputs["centerness_logits"] = head["bbox_ctrness"].squeeze(2)
    if not network.training:
        outputs["boxes"], outputs["scores"] = clip_boxes_to_image(row_boxes, _size(images)), _scores(network, outputs)
    if targets is not None:
        outputs |= _one_stage_losses(network, head, anchors, counts, targets)
    return outputs


def _run_two_stage(
    network: Any, images: Tensor, features: Mapping[str, Tensor], targets: Targets | None
) -> dict[str, Tensor]:
    rpn, batch = network.rpn, len(images)
    objectness, deltas = rpn.head(list(features.values()))
    anchors, counts = _make_anchors(rpn.anchor_generator, images, list(features.values()))
    logits, box_deltas = (_upcast(x).reshape(batch, sum(counts), -1) for x in _join_levels(objectness, deltas))
    row_boxes = _decode_boxes(rpn.box_coder, box_deltas, anchors)
    outputs = {
        "logits": logits, "box_deltas": box_deltas, "row_boxes": row_boxes, "anchors": anchors,
        "level": _levels(counts, images.device),
    }  # fmt: skip
    if targets is None and network.training:
        return outputs
    proposals, _ = rpn.filter_proposals(row_boxes.detach(), logits.detach(), [_size(images)] * batch, counts)
    if not network.training:
        outputs["boxes"], outputs["scores"] = _detect_in_proposals(network, images, features, proposals)
    if targets is not None:
        outputs |= _two_stage_losses(network, images, features, proposals, outputs, targets)
    return outputs


def _one_stage_losses(
    network: Any, head: Mapping[str, Tensor], anchors: Tensor, counts: list[int], targets: Targets
) -> dict[str, Tensor]:
    labeled, boxes = _list_targets(targets, first_label=1 if isinstance(network, SSD) else 0)
    if not boxes:
        return {"loss_classification": torch.stack([tensor.sum() for tensor in head.values()]).sum() * 0.0}
    head = {name: tensor[labeled] for name, tensor in head.items()}
    if _has_ignored(boxes):
        head["cls_logits"] = hide_background(network, head["cls_logits"], anchors, boxes)
    all_anchors = [anchors] * len(boxes)
    if isinstance(network, FCOS):
        losses = network.compute_loss(boxes, head, all_anchors, counts)
    elif isinstance(network, SSD):
        losses = network.compute_loss(boxes, head, all_anchors, [match_anchors(network, anchors, t) for t in boxes])
    else:
        losses = network.compute_loss(boxes, head, all_anchors)
    return {f"loss_{name}": loss for name, loss in losses.items()}


def _two_stage_losses(
    network: Any, images: Tensor, features: Mapping[str, Tensor], proposals: list[Tensor],
    outputs: Mapping[str, Tensor], targets: Targets,
) -> dict[str, Tensor]:  # fmt: skip
    rpn, roi = network.rpn, network.roi_heads
    labeled, boxes = _list_targets(targets, first_label=1)
    if not boxes:
        return {"loss_objectness": 0.0 * (outputs["logits"].sum() + outputs["box_deltas"].sum())}
    anchors = [outputs["anchors"]] * len(boxes)
    labels, matched_boxes = rpn.assign_targets_to_anchors(anchors, boxes)
    if _has_ignored(boxes):  # −1: not sampled
        labels = exclude_background(labels, anchors, boxes, value=-1)
    objectness, rpn_box = rpn.compute_loss(
        outputs["logits"][labeled].flatten(), outputs["box_deltas"][labeled].flatten(0, 1), labels,
        rpn.box_coder.encode(matched_boxes, anchors),
    )  # fmt: skip
    sampled, _, labels, regression_targets = roi.select_training_samples([proposals[i] for i in labeled], boxes)
    if _has_ignored(boxes):  # −100: ignored by the cross-entropy
        labels = exclude_background(labels, sampled, boxes, value=-100)
    maps = {name: _upcast(tensor)[labeled] for name, tensor in features.items()}
    pooled = roi.box_head(roi.box_roi_pool(maps, sampled, [_size(images)] * len(boxes)))
    classifier, box = fastrcnn_loss(*map(_upcast, roi.box_predictor(pooled)), labels, regression_targets)
    return {
        "loss_objectness": objectness, "loss_rpn_box_reg": rpn_box, "loss_classifier": classifier, "loss_box_reg": box,
    }  # fmt: skip


def _detect_in_proposals(
    network: Any, images: Tensor, features: Mapping[str, Tensor], proposals: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """Boxes ``[batch, n, 4]`` after non-maximum suppression, and their scores ``[batch, n, classes]``, one not zero."""
    roi, sizes = network.roi_heads, [_size(images)] * len(images)
    pooled = roi.box_head(roi.box_roi_pool(features, proposals, sizes))
    class_logits, box_regression = map(_upcast, roi.box_predictor(pooled))
    results = roi.postprocess_detections(class_logits, box_regression, proposals, sizes)
    boxes = class_logits.new_zeros(len(images), roi.detections_per_img, 4)
    scores = boxes.new_zeros(*boxes.shape[:2], class_logits.shape[1] - 1)
    for i, (image_boxes, image_scores, labels) in enumerate(zip(*results, strict=True)):
        boxes[i, : len(labels)] = image_boxes
        scores[i, torch.arange(len(labels), device=labels.device), labels - 1] = image_scores
    return boxes, scores


def _make_anchors(generator: Any, images: Tensor, maps: list[Tensor]) -> tuple[Tensor, list[int]]:
    """Anchors ``[rows, 4]``, the same for each image, and their number on each level."""
    # In float32, since the integers up to 512 of anchors are not exact in bfloat16.
    image_list = ImageList(images[:1], [_size(images)])
    anchors: Tensor = generator(image_list, [_upcast(tensor[:1]) for tensor in maps])[0]
    per_location = generator.num_anchors_per_location()
    return anchors, [n * x.shape[-2] * x.shape[-1] for n, x in zip(per_location, maps, strict=True)]


def _decode_boxes(coder: Any, deltas: Tensor, anchors: Tensor) -> Tensor:
    if isinstance(coder, BoxCoder):
        expanded = anchors.expand(deltas.shape[0], -1, -1)  # len() would fix the batch size of an exported graph
        decoded: Tensor = coder.decode_single(deltas.flatten(0, 1), expanded.flatten(0, 1))
    else:
        decoded = coder.decode(deltas, anchors)
    return decoded.reshape(deltas.shape)


def _scores(network: Any, outputs: Mapping[str, Tensor]) -> Tensor:
    """``[batch, rows, classes]`` probabilities."""
    logits = outputs["logits"]
    if isinstance(network, SSD):
        return F.softmax(logits, dim=2)[..., 1:]
    if isinstance(network, FCOS):
        return (logits.sigmoid() * outputs["centerness_logits"].sigmoid()[..., None]).sqrt()
    return logits.sigmoid()


def _list_targets(targets: Targets, *, first_label: int) -> tuple[list[int], list[dict[str, Tensor]]]:
    """The positions of the images with annotations, and their boxes and labels as torchvision takes them.

    ``ignored`` are those of the boxes that are ignored.
    """
    counts: list[int] = targets["num_boxes"].tolist()
    labeled = [i for i, count in enumerate(counts) if count >= 0]
    boxes, labels, ignored = targets["boxes"].float(), targets["labels"] + first_label, targets.get("ignored")
    return labeled, [
        {
            "boxes": boxes[i, : counts[i]], "labels": labels[i, : counts[i]],
            "ignored": boxes[i, :0] if ignored is None else boxes[i, ignored[i] != 0],
        }
        for i in labeled
    ]  # fmt: skip


def _has_ignored(targets: list[dict[str, Tensor]]) -> bool:
    return any(len(target["ignored"]) for target in targets)


def _join_levels(objectness: list[Tensor], deltas: list[Tensor]) -> tuple[Tensor, Tensor]:
    joined: tuple[Tensor, Tensor] = concat_box_prediction_layers(objectness, deltas)
    return joined


def _levels(counts: list[int], device: torch.device) -> Tensor:
    return torch.arange(len(counts), device=device).repeat_interleave(
        torch.tensor(counts, device=device), output_size=sum(counts)
    )


def _size(images: Tensor) -> tuple[int, int]:
    return images.shape[-2], images.shape[-1]


def _upcast(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
