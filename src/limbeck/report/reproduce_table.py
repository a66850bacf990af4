"""Whether a reproduced run matches the original, for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from limbeck.report.formatting import MISSING

__all__ = ["render_reproduce_table"]

_WIDTH = 100
_MATCH_LABELS = {"exact": "exact", "within_tolerance": "within tolerance", "different": "DIFFERENT"}


def render_reproduce_table(result: Mapping[str, Any]) -> str:
    """The contents of ``reproduce.json`` as plain text: a line for each metric, the likely reasons, and the result."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    table.add_column("model", no_wrap=True, overflow="ellipsis")
    table.add_column("metric", no_wrap=True)
    for heading in ("original", "reproduced", "difference"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("match", no_wrap=True)
    for row in result["metrics"]:
        original, reproduced = row["original"], row["reproduced"]
        difference = (
            MISSING
            if original is None or reproduced is None
            else f"{reproduced - original:+.3g}".replace("-", "−")
            if reproduced != original
            else "0"
        )
        # Text, not a string: a name with brackets is no markup.
        table.add_row(
            Text(row["model"]),
            row["metric"],
            _format_number(original),
            _format_number(reproduced),
            difference,
            _MATCH_LABELS[row["match"]],
        )
    console = Console(width=_WIDTH, no_color=True, highlight=False, force_terminal=False)
    with console.capture() as caught:
        console.print(table)
    lines = [line.rstrip() for line in caught.get().strip("\n").splitlines()]
    return "\n".join([*lines, "", *_reproduce_verdict(result)])


def _reproduce_verdict(result: Mapping[str, Any]) -> list[str]:
    counts = {match: sum(row["match"] == match for row in result["metrics"]) for match in _MATCH_LABELS}
    total = len(result["metrics"])
    weights_notes = {
        True: ", and the student's weights are the same bits",
        False: ", and the student's weights are other bits",
    }
    weights_note = weights_notes.get(result["same_weights"], "")
    if result["match"] == "exact":
        return [f"The metrics match exactly, all {total}{weights_note}."]
    if result["match"] == "within_tolerance":
        return [
            f"The metrics match within {result['tolerance']:g}: {counts['exact']} of {total} exactly{weights_note}.",
            *_format_reasons(result),
        ]
    return [
        f"The metrics do NOT match: {counts['different']} of {total} differ by more than "
        f"{result['tolerance']:g}{weights_note}.",
        *_format_reasons(result),
    ]


def _format_reasons(result: Mapping[str, Any]) -> list[str]:
    if not result["reasons"]:
        return ["Nothing that the record knows of has changed: look for chance that no seed reaches."]
    return ["What was not as it was, and may be why:", *(f" - {text}" for text in result["reasons"])]


def _format_number(value: float | None) -> str:
    return MISSING if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.5g}"
