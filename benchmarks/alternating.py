"""Two loops whose steps alternate in one process: the machine's speed drifts by more than what is looked for."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator


class Alternating:
    """Data for `limbeck.fit` that makes one step of another loop before each batch it hands out, and times both.

    Arguments:
        stream: gives fit its batches by number.
        other: makes one step of the other loop at each `next`.
        first: the number of the first batch.
    """

    def __init__(self, stream, other: Iterator[None], *, first: int = 0) -> None:
        self.sampler, self.other, self.first = stream, other, first
        self.seconds: tuple[list[float], list[float]] = ([], [])
        self.steps_per_epoch, self.begun, self.dry = stream.steps_per_epoch, None, False

    def batches(self, **settings):
        return self

    def batch(self, step: int):
        now = time.perf_counter()
        if self.begun is not None:
            self.seconds[0].append(now - self.begun)
        elif not self.dry:
            self.dry = True  # fit looks at one batch before it begins
            return self.sampler.batch(self.first)
        start = time.perf_counter()
        next(self.other)
        self.begun = time.perf_counter()
        self.seconds[1].append(self.begun - start)
        return self.sampler.batch(self.first + step)

    def validation_batches(self):
        return iter(())

    def medians(self) -> tuple[float, float]:
        """Milliseconds of a step, of fit and of the other loop."""
        return 1e3 * statistics.median(self.seconds[0]), 1e3 * statistics.median(self.seconds[1])
