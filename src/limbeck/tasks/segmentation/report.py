"""Examples of segmentation for the report: the image, masks with one color for each class, and wrong pixels in red."""

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
_RED = (0.9, 0.1, 0.1)


def segmentation_examples(
    pixels: Tensor, target: Tensor | None, sample_ids: Tensor, scores: Mapping[str, Scores], *, classes: int
) -> list[Example]:
    """One example for each image, with the mean IoU of each network on it.

    A prediction is a mask above the image in gray, where the pixels of another class than the target are red.

    Args:
        pixels: ``[batch, channels, height, width]`` in 0..1.
        target: ``[batch, height, width]`` class indices, below 0 for pixels without a class; or ``None``.
        sample_ids: ``[batch]``.
        scores: of each network by name; the predictions are masks ``[height, width]``.
        classes: number of classes.
    """
    examples = []
    for i, sample_id in enumerate(sample_ids.tolist()):
        mask = target[i] if target is not None and bool((target[i] >= 0).any()) else None
        examples.append(
            Example(
                sample_id=sample_id,
                input=Panel(image=encode_png(pixels[i], max_side=_MAX_SIDE)),
                target=Panel("no target") if mask is None else Panel(image=_encode(color_mask(mask, classes=classes))),
                predictions={
                    name: _prediction_panel(pixels[i], mask, score.predictions[i], score.statistics[i], classes)
                    for name, score in scores.items()
                },
            )
        )
    return examples


def mark_errors(pixels: Tensor, predicted: Tensor, target: Tensor) -> Tensor:
    """The image in gray with red pixels where the prediction is wrong, ``[3, height, width]`` in 0..1.

    Args:
        pixels: ``[channels, height, width]`` in 0..1.
        predicted: ``[height, width]`` class indices.
        target: ``[height, width]``; pixels below 0 have no class and are not wrong.

    >>> mark_errors(torch.ones(3, 1, 2), torch.tensor([[0, 1]]), torch.tensor([[0, 0]])).permute(1, 2, 0)
    tensor([[[0.7000, 0.7000, 0.7000],
             [0.9000, 0.1000, 0.1000]]])
    """
    gray = (0.7 * pixels.float().cpu().mean(dim=0, keepdim=True)).expand(3, -1, -1)
    return torch.where(_is_wrong(predicted, target), torch.tensor(_RED)[:, None, None], gray)


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


def _prediction_panel(
    pixels: Tensor, target: Tensor | None, predicted: Tensor, statistics: Sequence[float] | Tensor, classes: int
) -> Panel:
    mask = color_mask(predicted, classes=classes)
    if target is None:
        return Panel(image=_encode(mask))
    line = torch.ones(3, max(1, mask.shape[1] // 60), mask.shape[2])
    image = torch.cat([mask, line, mark_errors(pixels, predicted, target)], dim=1)
    fraction = float(_is_wrong(predicted, target).sum() / (target >= 0).sum())
    value = float(mean_iou(torch.as_tensor(statistics)))
    return Panel(f"mean IoU {100 * value:.0f} %, wrong pixels in red: {100 * fraction:.0f} %", _encode(image))


def _is_wrong(predicted: Tensor, target: Tensor) -> Tensor:
    target = target.cpu().long()
    return (target >= 0) & (predicted.cpu().long() != target)


def _encode(image: Tensor) -> bytes:
    """PNG of an image, or of one above another, each of at most 240 pixels; without new colors."""
    step = -(-max(image.shape[2], image.shape[1] // 2) // _MAX_SIDE)
    return encode_png(image[:, ::step, ::step], max_side=3 * _MAX_SIDE)
