"""Examples of segmentation for the report: the image, and masks as images with one color for each class."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from limbeck.core.task import Example, Panel, Scores
from limbeck.tasks.segmentation.metrics import mean_iou
from limbeck.utils.png import encode_png

_MAX_SIDE = 240
_GOLDEN_RATIO = 0.618034


def segmentation_examples(
    pixels: Tensor, target: Tensor | None, sample_ids: Tensor, scores: Mapping[str, Scores], *, classes: int
) -> list[Example]:
    """One example for each image, with the mean IoU of each network on it.

    Args:
        pixels: ``[batch, channels, height, width]`` in 0..1.
        target: ``[batch, height, width]`` class indices, below 0 for pixels without a class; or ``None``.
        sample_ids: ``[batch]``.
        scores: of each network by name; the predictions are masks ``[height, width]``.
        classes: number of classes.
    """
    examples = []
    for i, sample_id in enumerate(sample_ids.tolist()):
        has_target = target is not None and bool((target[i] >= 0).any())
        examples.append(
            Example(
                sample_id=sample_id,
                input=Panel(image=encode_png(pixels[i], max_side=_MAX_SIDE)),
                target=_mask_panel("", target[i], classes) if target is not None and has_target else Panel("no target"),
                predictions={
                    name: _mask_panel(_describe(score.statistics[i]), score.predictions[i], classes)
                    for name, score in scores.items()
                },
            )
        )
    return examples


def color_mask(mask: Tensor, *, classes: int) -> Tensor:
    """A mask ``[height, width]`` of class indices as an image ``[3, height, width]`` in 0..1.

    Neighboring classes have distant hues; pixels below 0 are white.

    >>> color_mask(torch.tensor([[-100, 0]]), classes=2)[:, 0, 0]
    tensor([1., 1., 1.])
    """
    white = [(1.0, 1.0, 1.0)]
    palette = torch.tensor(_palette(classes) + white)
    mask = mask.cpu().long()
    return palette[torch.where(mask >= 0, mask, classes)].permute(2, 0, 1)


def _palette(classes: int) -> list[tuple[float, float, float]]:
    # Steps of the golden ratio spread any number of hues; the brightness alternates to tell near hues apart.
    return [colorsys.hsv_to_rgb(i * _GOLDEN_RATIO % 1, 0.65, (0.95, 0.6, 0.8)[i % 3]) for i in range(classes)]


def _mask_panel(text: str, mask: Tensor, classes: int) -> Panel:
    return Panel(text, encode_png(color_mask(mask, classes=classes), max_side=_MAX_SIDE))


def _describe(statistics: Sequence[float] | Tensor) -> str:
    value = float(mean_iou(torch.as_tensor(statistics)))
    return "" if value != value else f"mean IoU {100 * value:.0f} %"
