"""Teacher candidates: metrics, similarity of each pair, and the reason why each was selected or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from limbeck.report.formatting import MISSING, format_bytes, format_count, format_fixed, format_percent, format_points
from limbeck.report.terminal.text_table import make_table, render_text

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["render_candidates_table"]

_MAX_PAIRS = 10


def render_candidates_table(selection: Mapping[str, Any]) -> str:
    """The contents of ``teacher_selection.json`` as plain text: metrics, reasons, pairs, warnings, the selection."""
    tables = [_metrics_table(selection), _reasons_table(selection["candidates"])]
    if selection["pairs"]:
        tables.append(_pairs_table(selection["pairs"]))
    lines = [render_text(*tables)]
    if selection["warnings"]:
        lines += ["With all of them as teachers, limbeck distill would warn:"]
        lines += [f" - {warning}" for warning in selection["warnings"]]
    return "\n".join([*lines, _format_selection(selection)])


def _metrics_table(selection: Mapping[str, Any]) -> Table:
    table = make_table(
        ["", "candidate"], ["accuracy", "margin", "NLL", "ECE", "parameters", "latency", "memory"],
        title=f"validation split, n = {selection['baseline']['validation']['num_samples']}",
    )  # fmt: skip
    for name, model in {**selection["candidates"], "baseline": selection["baseline"]}.items():
        metrics, is_candidate = model["validation"]["metrics"], model is not selection["baseline"]
        table.add_row(
            "●" if is_candidate and model["is_selected"] else "", name, format_percent(metrics["accuracy"]),
            format_points(model["margin_points"]) if is_candidate else "", format_fixed(metrics["nll"]),
            format_fixed(metrics["ece"]), format_count(model["parameters"]), f"{model['latency_ms']['median']:.3g} ms",
            format_bytes(model["peak_memory"]),
        )  # fmt: skip
    return table


def _reasons_table(candidates: Mapping[str, Any]) -> Table:
    table = make_table([""] * 3, title="why")
    for column in table.columns:
        column.no_wrap, column.overflow = False, "fold"
    for name, model in candidates.items():
        table.add_row("●" if model["is_selected"] else "", name, model["reason"])
    return table


def _pairs_table(pairs: Sequence[Mapping[str, Any]]) -> Table:
    """The most similar pairs; the file holds all of them."""
    most_similar = sorted(pairs, key=lambda pair: pair["disagreement"])[:_MAX_PAIRS]
    count_note = "" if len(most_similar) == len(pairs) else f", the {_MAX_PAIRS} most similar of {len(pairs)} pairs"
    table = make_table(
        ["pair"], ["disagreement", "error correlation", "both wrong", "CKA"], title=f"similarity{count_note}"
    )
    table.columns[0].no_wrap = False
    for pair in most_similar:
        cka = format_fixed(pair["cka"], digits=2) + (" of logits" if pair["cka_input"] == "logits" else "")
        table.add_row(
            f"{pair['first']} – {pair['second']}", format_percent(pair["disagreement"]),
            format_fixed(pair["error_correlation"], digits=2), format_percent(pair["double_fault"]),
            MISSING if pair["cka"] is None else cka,
        )  # fmt: skip
    return table


def _format_selection(selection: Mapping[str, Any]) -> str:
    steps, rules = selection["selection"]["steps"], selection["rules"]
    if not steps:
        return "Selected: none of them; the reasons are above."
    last_step = steps[-1]
    budget_note = "" if rules["has_latency_budget"] else f", {rules['max_latency_ratio']:g} times the student"
    names = ", ".join(selection["selection"]["selected"]) + (" together" if len(steps) > 1 else "")
    return (
        f"Selected: {names}: {format_percent(last_step['accuracy'])}, NLL {format_fixed(last_step['nll'])}, "
        f"{last_step['latency_ms']:.3g} ms of a budget of {rules['latency_budget']:.3g} ms{budget_note}"
    )
