"""Whether a repeated run agrees with the first, for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from limbeck.report.formatting import MISSING

__all__ = ["render_reproduce_table"]

_WIDTH = 100
_AGREEMENT_LABELS = {"exactly": "exactly", "within": "within tolerance", "not": "NOT"}


def render_reproduce_table(result: Mapping[str, Any]) -> str:
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
    for row in result["figures"]:
        before, now = row["before"], row["now"]
        difference = (
            MISSING
            if before is None or now is None
            else f"{now - before:+.3g}".replace("-", "−")
            if now != before
            else "0"
        )
        # Text, not a string: a name with brackets is no markup.
        table.add_row(
            Text(row["model"]),
            row["figure"],
            _format_number(before),
            _format_number(now),
            difference,
            _AGREEMENT_LABELS[row["agrees"]],
        )
    console = Console(width=_WIDTH, no_color=True, highlight=False, force_terminal=False)
    with console.capture() as caught:
        console.print(table)
    lines = [line.rstrip() for line in caught.get().strip("\n").splitlines()]
    return "\n".join([*lines, "", *_reproduce_verdict(result)])


def _reproduce_verdict(result: Mapping[str, Any]) -> list[str]:
    count_by_agreement = {kind: sum(row["agrees"] == kind for row in result["figures"]) for kind in _AGREEMENT_LABELS}
    total = len(result["figures"])
    weights_notes = {
        True: ", and the student's weights are the same bits",
        False: ", and the student's weights are other bits",
    }
    weights_note = weights_notes.get(result["same_weights"], "")
    if result["agrees"] == "exactly":
        return [f"The figures agree exactly, all {total}{weights_note}."]
    if result["agrees"] == "within":
        return [
            f"The figures agree within {result['tolerance']:g}: {count_by_agreement['exactly']} of {total} exactly{weights_note}.",
            *_format_reasons(result),
        ]
    return [
        f"The figures do NOT agree: {count_by_agreement['not']} of {total} differ by more than {result['tolerance']:g}{weights_note}.",
        *_format_reasons(result),
    ]


def _format_reasons(result: Mapping[str, Any]) -> list[str]:
    if not result["reasons"]:
        return ["Nothing that the record knows of has changed: look for chance that no seed reaches."]
    return ["What was not as it was, and may be why:", *(f" - {text}" for text in result["reasons"])]


def _format_number(value: float | None) -> str:
    return MISSING if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.5g}"
