"""The methods as a table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from limbeck.workflows.list_losses.cost import SIZES
from limbeck.workflows.list_losses.describe import Method
from limbeck.workflows.list_losses.words import kept, learned, tapped

__all__ = ["methods_table"]


def methods_table(listed: Sequence[Method]) -> str:
    """One line for each: name, form, taps, what it learns and keeps, and the paper; a line on the sizes below."""
    rows = [("method", "knowledge of", "taps", "learns", "keeps", "paper")]
    rows += [
        (one.name, one.form, tapped(one), learned(one.cost), kept(one.cost), next(iter(one.papers), "–"))
        for one in listed
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(
        [*lines, "", f"learns, keeps: for {SIZES}; what each is: docs/methods.md, or help(limbeck.losses)"]
    )
