"""Batches of sequences by their number of tokens or frames instead of samples.

Samples are sorted by length with random ties, cut where a batch is full, and the batches are shuffled, as fairseq does
(Ott et al., NAACL 2019, https://arxiv.org/abs/1904.01038). Lengths are compared in steps of about 10 %, so that a batch
has other samples each epoch, and the number of batches is the same.
"""

from __future__ import annotations

from typing import Final, final

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.data.counter_rng import make_generator

__all__ = ["TokenBatches"]

_ORDER_STREAM: Final = 12


@final
class TokenBatches:
    """Indices of the samples of each batch, a pure function of the seed and the step.

    A batch of a process is padded to at most ``batch_tokens`` tokens. All processes have equally many samples: rank r
    has every ``world_size``-th sample of the common batch, from r on. Where the samples do not divide evenly, some are
    in two batches of an epoch.

    Args:
        lengths: ``[n]``, the number of tokens of each sample.
        batch_tokens: largest number of samples times the longest of them, for each process.
        world_size: number of processes.

    Raises:
        LimbeckError: a sample is longer than ``batch_tokens``.

    >>> batches = TokenBatches(torch.tensor([2, 5, 2, 3, 2]), 6)
    >>> batches.steps_per_epoch
    3
    >>> sorted(sorted(batches.indices(step, seed=0).tolist()) for step in range(3))
    [[0, 2, 4], [1], [3]]
    """

    def __init__(self, lengths: Tensor, batch_tokens: int, world_size: int = 1) -> None:
        longest = int(lengths.max())
        if batch_tokens < longest:
            raise LimbeckError(f"batch_tokens must be at least {longest}, the longest sample, got {batch_tokens}")
        self._buckets = _round_up_lengths(lengths)
        self._world_size = world_size
        self._spans = _cut_batches(torch.sort(self._buckets).values.tolist(), batch_tokens, world_size)
        self._epoch: tuple[tuple[int, int], Tensor, list[int]] = ((-1, -1), torch.empty(0), [])

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches of an epoch."""
        return len(self._spans)

    def indices(self, step: int, *, seed: int, rank: int = 0) -> Tensor:
        """The samples ``[batch]`` of ``step`` in process ``rank``."""
        epoch, position = divmod(step, len(self._spans))
        if self._epoch[0] != (seed, epoch):
            rng, count = make_generator(seed, _ORDER_STREAM, epoch), len(self._buckets)
            shuffled = torch.randperm(count, generator=rng)
            by_length = shuffled[self._buckets[shuffled].argsort(stable=True)]
            batch_order = torch.randperm(len(self._spans), generator=rng)
            self._epoch = (seed, epoch), by_length, batch_order.tolist()
        _, by_length, order = self._epoch
        start, end = self._spans[order[position]]
        return by_length[torch.arange(start, end) % len(by_length)][rank :: self._world_size]


def _round_up_lengths(lengths: Tensor) -> Tensor:
    """Lengths as the next of 1, 2, …, 20, 22, 24, …, each about a tenth above the one before; the longest is exact."""
    longest, steps = max(1, int(lengths.max())), [1]
    while steps[-1] < longest:
        steps.append(min(longest, steps[-1] + max(1, steps[-1] // 10)))
    levels = torch.tensor(steps)
    return levels[torch.searchsorted(levels, lengths)]


def _cut_batches(buckets: list[int], batch_tokens: int, world_size: int) -> list[tuple[int, int]]:
    """Start and end of each batch in the ascending ``buckets``; each size is a multiple of ``world_size``."""
    spans, start, count = list[tuple[int, int]](), 0, len(buckets)
    while start < count:
        count_per_process = 1
        while start + count_per_process * world_size < count:
            last = min(start + (count_per_process + 1) * world_size, count) - 1
            if (count_per_process + 1) * buckets[last] > batch_tokens:
                break
            count_per_process += 1
        spans.append((start, start + count_per_process * world_size))
        start += count_per_process * world_size
    # The last batch is filled from the samples before it.
    overhang = start - count
    spans[-1] = spans[-1][0] - overhang, spans[-1][1] - overhang
    return spans
