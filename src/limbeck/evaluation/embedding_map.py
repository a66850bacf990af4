"""Embeddings of a split on their first two principal components, as plain data for the record and its plot."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

import torch
from torch import Tensor

__all__ = ["embedding_map"]

_MAX_CLASSES: Final = 8
_MAX_SAMPLES: Final = 30


def embedding_map(
    embedding: Tensor, classes: Tensor, *, sample_ids: Tensor | None = None, partners: Tensor | None = None
) -> dict[str, Any]:
    """Samples of the largest classes on the first two principal components (Pearson, 1901) of those shown.

    Args:
        embedding: ``[n, width]``.
        classes: ``[n]``.
        sample_ids: ``[n]``.
        partners: ``[n, width]``, for instance the text of each clip, in the same space.

    Returns:
        ``points`` (x and y, of root mean square 1 together), ``classes`` and, where given, ``sample_ids`` and
        ``partners`` (x and y), of at most 30 samples of each of at most 8 classes; ``explained``, the fraction of their
        variance. Samples with NaN or infinity are left out; without any other the dict is empty.

    >>> embedding_map(torch.tensor([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]]), torch.tensor([0, 0]))["points"]
    [[1.0, 0.0], [-1.0, 0.0]]
    """
    is_finite = embedding.isfinite().all(dim=1)
    if partners is not None:
        is_finite &= partners.isfinite().all(dim=1)
    if not bool(is_finite.any()):
        return {}
    counts = Counter(classes[is_finite].tolist())
    largest = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:_MAX_CLASSES]
    indices = []
    for label, count in sorted(largest):
        members = ((classes == label) & is_finite).nonzero()[:, 0]
        num_shown = min(count, _MAX_SAMPLES)
        indices.append(members[torch.arange(num_shown) * count // num_shown])
    rows = torch.cat(indices)
    sides = [embedding[rows].double()] + ([] if partners is None else [partners[rows].double()])
    shown = torch.cat(sides)
    centered = shown - shown.mean(dim=0)
    _, singular, directions = torch.linalg.svd(centered, full_matrices=False)
    # Of the two directions of an axis, the one along which its largest entry points.
    axes = directions[:2]
    axes = axes * axes.gather(1, axes.abs().argmax(dim=1, keepdim=True)).sign()
    points = torch.zeros(len(shown), 2, dtype=torch.float64)
    points[:, : len(axes)] = centered @ axes.T
    radius = points.square().sum(dim=1).mean().sqrt().clamp(min=1e-12)
    variance = singular.square()
    rounded = [[round(x, 3) + 0.0, round(y, 3) + 0.0] for x, y in (points / radius).tolist()]
    return {
        "points": rounded[: len(rows)],
        **({} if partners is None else {"partners": rounded[len(rows) :]}),
        "classes": [int(label) for label in classes[rows].tolist()],
        **({} if sample_ids is None else {"sample_ids": [int(index) for index in sample_ids[rows].tolist()]}),
        "explained": round(float(variance[:2].sum() / variance.sum().clamp(min=1e-12)), 4),
    }
