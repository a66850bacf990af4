"""What a study has found, for the terminal: each arm's figures, its gain over the control, and what that means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from limbeck.report.words import NONE, duration, fixed, percent, points

__all__ = ["study_table"]

_WIDTH = 110


def study_table(found: Mapping[str, Any]) -> str:
    """What ``study.json`` holds, as plain text without colours: the table, the rule, a verdict on each arm."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    told, unfinished = found["results"]["arms"], _unfinished(found)
    seeds = f"{len(found['seeds'])} seeds" if len(found["seeds"]) > 1 else "1 seed"
    table = Table(
        box=box.SIMPLE_HEAD, title=f"test part, mean of {seeds}; gain over {found['against']} in points, 95 % interval",
        title_justify="left", title_style="dim", pad_edge=False,
    )  # fmt: skip
    table.add_column("arm", no_wrap=True)
    for heading in ("accuracy", "± sd", "gain", "interval", "gap recovered", "ECE", "CPU time", "n"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, arm in told.items():
        best = " (best on validation)" if arm.get("kept") == "best on validation" else ""
        table.add_row(Text(f"{name}{best}"), *_row(arm))
    console = Console(width=_WIDTH, no_color=True, highlight=False, force_terminal=False)
    with console.capture() as caught:
        console.print(table)
    lines = [line.rstrip() for line in caught.get().strip("\n").splitlines()]
    lines += [arm["verdict"]["sentence"] for arm in told.values() if arm["verdict"]]
    return "\n".join([*lines, found["results"]["rule"], *unfinished])


def _row(arm: Mapping[str, Any]) -> list[str]:
    gain, gap = arm["gain"], arm["gap_recovered"]
    spread = arm["top1"]["sd"]
    wide = _widest(gain)
    return [
        percent(arm["top1"]["mean"], digits=2), NONE if spread is None else f"{100 * spread:.2f}",
        points(gain["mean"] if gain else None, digits=2),
        NONE if wide is None else f"{points(wide[0], digits=2)} to {points(wide[1], digits=2)}",
        percent(gap["share"] if gap else None, digits=0), fixed(arm["ece"]["mean"]), _time(arm), str(arm["top1"]["n"]),
    ]  # fmt: skip


def _widest(gain: Mapping[str, Any] | None) -> tuple[float, float] | None:
    """The interval that the verdict goes by: the bootstrap's or Student's, whichever reaches further, by each end."""
    if gain is None or gain["low"] is None or gain["t_low"] is None:
        return None
    return min(gain["low"], gain["t_low"]), max(gain["high"], gain["t_high"])


def _time(arm: Mapping[str, Any]) -> str:
    spent = arm["spent"]["cpu_seconds"]
    return duration(spent["mean"]) if spent else NONE


def _unfinished(found: Mapping[str, Any]) -> list[str]:
    states = [cell["state"] for cell in found["cells"]]
    counts = [(word, states.count(word)) for word in ("running", "waiting", "failed") if word in states]
    return [", ".join(f"{many} {word}" for word, many in counts) + f" of {len(states)} cells"] if counts else []
