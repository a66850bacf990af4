"""Whether a reproduced run matches the original."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from limbeck.report.formatting import MISSING
from limbeck.report.terminal.text_table import make_table, render_text

__all__ = ["render_reproduce_table"]

_MATCH_LABELS = {"exact": "exact", "within_tolerance": "within tolerance", "different": "DIFFERENT"}
_WEIGHTS_NOTES = {
    True: ", and the student's weights are bit-identical", False: ", and the student's weights differ",
}  # fmt: skip


def render_reproduce_table(result: Mapping[str, Any]) -> str:
    """The contents of ``reproduce.json`` as plain text: a line for each metric, the likely reasons, and the result."""
    table = make_table(["model", "metric"], ["original", "reproduced", "difference"])
    table.add_column("match", no_wrap=True)
    for row in result["metrics"]:
        original, reproduced = row["original"], row["reproduced"]
        table.add_row(
            row["model"], row["metric"], _format_number(original), _format_number(reproduced),
            _format_difference(original, reproduced), _MATCH_LABELS[row["match"]],
        )  # fmt: skip
    return "\n".join([render_text(table), "", *_format_result(result)])


def _format_result(result: Mapping[str, Any]) -> list[str]:
    counts = {match: sum(row["match"] == match for row in result["metrics"]) for match in _MATCH_LABELS}
    total, weights_note = len(result["metrics"]), _WEIGHTS_NOTES.get(result["same_weights"], "")
    if result["match"] == "exact":
        return [f"The metrics match exactly, all {total}{weights_note}."]
    if result["match"] == "within_tolerance":
        text = f"The metrics match within {result['tolerance']:g}: {counts['exact']} of {total} exactly{weights_note}."
    else:
        text = (
            f"The metrics do NOT match: {counts['different']} of {total} differ by more than "
            f"{result['tolerance']:g}{weights_note}."
        )
    if not result["reasons"]:
        return [text, "No recorded condition has changed: the difference comes from randomness that no seed controls."]
    return [text, "Conditions that have changed and may be the reason:", *(f" - {r}" for r in result["reasons"])]


def _format_difference(original: float | None, reproduced: float | None) -> str:
    if original is None or reproduced is None:
        return MISSING
    return "0" if reproduced == original else f"{reproduced - original:+.3g}".replace("-", "−")


def _format_number(value: float | None) -> str:
    return MISSING if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.5g}"
