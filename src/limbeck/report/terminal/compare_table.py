"""A comparison: accuracy, the difference to the baseline with its interval, and the verdicts."""

from __future__ import annotations

from limbeck.report.compare.comparison import Comparison
from limbeck.report.compare.tables import METRIC_COLUMNS, format_heading, non_empty_columns
from limbeck.report.terminal.text_table import make_table, render_text

__all__ = ["render_compare_table"]

_HEADINGS = ("Accuracy", "Difference", "Gap recovered", "Parameters", "Latency")
_WITH_INTERVALS = ("Accuracy", "Difference")


def render_compare_table(comparison: Comparison) -> str:
    """Plain text: the table, then the verdicts, then the number of unfinished trials."""
    columns = [
        column for column in non_empty_columns(METRIC_COLUMNS, comparison.variants) if column.heading in _HEADINGS
    ]
    num_samples_note = "" if comparison.num_samples is None else f", n = {comparison.num_samples:,}"
    table = make_table(
        ["variant"], ["seeds", *map(format_heading, columns)],
        title=f"{comparison.title}: {comparison.split} split{num_samples_note}",
    )  # fmt: skip
    name_column = table.columns[0]
    name_column.no_wrap, name_column.overflow, name_column.min_width = False, "fold", 10
    for variant in comparison.variants:
        cells = [(column.make_cell(variant), column.heading in _WITH_INTERVALS) for column in columns]
        texts = [
            f"{cell.text}\n{cell.detail}" if cell.detail and has_interval else cell.text for cell, has_interval in cells
        ]
        table.add_row(variant.name, str(comparison.count_seeds(variant.name)), *texts)
    lines = [render_text(table), *(variant.verdict for variant in comparison.variants if variant.verdict)]
    open_states = [trial.state for trial in comparison.trials if trial.state != "done"]
    if open_states:
        states = ", ".join(f"{open_states.count(state)} {state}" for state in dict.fromkeys(open_states))
        lines.append(f"Not finished: {states} of {len(comparison.trials)}.")
    return "\n".join(lines)
