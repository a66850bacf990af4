"""Wall-clock time of calls, as median and 95th percentile."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["time_call", "time_interleaved"]


def time_call(
    fn: Callable[[], object], *, warmup: int = 20, repeats: int = 200, max_seconds: float = 5.0
) -> dict[str, Any]:
    """Times calls of ``fn`` after a warm-up.

    Args:
        fn: the call to time.
        warmup: number of calls before timing starts; at least one, and no more than fit in a fifth of ``max_seconds``.
        repeats: number of timed calls; at least one, and no more than fit in ``max_seconds``.
        max_seconds: seconds after which no further call starts.

    Returns:
        ``median`` and ``p95`` (nearest rank) in milliseconds, and ``num_repeats``.

    >>> time_call(lambda: None, repeats=5)["num_repeats"]
    5
    """
    start = time.perf_counter()
    _collect_durations(fn, max_calls=max(warmup, 1), deadline=start + max_seconds / 5)
    return _summarize(_collect_durations(fn, max_calls=repeats, deadline=start + max_seconds))


def time_interleaved(
    calls: Mapping[str, Callable[[], object]], *, rounds: int = 20, calls_per_round: int = 10, max_seconds: float = 3.0
) -> dict[str, dict[str, Any]]:
    """Times several calls in alternating blocks, so that a busy moment affects all of them.

    The first call of a block is a warm-up, since the caches hold the data of another call.

    Args:
        calls: the calls to time, by name.
        rounds: maximum number of blocks of each call.
        calls_per_round: maximum number of timed calls of a block.
        max_seconds: seconds for each of ``calls``, after which no block starts and a block ends early.

    Returns:
        What :func:`time_call` returns, by name.

    >>> results = time_interleaved({"a": lambda: None, "b": lambda: None}, rounds=2, calls_per_round=3)
    >>> {name: result["num_repeats"] for name, result in results.items()}
    {'a': 6, 'b': 6}
    """
    durations: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + max_seconds * len(calls)
    for round_index in range(rounds):
        if round_index and time.perf_counter() > end:
            break
        for name, fn in calls.items():
            fn()
            deadline = time.perf_counter() + max_seconds / rounds
            durations[name] += _collect_durations(fn, max_calls=calls_per_round, deadline=deadline)
    return {name: _summarize(values) for name, values in durations.items()}


def _collect_durations(fn: Callable[[], object], *, max_calls: int, deadline: float) -> list[float]:
    """Seconds of up to ``max_calls`` calls, at least one, of which none but the first starts after ``deadline``."""
    durations: list[float] = []
    while len(durations) < max_calls and (not durations or time.perf_counter() < deadline):
        start = time.perf_counter()
        fn()
        durations.append(time.perf_counter() - start)
    return durations


def _summarize(durations: list[float]) -> dict[str, Any]:
    p95 = sorted(durations)[math.ceil(0.95 * len(durations)) - 1]
    return {"median": 1e3 * statistics.median(durations), "p95": 1e3 * p95, "num_repeats": len(durations)}
