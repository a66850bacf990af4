"""The comparison for the terminal: models by accuracy, F1, calibration error, parameters and latency."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from limbeck.report.formatting import NONE, amount, fixed, percent

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["summary", "summary_table"]

_STUDENTS = {"alone": "student alone", "direct": "student, no assistants", "distilled": "distilled student"}


def summary(record: Mapping[str, Any]) -> Table:
    """The table of a record (the contents of ``record.json``), for a Rich console.

    Raises:
        LimbeckError: it is not a record of a run.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from limbeck.report.read import parse

    read = parse(record)
    quality = read.quality(read.distilled)
    n = f", n = {quality.examples}" if quality else ""
    table = Table(
        box=box.SIMPLE_HEAD, title=f"{read.part} part{n}", title_justify="left", title_style="dim", pad_edge=False
    )
    table.add_column("model", no_wrap=True)
    for heading in ("accuracy", "F1", "ECE", "parameters", "latency"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, model in read.ordered():
        found = read.quality(model)
        figures = (found.top1, found.macro_f1, found.ece) if found else (None, None, None)
        median = model.latency_ms.median if model.latency_ms else None
        table.add_row(
            # Text, not a string: a name with brackets is no markup.
            Text(_STUDENTS.get(model.role, name)),
            percent(figures[0]), percent(figures[1]), fixed(figures[2]), amount(model.parameters),
            NONE if median is None else f"{median:.3g} ms",
            style="bold" if model.role == "distilled" else "",
        )  # fmt: skip
    return table


def summary_table(record: Mapping[str, Any]) -> str:
    """The same as plain text, without colours; lines end without spaces."""
    from rich.console import Console

    console = Console(width=100, no_color=True, highlight=False, force_terminal=False)
    with console.capture() as caught:
        console.print(summary(record))
    return "\n".join(line.rstrip() for line in caught.get().strip("\n").splitlines())
