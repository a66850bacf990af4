"""Number of samples in a batch of any structure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

__all__ = ["count_samples"]


def count_samples(batch: Any) -> int:
    """Length of ``sample_id`` of a batch, else of its first tensor, else of its first list; 0 where there is none.

    >>> import torch
    >>> count_samples((torch.zeros(8, 3), torch.zeros(8))), count_samples({"text": ["a", "b"]})
    (8, 2)
    >>> count_samples(([torch.zeros(3, 32, 40), torch.zeros(3, 24, 32)], [{}, {}]))  # images of different sizes
    2
    """
    if isinstance(batch, Tensor):
        return len(batch) if batch.ndim else 0
    if isinstance(batch, Mapping):
        return count_samples(batch["sample_id"]) if "sample_id" in batch else _count_items(batch.values())
    return _count_items(batch) if isinstance(batch, tuple | list) else 0


def _count_items(items: Iterable[Any]) -> int:
    items = list(items)
    for item in items:
        if isinstance(item, Tensor) and item.ndim:
            return len(item)
    for item in items:
        if number := len(item) if isinstance(item, list) else count_samples(item):
            return number
    return 0
