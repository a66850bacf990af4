"""Teacher candidates for the terminal: their metrics, how similar they are, and why each was selected or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from limbeck.report.formatting import MISSING, format_bytes, format_count, format_fixed, format_percent, format_points

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["render_candidates_table"]

_MAX_PAIRS = 10
_WIDTH = 100


def render_candidates_table(selection: Mapping[str, Any]) -> str:
    """The contents of ``teacher_selection.json`` as plain text: metrics, reasons, pairs, warnings, the selection."""
    from rich.console import Console

    console = Console(width=_WIDTH, no_color=True, highlight=False, force_terminal=False)
    with console.capture() as capture:
        console.print(_metrics_table(selection))
        console.print(_reasons_table(selection["candidates"]))
        if selection["pairs"]:
            console.print(_pairs_table(selection["pairs"]))
    lines = [line.rstrip() for line in capture.get().strip("\n").splitlines()]
    if selection["warnings"]:
        lines += ["With all of them as teachers, limbeck distill would warn:"]
        lines += [f" - {text}" for text in selection["warnings"]]
    return "\n".join([*lines, _format_choice(selection)])


def _metrics_table(selection: Mapping[str, Any]) -> Table:
    baseline = selection["baseline"]
    table = _make_table(f"validation split, n = {baseline['validation']['num_samples']}")
    table.add_column("")
    table.add_column("candidate", no_wrap=True, overflow="ellipsis")
    for heading in ("accuracy", "margin", "NLL", "ECE", "parameters", "latency", "memory"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, model in selection["candidates"].items():
        table.add_row(
            *_candidate_row("●" if model["is_selected"] else "", name, model, format_points(model["margin_points"]))
        )
    table.add_row(*_candidate_row("", "baseline", baseline, ""))
    return table


def _candidate_row(mark: str, name: str, model: Mapping[str, Any], margin: str) -> list[Any]:
    from rich.text import Text

    metrics, latency = model["validation"]["metrics"], model["latency_ms"]["median"]
    # Text, not a string: a name with brackets is no markup.
    return [
        mark, Text(name), format_percent(metrics["accuracy"]), margin, format_fixed(metrics["nll"]),
        format_fixed(metrics["ece"]),
        format_count(model["parameters"]), f"{latency:.3g} ms", format_bytes(model["peak_memory"]),
    ]  # fmt: skip


def _reasons_table(candidates: Mapping[str, Any]) -> Table:
    from rich.text import Text

    table = _make_table("why")
    table.show_header = False
    for _ in range(3):
        table.add_column(overflow="fold")
    for name, model in candidates.items():
        table.add_row("●" if model["is_selected"] else "", Text(name), Text(model["reason"]))
    return table


def _pairs_table(pairs: Sequence[Mapping[str, Any]]) -> Table:
    """The most similar pairs; the file has them all."""
    from rich.text import Text

    most_similar = sorted(pairs, key=lambda pair: pair["disagreement"])[:_MAX_PAIRS]
    count_note = "" if len(most_similar) == len(pairs) else f", the {_MAX_PAIRS} most similar of {len(pairs)} pairs"
    table = _make_table(f"similarity{count_note}")
    table.add_column("pair")
    for heading in ("disagreement", "error correlation", "both wrong", "CKA"):
        table.add_column(heading, justify="right", no_wrap=True)
    for pair in most_similar:
        cka = format_fixed(pair["cka"], digits=2) + (" of logits" if pair["cka_input"] == "logits" else "")
        table.add_row(
            Text(f"{pair['first']} – {pair['second']}"), format_percent(pair["disagreement"]),
            format_fixed(pair["error_correlation"], digits=2), format_percent(pair["double_fault"]),
            MISSING if pair["cka"] is None else cka,
        )  # fmt: skip
    return table


def _format_choice(selection: Mapping[str, Any]) -> str:
    steps, rules = selection["selection"]["steps"], selection["rules"]
    if not steps:
        return "Selected: none of them; the reasons are above."
    last_step, budget_note = (
        steps[-1],
        "" if rules["has_latency_budget"] else f", {rules['max_latency_ratio']:g} times the student",
    )
    names = ", ".join(selection["selection"]["selected"]) + (" together" if len(steps) > 1 else "")
    return (
        f"Selected: {names}: {format_percent(last_step['accuracy'])}, NLL {format_fixed(last_step['nll'])}, "
        f"{last_step['latency_ms']:.3g} ms of a budget of {rules['latency_budget']:.3g} ms{budget_note}"
    )


def _make_table(title: str) -> Table:
    from rich import box
    from rich.table import Table

    return Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="dim", pad_edge=False)
