"""The comparison for the terminal: models by accuracy, F1, calibration error, parameters and latency."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from limbeck.core.roles import Role
from limbeck.report.formatting import MISSING, format_count, format_fixed, format_percent

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["build_summary_table", "render_summary_table"]

_ROLE_LABELS = {
    Role.BASELINE: "baseline", Role.NO_ASSISTANTS: "student, no assistants", Role.DISTILLED: "distilled student",
}  # fmt: skip


def build_summary_table(record: Mapping[str, Any]) -> Table:
    """The table of a record (the contents of ``record.json``), for a Rich console.

    Raises:
        LimbeckError: it is not a record of a run.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from limbeck.report.read import parse_record
    from limbeck.report.record import get_metric

    parsed = parse_record(record)
    metrics = parsed.get_metrics(parsed.distilled)
    num_samples_note = f", n = {metrics.num_samples}" if metrics else ""
    table = Table(
        box=box.SIMPLE_HEAD,
        title=f"{parsed.split} split{num_samples_note}",
        title_justify="left",
        title_style="dim",
        pad_edge=False,
    )
    table.add_column("model", no_wrap=True)
    for heading in ("accuracy", "F1", "ECE", "parameters", "latency"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, model in parsed.ordered_models():
        model_metrics = parsed.get_metrics(model)
        accuracy, macro_f1, ece = (get_metric(model_metrics, metric) for metric in ("accuracy", "macro_f1", "ece"))
        median = model.latency_ms.median if model.latency_ms else None
        table.add_row(
            # Text, not a string: a name with brackets is no markup.
            Text(_ROLE_LABELS.get(model.role, name)),
            format_percent(accuracy), format_percent(macro_f1), format_fixed(ece), format_count(model.parameters),
            MISSING if median is None else f"{median:.3g} ms",
            style="bold" if model.role == Role.DISTILLED else "",
        )  # fmt: skip
    return table


def render_summary_table(record: Mapping[str, Any]) -> str:
    """The same as plain text, without colours; lines end without spaces."""
    from rich.console import Console

    console = Console(width=100, no_color=True, highlight=False, force_terminal=False)
    with console.capture() as caught:
        console.print(build_summary_table(record))
    return "\n".join(line.rstrip() for line in caught.get().strip("\n").splitlines())
