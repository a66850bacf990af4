"""Figures as ``study.json`` holds them, for the page; what has another shape counts as not there."""

from __future__ import annotations

import math
from typing import Any

from limbeck.report.compare import GapRecovered, PairedGain, SeedMean

__all__ = ["parse_gain", "parse_gap", "parse_mean"]


def parse_mean(value: Any) -> SeedMean | None:
    """A mean over seeds.

    >>> parse_mean({"mean": 0.9, "std": None, "low": None, "high": None, "num_seeds": 1}), parse_mean(None)
    (SeedMean(mean=0.9, low=None, high=None, num_seeds=1), None)
    """
    mean = _parse_number(value, "mean")
    return (
        None
        if mean is None
        else SeedMean(mean, _parse_number(value, "low"), _parse_number(value, "high"), _parse_count(value))
    )


def parse_gain(value: Any) -> PairedGain | None:
    """A difference to the baseline.

    >>> parse_gain({"mean": 2.0, "low": 1.0, "high": 3.0, "t_low": 0.5, "t_high": 3.5, "num_seeds": 5}).interval
    (0.5, 3.5)
    """
    mean = _parse_number(value, "mean")
    if mean is None:
        return None
    sample_interval = value.get("sample_interval")
    low, high = _parse_number(sample_interval, "low"), _parse_number(sample_interval, "high")
    return PairedGain(
        mean=mean,
        low=_parse_number(value, "low"),
        high=_parse_number(value, "high"),
        t_low=_parse_number(value, "t_low"),
        t_high=_parse_number(value, "t_high"),
        p_value=_parse_number(value, "p_value"),
        num_seeds=_parse_count(value),
        sample_interval=None if low is None or high is None else (low, high),
    )


def parse_gap(value: Any) -> GapRecovered | None:
    """A share of the gap."""
    fraction = _parse_number(value, "fraction")
    return (
        None if fraction is None else GapRecovered(fraction, _parse_number(value, "low"), _parse_number(value, "high"))
    )


def _parse_number(value: Any, name: str) -> float | None:
    number = value.get(name) if isinstance(value, dict) else None
    return float(number) if isinstance(number, int | float) and math.isfinite(number) else None


def _parse_count(value: Any) -> int:
    return int(_parse_number(value, "num_seeds") or 1)
