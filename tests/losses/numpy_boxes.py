"""Shared by tests of losses on boxes: contexts with target boxes."""

from dataclasses import replace

import torch

from limbeck.testing import make_context

IMAGE = (32, 48)


def sample_targets(boxes, labeled=None, image=IMAGE):
    """The targets of a batch, from a list of boxes for each image."""
    counts = torch.tensor([len(image_boxes) for image_boxes in boxes])
    padded = torch.zeros(len(boxes), int(counts.max()), 4)
    for row, image_boxes in zip(padded, boxes, strict=True):
        row[: len(image_boxes)] = torch.tensor(image_boxes, dtype=torch.float).reshape(-1, 4)
    labels = torch.zeros(padded.shape[:2], dtype=torch.long)
    if labeled is not None:
        counts = torch.where(torch.tensor(labeled), counts, -1)
    size = torch.tensor(image).expand(len(boxes), 2)
    return {"boxes": padded, "labels": labels, "num_boxes": counts, "image_size": size}


def random_boxes(random, count):
    corners = random.uniform(0, [IMAGE[1] - 4, IMAGE[0] - 4], (count, 2))
    sizes = random.uniform(2, 20, (count, 2))
    ends = (corners + sizes).clip(max=[IMAGE[1], IMAGE[0]])
    return [[*map(float, corner), *map(float, end)] for corner, end in zip(corners, ends, strict=True)]


def with_boxes(boxes, **options):
    """:func:`make_context` with ``boxes``."""
    return replace(make_context(rows=len(boxes), **options), sample_targets=sample_targets(boxes))
