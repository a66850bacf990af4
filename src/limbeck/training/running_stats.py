"""Mean, least and most of temperatures over many batches, some of them numbers and some of them tensors by row."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["RunningStats", "merge_stats", "update_stats"]


class RunningStats(NamedTuple):
    """The sum of ``num_values`` numbers, the lowest and the highest of them."""

    total: float
    num_values: int
    minimum: float
    maximum: float

    @property
    def mean(self) -> float:
        """Their mean."""
        return self.total / self.num_values


def update_stats(
    stats: Mapping[str, RunningStats], batches: Sequence[Mapping[str, Sequence[float | Tensor]]]
) -> dict[str, RunningStats]:  # fmt: skip
    """``stats``, by name, with the values of each of ``batches`` since; here the device is waited for, once.

    >>> update_stats({"soft": RunningStats(4.0, 1, 4.0, 4.0)}, [{"soft": [2.0]}, {"soft": [torch.tensor([1.0, 9.0])]}])
    {'soft': RunningStats(total=16.0, num_values=4, minimum=1.0, maximum=9.0)}
    """
    numbers: dict[str, list[float]] = {}
    tensors: dict[str, list[Tensor]] = {}
    for batch in batches:
        for name, values in batch.items():
            for value in values:
                if isinstance(value, Tensor):
                    tensors.setdefault(name, []).append(value)
                else:
                    numbers.setdefault(name, []).append(value)
    updated = dict(stats)
    for name in dict.fromkeys([*numbers, *tensors]):
        values = numbers.get(name, [])
        new = [RunningStats(math.fsum(values), len(values), min(values), max(values))] if values else []
        if name in tensors and len(combined := torch.cat(tensors[name]).double()):
            total, minimum, maximum = torch.stack([combined.sum(), combined.min(), combined.max()]).tolist()
            new.append(RunningStats(total, len(combined), minimum, maximum))
        if new:
            updated[name] = merge_stats([*([stats[name]] if name in stats else []), *new])
    return updated


def merge_stats(stats: Sequence[RunningStats]) -> RunningStats:
    """The span of all their numbers together.

    >>> merge_stats([RunningStats(4.0, 1, 4.0, 4.0), RunningStats(4.0, 2, 1.0, 3.0)])
    RunningStats(total=8.0, num_values=3, minimum=1.0, maximum=4.0)
    """
    return RunningStats(
        math.fsum(item.total for item in stats), sum(item.num_values for item in stats), min(item.minimum for item in stats),
        max(item.maximum for item in stats),
    )  # fmt: skip
