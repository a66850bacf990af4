"""The comparison for the terminal: accuracy, the difference to the control with its interval, and the verdicts."""

from __future__ import annotations

from limbeck.report.compare.columns import QUALITY, shown
from limbeck.report.compare.comparison import Comparison

__all__ = ["compare_table"]

_WIDTH = 100
_HEADINGS = ("Accuracy", "Difference", "Gap recovered", "Parameters", "Latency")
_WITH_ENDS = ("Accuracy", "Difference")


def compare_table(found: Comparison) -> str:
    """Plain text without colours: the table, then the verdicts, then what is not finished."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    columns = [column for column in shown(QUALITY, found.arms) if column.heading in _HEADINGS]
    examples = "" if found.examples is None else f", n = {found.examples:,}"
    table = Table(
        box=box.SIMPLE_HEAD, title=f"{found.title}: {found.part} part{examples}", title_justify="left",
        title_style="dim", pad_edge=False,
    )  # fmt: skip
    table.add_column("arm", overflow="fold", min_width=10)
    table.add_column("seeds", justify="right", no_wrap=True)
    for column in columns:
        heading = f"{column.heading}, {column.unit}" if column.unit else column.heading
        table.add_column(heading, justify="right", no_wrap=True)
    for arm in found.arms:
        seeds = sum(cell.arm == arm.name and cell.state == "done" for cell in found.cells)
        cells = [(column.cell(arm), column.heading in _WITH_ENDS) for column in columns]
        # Text, not a string: a name with brackets is no markup.
        table.add_row(
            Text(arm.name), str(seeds),
            *(f"{one.text}\n{one.second}" if one.second and ends else one.text for one, ends in cells),
        )  # fmt: skip
    console = Console(width=_WIDTH, no_color=True, highlight=False, force_terminal=False)
    with console.capture() as caught:
        console.print(table)
    lines = [line.rstrip() for line in caught.get().strip("\n").splitlines()]
    lines += [arm.told for arm in found.arms if arm.told]
    open_cells = [cell for cell in found.cells if cell.state != "done"]
    if open_cells:
        states = ", ".join(f"{sum(c.state == state for c in open_cells)} {state}"
                           for state in dict.fromkeys(c.state for c in open_cells))  # fmt: skip
        lines.append(f"Not finished: {states} of {len(found.cells)}.")
    return "\n".join(lines)
