"""Random numbers without a state: a function of (seed, sample, view, place), the same in any order, worker or resume.

The mixing function is SplitMix64 (Steele, Lea & Flood, OOPSLA 2014, https://doi.org/10.1145/2660193.2660195).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Draws", "generator", "mix"]

_Words = NDArray[np.uint64]
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mix(*words: int) -> int:
    """One 63-bit number out of several, each bit depending on all of them.

    >>> mix(0, 1) != mix(1, 0)
    True
    """
    state = np.zeros(1, np.uint64)
    for word in words:
        state = _scramble(state ^ np.uint64(word % 2**64))
    return int(state[0] >> np.uint64(1))


def generator(*words: int) -> torch.Generator:
    """A torch generator on the CPU, seeded by :func:`mix`."""
    return torch.Generator().manual_seed(mix(*words))


@final
@dataclass(frozen=True, slots=True)
class Draws:
    """Uniform numbers for one transform of one batch.

    Arguments:
        keys: ``[batch]``, one word for each (seed, sample, view, transform).
    """

    keys: _Words

    @classmethod
    def of(cls, sample: Tensor, view: Tensor, *, seed: int, place: int) -> Draws:
        """Draws for the transform number ``place`` of views ``view`` of samples ``sample``, both ``[batch]``."""
        start = np.uint64(mix(seed, place))
        by_sample = _scramble(sample.numpy().astype(np.uint64) ^ start)
        return cls(_scramble(by_sample ^ view.numpy().astype(np.uint64)))

    def uniform(self, many: int) -> Tensor:
        """``[batch, many]`` float32 numbers from 0 to below 1."""
        counters = np.arange(1, many + 1, dtype=np.uint64) * _GOLDEN
        words = _scramble(self.keys[:, None] + counters[None, :])
        return torch.from_numpy(((words >> np.uint64(40)).astype(np.float32)) * np.float32(2.0**-24))

    def seeds(self) -> list[int]:
        """A 63-bit seed for each row, for what draws from a generator; no number of :meth:`uniform` tells it."""
        return [int(word) for word in _scramble(~self.keys) >> np.uint64(1)]

    def between(self, low: Tensor, high: Tensor) -> Tensor:
        """``[batch, k]`` numbers, column by column from ``low`` to below ``high`` (``[k]`` each)."""
        return low + (high - low) * self.uniform(len(low))


def _scramble(words: _Words) -> _Words:
    words = words + _GOLDEN
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    scrambled: _Words = words ^ (words >> np.uint64(31))
    return scrambled
