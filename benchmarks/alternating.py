"""Two loops whose steps alternate in one process, since the speed of the machine drifts by more than the difference."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator


class Alternating:
    """Data for `limbeck.fit` that runs one step of another loop before each batch, and times both.

    Args:
        stream: batches for `fit` by index.
        other: runs one step of the other loop per `next`.
        first: index of the first batch.
    """

    def __init__(self, stream, other: Iterator[None], *, first: int = 0) -> None:
        self.stream, self.other, self.first = stream, other, first
        self.seconds: tuple[list[float], list[float]] = ([], [])
        self.steps_per_epoch, self.start, self.is_prepared = stream.steps_per_epoch, None, False

    def batches(self, **settings):
        return self

    def batch(self, step: int):
        now = time.perf_counter()
        if self.start is not None:
            self.seconds[0].append(now - self.start)
        elif not self.is_prepared:
            self.is_prepared = True  # fit reads one batch to prepare the losses
            return self.stream.batch(self.first)
        start = time.perf_counter()
        next(self.other)
        self.start = time.perf_counter()
        self.seconds[1].append(self.start - start)
        return self.stream.batch(self.first + step)

    def validation_batches(self):
        return iter(())

    def medians(self) -> tuple[float, float]:
        """Milliseconds of a step, of fit and of the other loop."""
        return 1e3 * statistics.median(self.seconds[0]), 1e3 * statistics.median(self.seconds[1])
