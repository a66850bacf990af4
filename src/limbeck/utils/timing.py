"""How long a call takes: warmed up, many times, within a budget; the median and the 95th percentile."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from typing import Any

__all__ = ["timed"]


def timed(call: Callable[[], object], *, warmup: int = 20, repeats: int = 200, budget: float = 5.0) -> dict[str, Any]:
    """Milliseconds of wall-clock time of ``call``: ``median``, ``p95`` (nearest rank), ``repeats`` made.

    ``warmup`` calls come first and are not counted; at least one, and no more than fit in a fifth of ``budget``
    seconds. Then up to ``repeats`` calls, at least one, none begun once the budget is spent.

    >>> timed(lambda: None, repeats=5)["repeats"]
    5
    """
    start = time.perf_counter()
    _times(call, most=max(warmup, 1), until=start + budget / 5)
    taken = sorted(_times(call, most=repeats, until=start + budget))
    p95 = taken[math.ceil(0.95 * len(taken)) - 1]
    return {"median": 1e3 * statistics.median(taken), "p95": 1e3 * p95, "repeats": len(taken)}


def _times(call: Callable[[], object], *, most: int, until: float) -> list[float]:
    """Seconds of each of up to ``most`` calls, none begun after ``until`` but the first."""
    taken: list[float] = []
    while len(taken) < most and (not taken or time.perf_counter() < until):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return taken
