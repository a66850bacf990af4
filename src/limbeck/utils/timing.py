"""Wall-clock time of calls: median with a 95 % interval, and 95th percentile, in milliseconds."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import Any

import torch

from limbeck.core.errors import LimbeckError

__all__ = ["measure_latencies", "measure_latency", "median_interval"]

_NUM_BLOCKS = 20
"""Blocks of successive calls. Neighboring calls are alike, so the interval is of the medians of blocks."""


def measure_latency(
    fn: Callable[[], object], *, warmup: int = 20, repeats: int = 200, num_threads: int = 1, batch_size: int = 1,
    max_seconds: float = 5.0,
) -> dict[str, Any]:  # fmt: skip
    """Latency of ``fn`` in milliseconds, after a warm-up.

    Args:
        fn: the call to time; on an accelerator it must synchronize.
        warmup: number of calls before timing starts; at least one, and no more than fit in a fifth of ``max_seconds``.
        repeats: number of timed calls; at least one, and no more than fit in ``max_seconds``.
        num_threads: torch threads during the measurement.
        batch_size: samples in one call, only reported.
        max_seconds: seconds after which no further call starts.

    Returns:
        ``median``, its 95 % interval ``low`` and ``high`` (:func:`median_interval` of blocks of calls), and ``p95``
        (nearest rank) in ms, ``num_repeats``, ``batch_size`` and ``num_threads``.

    >>> sorted(measure_latency(lambda: None, repeats=5))
    ['batch_size', 'high', 'low', 'median', 'num_repeats', 'num_threads', 'p95']
    """
    if repeats < 1 or warmup < 0:
        raise LimbeckError(f"repeats must be at least 1 and warmup at least 0, got {repeats} and {warmup}")
    with torch_threads(num_threads):
        start = time.perf_counter()
        _collect_durations(fn, max_calls=max(warmup, 1), deadline=start + max_seconds / 5)
        durations = _collect_durations(fn, max_calls=repeats, deadline=start + max_seconds)
    size = -(-len(durations) // _NUM_BLOCKS)
    blocks = [durations[start : start + size] for start in range(0, len(durations), size)]
    return {**_summarize(blocks), "batch_size": batch_size, "num_threads": num_threads}


def measure_latencies(
    calls: Mapping[str, Callable[[], object]], *, rounds: int = 20, calls_per_round: int = 10, warmup: int = 1,
    max_seconds: float = 3.0, num_threads: int = 1, batch_size: int = 1,
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """Latencies of several calls, timed in alternating blocks, so that a busy moment affects all of them.

    Each call gets up to ``rounds`` blocks of ``warmup`` calls, since the caches hold the data of another call, and
    ``calls_per_round`` timed calls; after ``max_seconds`` per call no block
    starts and a block ends early. Returns what :func:`measure_latency` returns, by name.

    >>> results = measure_latencies({"a": lambda: None, "b": lambda: None}, rounds=2, calls_per_round=3)
    >>> {name: result["num_repeats"] for name, result in results.items()}
    {'a': 6, 'b': 6}
    """
    if rounds < 1 or calls_per_round < 1:
        raise LimbeckError(f"rounds and calls_per_round must be at least 1, got {rounds} and {calls_per_round}")
    blocks: dict[str, list[list[float]]] = {name: [] for name in calls}
    with torch_threads(num_threads):
        end = time.perf_counter() + max_seconds * len(calls)
        for round_index in range(rounds):
            if round_index and time.perf_counter() > end:
                break
            for name, fn in calls.items():
                for _ in range(warmup):
                    fn()
                deadline = time.perf_counter() + max_seconds / rounds
                blocks[name].append(_collect_durations(fn, max_calls=calls_per_round, deadline=deadline))
    settings = {"batch_size": batch_size, "num_threads": num_threads}
    return {name: {**_summarize(values), **settings} for name, values in blocks.items()}


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of the median by order statistics; of fewer than 6 values, which have none, the range.

    >>> median_interval(range(1, 21)), median_interval([3.0, 1.0, 2.0])
    ((6, 15), (1.0, 3.0))
    """
    ordered, n = sorted(values), len(values)
    tails = accumulate(math.comb(n, k) / 2**n for k in range(n))
    rank = sum(tail <= 0.025 for tail in tails)
    return ordered[max(rank - 1, 0)], ordered[n - max(rank, 1)]


@contextmanager
def torch_threads(num_threads: int) -> Iterator[None]:
    """Runs a block with ``num_threads`` torch threads."""
    if num_threads < 1:
        raise LimbeckError(f"num_threads must be at least 1, got {num_threads}")
    previous = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        yield
    finally:
        torch.set_num_threads(previous)


def _collect_durations(fn: Callable[[], object], *, max_calls: int, deadline: float) -> list[float]:
    """Seconds of up to ``max_calls`` calls, at least one, of which none but the first starts after ``deadline``."""
    durations: list[float] = []
    while len(durations) < max_calls and (not durations or time.perf_counter() < deadline):
        start = time.perf_counter()
        fn()
        durations.append(time.perf_counter() - start)
    return durations


def _summarize(blocks: Sequence[Sequence[float]]) -> dict[str, Any]:
    durations = sorted(seconds for block in blocks for seconds in block)
    median, p95 = statistics.median(durations), durations[math.ceil(0.95 * len(durations)) - 1]
    low, high = median_interval([statistics.median(block) for block in blocks])
    # The median of all calls can lie outside of that of few blocks.
    low, high = min(low, median), max(high, median)
    return {
        "median": 1e3 * median, "low": 1e3 * low, "high": 1e3 * high, "p95": 1e3 * p95, "num_repeats": len(durations)
    }  # fmt: skip
