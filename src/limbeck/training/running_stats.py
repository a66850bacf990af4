"""Mean, least and most of temperatures over many batches, some of them numbers and some of them tensors by row."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Span", "joined", "spans"]


class Span(NamedTuple):
    """The sum of so ``many`` numbers, the lowest and the highest of them."""

    total: float
    many: int
    low: float
    high: float

    @property
    def mean(self) -> float:
        """Their mean."""
        return self.total / self.many


def spans(
    before: Mapping[str, Span], taken: Sequence[Mapping[str, Sequence[float | Tensor]]]
) -> dict[str, Span]:  # fmt: skip
    """``before``, by name, with what was ``taken`` in each batch since; here the device is waited for, once.

    >>> spans({"soft": Span(4.0, 1, 4.0, 4.0)}, [{"soft": [2.0]}, {"soft": [torch.tensor([1.0, 9.0])]}])
    {'soft': Span(total=16.0, many=4, low=1.0, high=9.0)}
    """
    numbers: dict[str, list[float]] = {}
    tensors: dict[str, list[Tensor]] = {}
    for batch in taken:
        for name, values in batch.items():
            for value in values:
                if isinstance(value, Tensor):
                    tensors.setdefault(name, []).append(value)
                else:
                    numbers.setdefault(name, []).append(value)
    found = dict(before)
    for name in dict.fromkeys([*numbers, *tensors]):
        values = numbers.get(name, [])
        new = [Span(math.fsum(values), len(values), min(values), max(values))] if values else []
        if name in tensors and len(together := torch.cat(tensors[name]).double()):
            total, low, high = torch.stack([together.sum(), together.min(), together.max()]).tolist()
            new.append(Span(total, len(together), low, high))
        if new:
            found[name] = joined([*([before[name]] if name in before else []), *new])
    return found


def joined(several: Sequence[Span]) -> Span:
    """The span of all their numbers together.

    >>> joined([Span(4.0, 1, 4.0, 4.0), Span(4.0, 2, 1.0, 3.0)])
    Span(total=8.0, many=3, low=1.0, high=4.0)
    """
    return Span(
        math.fsum(one.total for one in several), sum(one.many for one in several), min(one.low for one in several),
        max(one.high for one in several),
    )  # fmt: skip
