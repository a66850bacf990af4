"""Figures as ``study.json`` holds them, for the page; what has another shape counts as not there."""

from __future__ import annotations

import math
from typing import Any

from limbeck.report.compare import Gain, Mean, Share

__all__ = ["mean_of", "written_gain", "written_share"]


def mean_of(found: Any) -> Mean | None:
    """A mean over seeds.

    >>> mean_of({"mean": 0.9, "sd": None, "low": None, "high": None, "n": 1}), mean_of(None)
    (Mean(mean=0.9, low=None, high=None, n=1), None)
    """
    value = _number(found, "mean")
    return None if value is None else Mean(value, _number(found, "low"), _number(found, "high"), _count(found))


def written_gain(found: Any) -> Gain | None:
    """A difference to the control.

    >>> written_gain({"mean": 2.0, "low": 1.0, "high": 3.0, "t_low": 0.5, "t_high": 3.5, "n": 5}).interval
    (0.5, 3.5)
    """
    value = _number(found, "mean")
    if value is None:
        return None
    drawn = found.get("samples")
    low, high = _number(drawn, "low"), _number(drawn, "high")
    return Gain(
        mean=value, low=_number(found, "low"), high=_number(found, "high"), t_low=_number(found, "t_low"),
        t_high=_number(found, "t_high"), p=_number(found, "p"), n=_count(found),
        samples=None if low is None or high is None else (low, high),
    )  # fmt: skip


def written_share(found: Any) -> Share | None:
    """A share of the gap."""
    value = _number(found, "share")
    return None if value is None else Share(value, _number(found, "low"), _number(found, "high"))


def _number(found: Any, name: str) -> float | None:
    value = found.get(name) if isinstance(found, dict) else None
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _count(found: Any) -> int:
    return int(_number(found, "n") or 1)
