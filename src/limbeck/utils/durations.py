"""Durations as text."""

from __future__ import annotations

import math

__all__ = ["format_duration"]


def format_duration(seconds: float | None) -> str:
    """A duration; a dash where it is unknown.

    >>> format_duration(0.42), format_duration(71.2), format_duration(4000), format_duration(None)
    ('0.4 s', '71 s', '67 min', '–')
    """
    if seconds is None or not math.isfinite(seconds):
        return "–"
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
