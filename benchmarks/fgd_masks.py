"""Foreground masks of FGD: all boxes of a batch at once, against a loop over images and boxes.

One run measures both on the same boxes: --batch images of 320×320 pixels with --boxes random boxes each, on the five
levels of a feature pyramid of strides 8 to 128. Both give the same masks, which is checked. The row is the mean of the
ratios of --repeats alternating calls.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time

import torch
from results import make_row, write_rows
from torch import Tensor

from limbeck.losses import foreground_weights

SIZE, STRIDES = 320, (8, 16, 32, 64, 128)


def loop_over_boxes(boxes: Tensor, size: int) -> Tensor:
    """The mask of one level: each box writes 1 / its area where that is larger than what is there."""
    masks = torch.zeros(len(boxes), size, size)
    scale = size / SIZE
    for mask, image_boxes in zip(masks, boxes, strict=True):
        for left, top, right, bottom in (image_boxes * scale).tolist():
            rows, columns = slice(math.floor(top), math.ceil(bottom)), slice(math.floor(left), math.ceil(right))
            area = (rows.stop - rows.start) * (columns.stop - columns.start)
            mask[rows, columns] = mask[rows, columns].clamp(min=1 / area)
    return masks


def all_at_once(boxes: Tensor, size: int) -> Tensor:
    """The same by :func:`limbeck.losses.foreground_weights`."""
    is_box = torch.ones(boxes.shape[:2], dtype=torch.bool)
    return foreground_weights(boxes, is_box, torch.full((len(boxes), 2), SIZE), (size, size))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--boxes", type=int, default=14)
    parser.add_argument("--repeats", type=int, default=30)
    options = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    shape = (options.batch, options.boxes, 2)
    corners = torch.randint(250, shape, generator=generator)
    boxes = torch.cat([corners, corners + torch.randint(10, 70, shape, generator=generator)], dim=2).float()
    sizes = [math.ceil(SIZE / stride) for stride in STRIDES]
    for size in sizes:
        torch.testing.assert_close(all_at_once(boxes, size), loop_over_boxes(boxes, size))
    seconds: dict[str, list[float]] = {"loop": [], "at_once": []}
    for _ in range(options.repeats):
        for name, function in (("loop", loop_over_boxes), ("at_once", all_at_once)):
            start = time.perf_counter()
            for size in sizes:
                function(boxes, size)
            seconds[name].append(time.perf_counter() - start)
    ratios = [loop / at_once for loop, at_once in zip(seconds["loop"], seconds["at_once"], strict=True)]
    medians = {name: 1e3 * statistics.median(values) for name, values in seconds.items()}
    data = f"{options.batch} images of {SIZE}×{SIZE} pixels with {options.boxes} random boxes each, 5 levels"
    row = make_row("fgd_over_loop", ratios, unit="times as fast", aim=">= 5", data=data, digits=2)
    write_rows([row], milliseconds=medians)


if __name__ == "__main__":
    main()
