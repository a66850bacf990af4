"""Whether a repeated run agrees with the first, for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from limbeck.report.formatting import NONE

__all__ = ["rerun_table"]

_WIDTH = 100
_SAID = {"exactly": "exactly", "within": "within tolerance", "not": "NOT"}


def rerun_table(found: Mapping[str, Any]) -> str:
    """What ``rerun.json`` holds, as plain text: a line for each figure, the likely reasons, and the verdict."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    table.add_column("model", no_wrap=True, overflow="ellipsis")
    table.add_column("figure", no_wrap=True)
    for heading in ("then", "now", "difference"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("agrees", no_wrap=True)
    for one in found["figures"]:
        then, now = one["before"], one["now"]
        apart = NONE if then is None or now is None else f"{now - then:+.3g}".replace("-", "−") if now != then else "0"
        # Text, not a string: a name with brackets is no markup.
        table.add_row(Text(one["model"]), one["figure"], _number(then), _number(now), apart, _SAID[one["agrees"]])
    console = Console(width=_WIDTH, no_color=True, highlight=False, force_terminal=False)
    with console.capture() as caught:
        console.print(table)
    lines = [line.rstrip() for line in caught.get().strip("\n").splitlines()]
    return "\n".join([*lines, "", *_verdict(found)])


def _verdict(found: Mapping[str, Any]) -> list[str]:
    many = {kind: sum(one["agrees"] == kind for one in found["figures"]) for kind in _SAID}
    total = len(found["figures"])
    bits = {True: ", and the student's weights are the same bits", False: ", and the student's weights are other bits"}
    weights = bits.get(found["same_weights"], "")
    if found["agrees"] == "exactly":
        return [f"The figures agree exactly, all {total}{weights}."]
    if found["agrees"] == "within":
        return [
            f"The figures agree within {found['tolerance']:g}: {many['exactly']} of {total} exactly{weights}.",
            *_reasons(found),
        ]
    return [
        f"The figures do NOT agree: {many['not']} of {total} differ by more than {found['tolerance']:g}{weights}.",
        *_reasons(found),
    ]


def _reasons(found: Mapping[str, Any]) -> list[str]:
    if not found["reasons"]:
        return ["Nothing that the record knows of has changed: look for chance that no seed reaches."]
    return ["What was not as it was, and may be why:", *(f" - {text}" for text in found["reasons"])]


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.5g}"
