"""The latency of several networks that are to be compared: measured in turns, so that a busy moment slows all alike."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from limbeck.core.errors import LimbeckError

__all__ = ["measure_latencies"]


def measure_latencies(
    calls: Mapping[str, Callable[[], object]], *, rounds: int = 20, calls_per_round: int = 10, max_seconds: float = 3.0,
    num_threads: int = 1, batch_size: int = 1,
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """How long each of ``calls`` takes, in milliseconds of wall-clock time.

    Each turn makes a block of every call, one after the other; the first call of a block finds the caches full of
    another network, and is not counted.

    Args:
        calls: what is timed, by name.
        rounds: how many turns at most, at least one.
        calls_per_round: counted calls of a block.
        max_seconds: seconds for each of ``calls``, after which no block is begun and a block ends early.
        num_threads: torch threads while it is measured; put back after.
        batch_size: samples in one call, which is only told again.

    Returns:
        For each name ``median``, ``p95`` (nearest rank), ``num_repeats``, ``batch_size`` and ``num_threads``, as ``measure_latency`` gives.

    >>> found = measure_latencies({"one": lambda: None, "two": lambda: None}, rounds=2, calls_per_round=3)
    >>> {name: one["num_repeats"] for name, one in found.items()}
    {'one': 6, 'two': 6}
    """
    if rounds < 1 or calls_per_round < 1 or num_threads < 1:
        raise LimbeckError(
            f"measure_latencies takes rounds, calls_per_round and num_threads from 1, not {rounds}, {calls_per_round}, {num_threads}"
        )
    times_ms: dict[str, list[float]] = {name: [] for name in calls}
    previous_threads = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        end = time.perf_counter() + max_seconds * len(calls)
        for round_index in range(rounds):
            if round_index and time.perf_counter() > end:
                break
            for name, fn in calls.items():
                times_ms[name] += _time_calls(fn, calls_per_round, max_seconds / rounds)
    finally:
        torch.set_num_threads(previous_threads)
    return {
        name: {**_summarize_times(times), "batch_size": batch_size, "num_threads": num_threads}
        for name, times in times_ms.items()
    }


def _time_calls(fn: Callable[[], object], max_calls: int, max_seconds: float) -> list[float]:
    """Milliseconds of up to ``max_calls`` calls after one that is not counted; at least one."""
    fn()
    end, times = time.perf_counter() + max_seconds, list[float]()
    while len(times) < max_calls and (not times or time.perf_counter() < end):
        start = time.perf_counter()
        fn()
        times.append(1e3 * (time.perf_counter() - start))
    return times


def _summarize_times(times: list[float]) -> dict[str, Any]:
    sorted_times = sorted(times)
    p95 = sorted_times[math.ceil(0.95 * len(sorted_times)) - 1]
    return {"median": statistics.median(sorted_times), "p95": p95, "num_repeats": len(sorted_times)}
