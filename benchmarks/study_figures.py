"""Rows of a finished study: a gain with its interval, a share of the gap."""

from __future__ import annotations

from results import row


def gain(name: str, found: dict, data: str, *, aim: str = "report") -> dict:
    """A gain in points, with the wider of the two intervals at each end, by which the verdict goes."""
    one = row(name, [found["mean"]], unit="points", aim=aim, data=data, digits=2)
    low, high = min(found["low"], found["t_low"]), max(found["high"], found["t_high"])
    return one | {"low": round(low, 2), "high": round(high, 2), "n": found["num_seeds"]}


def share(name: str, found: dict, data: str, *, aim: str = "report") -> dict:
    """A share of the gap recovered."""
    one = row(name, [found["fraction"]], unit="share", aim=aim, data=data, digits=3)
    ends = {end: None if found[end] is None else round(found[end], 3) for end in ("low", "high")}
    return one | ends | {"n": found["num_seeds"]}
