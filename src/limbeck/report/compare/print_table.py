"""The comparison for the terminal: accuracy, the difference to the baseline with its interval, and the verdicts."""

from __future__ import annotations

from limbeck.report.compare.columns import METRIC_COLUMNS, non_empty_columns
from limbeck.report.compare.comparison import Comparison

__all__ = ["render_compare_table"]

_WIDTH = 100
_HEADINGS = ("Accuracy", "Difference", "Gap recovered", "Parameters", "Latency")
_WITH_INTERVALS = ("Accuracy", "Difference")


def render_compare_table(comparison: Comparison) -> str:
    """Plain text without colours: the table, then the verdicts, then what is not finished."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    columns = [
        column for column in non_empty_columns(METRIC_COLUMNS, comparison.variants) if column.heading in _HEADINGS
    ]
    num_samples_note = "" if comparison.num_samples is None else f", n = {comparison.num_samples:,}"
    table = Table(
        box=box.SIMPLE_HEAD, title=f"{comparison.title}: {comparison.split} split{num_samples_note}",
        title_justify="left",
        title_style="dim", pad_edge=False,
    )  # fmt: skip
    table.add_column("variant", overflow="fold", min_width=10)
    table.add_column("seeds", justify="right", no_wrap=True)
    for column in columns:
        heading = f"{column.heading}, {column.unit}" if column.unit else column.heading
        table.add_column(heading, justify="right", no_wrap=True)
    for variant in comparison.variants:
        seeds = sum(trial.variant == variant.name and trial.state == "done" for trial in comparison.trials)
        cells = [(column.make_cell(variant), column.heading in _WITH_INTERVALS) for column in columns]
        texts = [
            f"{cell.text}\n{cell.detail}" if cell.detail and has_interval else cell.text for cell, has_interval in cells
        ]
        # Text, not a string: a name with brackets is no markup.
        table.add_row(
            Text(variant.name), str(seeds),
            *texts,
        )  # fmt: skip
    console = Console(width=_WIDTH, no_color=True, highlight=False, force_terminal=False)
    with console.capture() as caught:
        console.print(table)
    lines = [line.rstrip() for line in caught.get().strip("\n").splitlines()]
    lines += [variant.verdict for variant in comparison.variants if variant.verdict]
    open_trials = [trial for trial in comparison.trials if trial.state != "done"]
    if open_trials:
        states = ", ".join(f"{sum(trial.state == state for trial in open_trials)} {state}"
                           for state in dict.fromkeys(trial.state for trial in open_trials))  # fmt: skip
        lines.append(f"Not finished: {states} of {len(comparison.trials)}.")
    return "\n".join(lines)
