"""The latency of several networks that are to be compared: measured in turns, so that a busy moment slows all alike."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from limbeck.core.errors import LimbeckError

__all__ = ["latencies"]


def latencies(
    calls: Mapping[str, Callable[[], object]], *, turns: int = 20, block: int = 10, budget: float = 3.0,
    threads: int = 1, batch: int = 1,
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """How long each of ``calls`` takes, in milliseconds of wall-clock time.

    Each turn makes a block of every call, one after the other; the first call of a block finds the caches full of
    another network, and is not counted.

    Args:
        calls: what is timed, by name.
        turns: how many turns at most, at least one.
        block: counted calls of a block.
        budget: seconds for each of ``calls``, after which no block is begun and a block ends early.
        threads: torch threads while it is measured; put back after.
        batch: samples in one call, which is only told again.

    Returns:
        For each name ``median``, ``p95`` (nearest rank), ``repeats``, ``batch`` and ``threads``, as ``latency`` gives.

    >>> found = latencies({"one": lambda: None, "two": lambda: None}, turns=2, block=3)
    >>> {name: one["repeats"] for name, one in found.items()}
    {'one': 6, 'two': 6}
    """
    if turns < 1 or block < 1 or threads < 1:
        raise LimbeckError(f"latencies takes turns, block and threads from 1, not {turns}, {block}, {threads}")
    taken: dict[str, list[float]] = {name: [] for name in calls}
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        end = time.perf_counter() + budget * len(calls)
        for turn in range(turns):
            if turn and time.perf_counter() > end:
                break
            for name, call in calls.items():
                taken[name] += _block(call, block, budget / turns)
    finally:
        torch.set_num_threads(before)
    return {name: {**_summary(times), "batch": batch, "threads": threads} for name, times in taken.items()}


def _block(call: Callable[[], object], most: int, budget: float) -> list[float]:
    """Milliseconds of up to ``most`` calls after one that is not counted; at least one."""
    call()
    end, times = time.perf_counter() + budget, list[float]()
    while len(times) < most and (not times or time.perf_counter() < end):
        start = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - start))
    return times


def _summary(times: list[float]) -> dict[str, Any]:
    ranked = sorted(times)
    p95 = ranked[math.ceil(0.95 * len(ranked)) - 1]
    return {"median": statistics.median(ranked), "p95": p95, "repeats": len(ranked)}
