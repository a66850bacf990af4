"""Examples of detection for the report: images with the boxes of the target, and of each network with its errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Tensor

from limbeck.core.task import Example, Panel, Scores
from limbeck.data.box_store import COUNTED
from limbeck.tasks.detection.boxes import Detections, TargetBoxes, match_detections
from limbeck.utils.png import encode_png

_MAX_SIDE: Final = 240
_MIN_SCORE: Final = 0.3
_IOU: Final = torch.tensor([0.5])
_TARGET, _CORRECT, _FALSE, _MISSED = (0.1, 0.5, 1.0), (0.1, 0.8, 0.2), (1.0, 0.2, 0.1), (1.0, 0.8, 0.0)
"""Blue, green, red and yellow. The boxes of errors are drawn thicker, and misses dashed, so color is not all."""


def detection_examples(
    pixels: Tensor, targets: Sequence[TargetBoxes | None], sample_ids: Tensor, scores: Mapping[str, Scores],
    class_names: Sequence[str],
) -> list[Example]:  # fmt: skip
    """One example for each image. Detections of a score of at least 0.3 are shown; a match is of IoU 0.5.

    Args:
        pixels: ``[batch, channels, height, width]`` in 0..1.
        targets: of each image, or ``None``.
        sample_ids: ``[batch]``.
        scores: of each network by name; the predictions are :class:`Detections`.
        class_names: by index.
    """
    examples = []
    for i, (image, target, sample_id) in enumerate(zip(pixels.cpu(), targets, sample_ids.tolist(), strict=True)):
        predictions = {name: _prediction_panel(image, score.predictions[i], target) for name, score in scores.items()}
        examples.append(
            Example(
                sample_id=sample_id,
                input=Panel(image=encode_png(image, max_side=_MAX_SIDE)),
                target=_target_panel(image, target, class_names),
                predictions=predictions,
            )
        )
    return examples


def draw_boxes(
    image: Tensor, boxes: Tensor, color: tuple[float, float, float], *, width: int = 1, dashed: bool = False
) -> Tensor:
    """``image`` ``[channels, height, width]`` in 0..1 with the outlines of ``boxes`` ``[n, 4]``, as three channels.

    >>> draw_boxes(torch.zeros(1, 4, 4), torch.tensor([[0.0, 0, 4, 4]]), (1.0, 0.0, 0.0))[0, 0].tolist()
    [1.0, 1.0, 1.0, 1.0]
    """
    image = image.expand(3, -1, -1).clone() if image.shape[0] == 1 else image.clone()
    rows, columns = torch.arange(image.shape[1])[:, None], torch.arange(image.shape[2])
    is_drawn = torch.ones(image.shape[1:], dtype=torch.bool) if not dashed else (rows + columns) // 4 % 2 == 0
    for left, top, right, bottom in boxes.round().long().tolist():
        inside = (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)
        core = (rows >= top + width) & (rows < bottom - width) & (columns >= left + width) & (columns < right - width)
        image[:, inside & ~core & is_drawn] = torch.tensor(color)[:, None]
    return image


def _target_panel(image: Tensor, target: TargetBoxes | None, class_names: Sequence[str]) -> Panel:
    if target is None:
        return Panel("not annotated")
    counted = target.counted()
    counts = torch.bincount(counted.labels, minlength=len(class_names)).tolist()
    text = ", ".join(f"{count} {name}" for name, count in zip(class_names, counts, strict=False) if count)
    drawn = draw_boxes(image, target.boxes[target.ignored != COUNTED], _TARGET, dashed=True)
    return Panel(text or "no box", encode_png(draw_boxes(drawn, counted.boxes, _TARGET), max_side=_MAX_SIDE))


def _prediction_panel(image: Tensor, detections: Detections, target: TargetBoxes | None) -> Panel:
    """Correct detections in green, false ones in red, missed boxes dashed in yellow; of ignored boxes in blue."""
    count = int((detections.scores >= _MIN_SCORE).sum())
    shown = Detections(*(part[:count] for part in detections))
    if target is None:
        drawn = draw_boxes(image, shown.boxes, _TARGET)
        return Panel(f"{count} found", encode_png(drawn, max_side=_MAX_SIDE))
    matched, is_ignored = (rows[0] for rows in match_detections(shown, *target, thresholds=_IOU))
    is_correct, is_false = (matched >= 0) & ~is_ignored, (matched < 0) & ~is_ignored
    missed = target.boxes[~torch.isin(torch.arange(len(target.boxes)), matched) & (target.ignored == COUNTED)]
    drawn = draw_boxes(image, missed, _MISSED, width=2, dashed=True)
    drawn = draw_boxes(drawn, shown.boxes[is_ignored], _TARGET)
    drawn = draw_boxes(drawn, shown.boxes[is_correct], _CORRECT)
    drawn = draw_boxes(drawn, shown.boxes[is_false], _FALSE, width=2)
    text = f"{int(is_correct.sum())} correct, {int(is_false.sum())} false (red), {len(missed)} missed (yellow)"
    return Panel(text, encode_png(drawn, max_side=_MAX_SIDE))
