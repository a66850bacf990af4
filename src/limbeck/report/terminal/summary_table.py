"""The models of a run: accuracy, F1, calibration error, parameters and latency."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from limbeck.core.roles import Role
from limbeck.report.formatting import MISSING, format_count, format_fixed, format_percent
from limbeck.report.record import get_metric
from limbeck.report.record_io import parse_record
from limbeck.report.terminal.text_table import make_table, render_text

__all__ = ["render_summary_table"]

_ROLE_LABELS = {
    Role.BASELINE: "baseline", Role.NO_ASSISTANTS: "student, no assistants", Role.DISTILLED: "distilled student",
}  # fmt: skip


def render_summary_table(record: Mapping[str, Any]) -> str:
    """The contents of ``record.json`` as plain text.

    Raises:
        LimbeckError: it is not a record of a run.
    """
    parsed = parse_record(record)
    metrics = parsed.get_metrics(parsed.distilled)
    title = f"{parsed.split} split{f', n = {metrics.num_samples}' if metrics else ''}"
    table = make_table(["model"], ["accuracy", "F1", "ECE", "parameters", "latency"], title=title)
    for name, model in parsed.ordered_models():
        accuracy, macro_f1, ece = (
            get_metric(parsed.get_metrics(model), metric) for metric in ("accuracy", "macro_f1", "ece")
        )
        latency = model.latency_ms.median if model.latency_ms else None
        table.add_row(
            _ROLE_LABELS.get(model.role, name), format_percent(accuracy), format_percent(macro_f1), format_fixed(ece),
            format_count(model.parameters), MISSING if latency is None else f"{latency:.3g} ms",
        )  # fmt: skip
    return render_text(table)
