"""Counter-based random numbers: a pure function of (seed, sample, view), in any order, worker or resumed run.

The mixing function is SplitMix64 (Steele, Lea & Flood, OOPSLA 2014, https://doi.org/10.1145/2660193.2660195).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["CounterRNG", "derive_seed", "make_generator"]

_UInt64Array = NDArray[np.uint64]
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def derive_seed(*words: int) -> int:
    """A 63-bit seed, of which each bit depends on all ``words``.

    >>> derive_seed(0, 1) != derive_seed(1, 0)
    True
    """
    state = np.zeros(1, np.uint64)
    for word in words:
        state = _splitmix64(state ^ np.uint64(int(word) % 2**64))
    return int(state[0] >> np.uint64(1))


def make_generator(*words: int) -> torch.Generator:
    """A torch generator on the CPU, seeded by :func:`derive_seed`."""
    return torch.Generator().manual_seed(derive_seed(*words))


@final
@dataclass(frozen=True, slots=True)
class CounterRNG:
    """Uniform numbers for one transform of one batch.

    Args:
        keys: ``[batch]``, a word for each (seed, sample, view, transform).
    """

    keys: _UInt64Array

    @classmethod
    def for_samples(cls, sample_ids: Tensor, views: Tensor, *, seed: int, transform_index: int) -> CounterRNG:
        """Numbers of the transform ``transform_index`` for ``views`` of ``sample_ids``, both ``[batch]``."""
        start = np.uint64(derive_seed(seed, transform_index))
        sample_words = _splitmix64(sample_ids.numpy().astype(np.uint64) ^ start)
        return cls(_splitmix64(sample_words ^ views.numpy().astype(np.uint64)))

    def uniform(self, count: int) -> Tensor:
        """``[batch, count]`` float32 numbers in [0, 1)."""
        counters = np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN
        words = _splitmix64(self.keys[:, None] + counters[None, :])
        return torch.from_numpy(((words >> np.uint64(40)).astype(np.float32)) * np.float32(2.0**-24))

    def seeds(self) -> list[int]:
        """A 63-bit seed for each row, independent of :meth:`uniform`, for transforms that draw from a generator."""
        return [int(word) for word in _splitmix64(~self.keys) >> np.uint64(1)]

    def uniform_between(self, low: Tensor, high: Tensor) -> Tensor:
        """``[batch, k]`` numbers, in column i from ``low[i]`` to below ``high[i]``."""
        return low + (high - low) * self.uniform(len(low))


def _splitmix64(words: _UInt64Array) -> _UInt64Array:
    words = words + _GOLDEN
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed_words: _UInt64Array = words ^ (words >> np.uint64(31))
    return mixed_words
