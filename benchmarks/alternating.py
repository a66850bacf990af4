"""Two loops whose steps alternate in one process, since the speed of the machine drifts by more than the difference."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator


class Alternating:
    """Data for `limbeck.fit` that runs one step of a second loop before each batch, and times both.

    Args:
        stream: batches for `fit` by index.
        loop: runs one step of the second loop per `next`.
        first: index of the first batch.
    """

    def __init__(self, stream, loop: Iterator[None], *, first: int = 0) -> None:
        self.stream, self.loop, self.first = stream, loop, first
        self.fit_seconds: list[float] = []
        self.loop_seconds: list[float] = []
        self.steps_per_epoch, self.is_prepared = stream.steps_per_epoch, False
        self.start: float | None = None

    def batches(self, **settings):
        return self

    def batch(self, step: int):
        now = time.perf_counter()
        if self.start is not None:
            self.fit_seconds.append(now - self.start)
        elif not self.is_prepared:
            self.is_prepared = True  # fit reads one batch to prepare the losses
            return self.stream.batch(self.first)
        start = time.perf_counter()
        next(self.loop)
        self.start = time.perf_counter()
        self.loop_seconds.append(self.start - start)
        return self.stream.batch(self.first + step)

    def validation_batches(self):
        return iter(())

    def medians(self) -> tuple[float, float]:
        """Milliseconds of a step, of fit and of the second loop."""
        return 1e3 * statistics.median(self.fit_seconds), 1e3 * statistics.median(self.loop_seconds)
