"""How long a call takes: warmed up, many times, within a budget; the median and the 95th percentile."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from typing import Any

__all__ = ["time_call"]


def time_call(
    fn: Callable[[], object], *, warmup: int = 20, repeats: int = 200, max_seconds: float = 5.0
) -> dict[str, Any]:
    """Milliseconds of wall-clock time of ``fn``: ``median``, ``p95`` (nearest rank), ``num_repeats`` made.

    ``warmup`` calls come first and are not counted; at least one, and no more than fit in a fifth of ``max_seconds``
    seconds. Then up to ``repeats`` calls, at least one, none begun once the budget is spent.

    >>> time_call(lambda: None, repeats=5)["num_repeats"]
    5
    """
    start = time.perf_counter()
    _collect_durations(fn, max_calls=max(warmup, 1), deadline=start + max_seconds / 5)
    durations = sorted(_collect_durations(fn, max_calls=repeats, deadline=start + max_seconds))
    p95 = durations[math.ceil(0.95 * len(durations)) - 1]
    return {"median": 1e3 * statistics.median(durations), "p95": 1e3 * p95, "num_repeats": len(durations)}


def _collect_durations(fn: Callable[[], object], *, max_calls: int, deadline: float) -> list[float]:
    """Seconds of each of up to ``max_calls`` calls, none begun after ``deadline`` but the first."""
    durations: list[float] = []
    while len(durations) < max_calls and (not durations or time.perf_counter() < deadline):
        start = time.perf_counter()
        fn()
        durations.append(time.perf_counter() - start)
    return durations
