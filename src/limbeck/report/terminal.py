"""Results as tables for the terminal, rendered by Rich as plain text."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any

from limbeck.core.metric_spec import MetricSpec
from limbeck.core.roles import Role
from limbeck.report.compare.comparison import Comparison
from limbeck.report.compare.tables import format_heading, metric_columns, non_empty_columns
from limbeck.report.formatting import (
    MISSING,
    format_bytes,
    format_count,
    format_fixed,
    format_gain_number,
    format_latency,
    format_percent,
)
from limbeck.report.latency import model_latencies
from limbeck.report.record_io import parse_record
from limbeck.report.task_metrics import TaskMetrics

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

_MAX_PAIRS = 10
_COMPARE_HEADINGS = ("Gain", "Gap recovered", "Parameters", "Latency")
"""Columns of a comparison beside the primary metric."""
_MATCH_LABELS = {"exact": "exact", "within_tolerance": "within tolerance", "different": "DIFFERENT"}
_MAX_SUMMARY_METRICS = 3
_HEADING_WIDTH = 10
_STUDENT_LABELS = {
    Role.BASELINE: "baseline", Role.NO_ASSISTANTS: "student, no assistants", Role.DISTILLED: "distilled student",
}  # fmt: skip


def make_table(
    text: Sequence[str], numbers: Sequence[str], rows: Iterable[Sequence[str]], *, title: str = "", wrap: str = ""
) -> Table:
    """A table with left-aligned ``text`` columns, then right-aligned ``numbers`` columns.

    Args:
        text: headings of the columns of text.
        numbers: headings of the columns of numbers.
        rows: the cells of each row.
        title: a line above the table.
        wrap: heading of a column that may be wrapped.
    """
    from rich import box
    from rich.table import Table

    table = Table(
        box=box.SIMPLE_HEAD, title=title or None, title_justify="left", title_style="dim", pad_edge=False,
        show_header=any((*text, *numbers)),
    )  # fmt: skip
    for index, heading in enumerate((*text, *numbers)):
        is_wrapped = heading == wrap and wrap != ""
        table.add_column(
            heading, justify="left" if index < len(text) else "right", no_wrap=not is_wrapped,
            overflow="fold" if is_wrapped else "ellipsis", min_width=10 if is_wrapped else None,
        )  # fmt: skip
    for row in rows:
        table.add_row(*row)
    return table


def render_text(*renderables: RenderableType, width: int = 100) -> str:
    """Tables and lines as plain text without colors, markup and trailing spaces."""
    from rich.console import Console

    console = Console(width=width, no_color=True, highlight=False, force_terminal=False, markup=False, emoji=False)
    with console.capture() as capture:
        for renderable in renderables:
            console.print(renderable)
    return "\n".join(line.rstrip() for line in capture.get().splitlines()).strip("\n")


def render_summary_table(record: Mapping[str, Any]) -> str:
    """The contents of ``record.json`` as plain text.

    Raises:
        LimbeckError: it is not a record of a run.
    """
    parsed = parse_record(record)
    metrics = parsed.get_metrics(parsed.distilled)
    models = [model for _, model in parsed.ordered_models()]
    specs = [
        spec for spec in parsed.metric_specs
        if spec is parsed.primary_spec or any(parsed.get_metric(model, spec.name) is not None for model in models)
    ][:_MAX_SUMMARY_METRICS]  # fmt: skip
    rows = list[tuple[str, ...]]()
    latencies = model_latencies(parsed.models)
    for name, model in parsed.ordered_models():
        values = [spec.format(parsed.get_metric(model, spec.name)) for spec in specs]
        latency = latencies[name].median if name in latencies else None
        rows.append(
            (_STUDENT_LABELS.get(model.role, name), *values, format_count(model.parameters), format_latency(latency))
        )  # fmt: skip
    title = f"{parsed.split} split{f', n = {metrics.num_samples}' if metrics else ''}"
    return render_text(
        make_table(
            ["model"],
            [*(fill(spec.text, _HEADING_WIDTH) for spec in specs), "parameters", "latency"],
            rows,
            title=title,
        )
    )


def render_compare_table(comparison: Comparison, *, width: int | None = None) -> str:
    """A comparison as plain text: the table, then the verdicts, then the number of unfinished trials.

    Args:
        comparison: the variants.
        width: in characters; ``None``: of the terminal, or 80. Names are whole; columns that do not fit follow in a
            second table.
    """
    metrics, width = comparison.task_metrics, width or shutil.get_terminal_size((80, 24)).columns
    columns = [
        column for column in non_empty_columns(metric_columns(metrics, comparison.variants), comparison.variants)
        if column.heading in (metrics.primary_spec.heading, *_COMPARE_HEADINGS)
    ]  # fmt: skip
    names, seeds = ([variant.name for variant in comparison.variants], "seeds")
    cells = {seeds: [str(comparison.count_seeds(name)) for name in names]}
    for column in columns:
        texts = map(column.make_cell, comparison.variants)
        cells[fill(format_heading(column), _HEADING_WIDTH)] = ["\n".join(filter(None, cell[:2])) for cell in texts]
    num_samples_note = "" if comparison.num_samples is None else f", n = {comparison.num_samples:,}"
    title, tables = f"{comparison.title}: {comparison.split} split{num_samples_note}", []
    for headings in _split_columns(names, cells, width):
        rows = zip(names, *(cells[heading] for heading in headings), strict=True)
        tables.append(render_text(make_table(["variant"], headings, rows, title=title), width=10_000))
        title = ""
    lines = ["\n\n".join(tables), *(variant.verdict for variant in comparison.variants if variant.verdict)]
    states = ", ".join(f"{count} {state}" for state, count in comparison.states.items() if state != "done")
    if states:
        lines.append(f"Not finished: {states} of {len(comparison.trials)}.")
    return "\n".join(lines)


def _split_columns(names: Sequence[str], cells: Mapping[str, Sequence[str]], width: int) -> list[list[str]]:
    """The headings of ``cells`` in groups that fit into ``width`` beside ``names``."""

    def column_width(texts: Iterable[str]) -> int:
        return 3 + max(len(line) for text in texts for line in text.splitlines() or [""])

    first = column_width(["variant", *names])
    groups, used = [list[str]()], first
    for heading, texts in cells.items():
        needed = column_width([heading, *texts])
        if used + needed > width and groups[-1]:
            groups.append([])
            used = first
        groups[-1].append(heading)
        used += needed
    return groups


def render_candidates_table(selection: Mapping[str, Any]) -> str:
    """The contents of ``teacher_selection.json`` as plain text: metrics, reasons, pairs, warnings, the selection."""
    candidates, baseline, pairs = selection["candidates"], selection["baseline"], selection["pairs"]
    task_metrics = TaskMetrics.model_validate(selection)
    spec, measured = task_metrics.primary_spec, baseline["validation"]["metrics"]
    others = [other for other in task_metrics.metric_specs if other.name != spec.name and other.name in measured]
    metric_rows = []
    for name, model in {**candidates, "baseline": baseline}.items():
        metrics, is_candidate = model["validation"]["metrics"], model is not baseline
        metric_rows.append(
            ("●" if is_candidate and model["is_selected"] else "", name, spec.format(metrics[spec.name]),
             format_gain_number(model["margin"], spec) if is_candidate else "",
             *(other.format(metrics[other.name]) for other in others), format_count(model["parameters"]),
             format_latency(model["latency_ms"]["median"]), format_bytes(model["peak_memory"]))
        )  # fmt: skip
    title = f"validation split, n = {baseline['validation']['num_samples']}"
    headings = [spec.text, "margin", *(other.text for other in others), "parameters", "latency", "memory"]
    tables = [make_table(["", "candidate"], headings, metric_rows, title=title)]
    reasons = [("●" if model["is_selected"] else "", name, model["reason"]) for name, model in candidates.items()]
    tables.append(make_table([""] * 3, [], reasons, title="why"))
    for column in tables[1].columns:
        column.no_wrap, column.overflow = False, "fold"
    lines = [render_text(*tables, *([_pairs_table(pairs)] if pairs else []))]
    if selection["warnings"]:
        lines += ["With all of them as teachers, limbeck distill would warn:"]
        lines += [f" - {warning}" for warning in selection["warnings"]]
    return "\n".join([*lines, _format_selection(selection, spec)])


def _pairs_table(pairs: Sequence[Mapping[str, Any]]) -> Table:
    """The most similar pairs; the file holds all of them."""
    most_similar = sorted(pairs, key=_pair_distance)[:_MAX_PAIRS]
    count_note = "" if len(most_similar) == len(pairs) else f", the {_MAX_PAIRS} most similar of {len(pairs)} pairs"
    rows = []
    for pair in most_similar:
        logits_note = " of logits" if pair["cka"] is not None and pair["cka_input"] == "logits" else ""
        rows.append(
            (f"{pair['first']} – {pair['second']}", format_percent(pair["disagreement"]),
             format_fixed(pair["error_correlation"], digits=2), format_percent(pair["double_fault"]),
             format_fixed(pair["cka"], digits=2) + logits_note)
        )  # fmt: skip
    headings = ["disagreement", "error correlation", "both wrong", "CKA"]
    return make_table(["pair"], headings, rows, title=f"similarity{count_note}", wrap="pair")


def _pair_distance(pair: Mapping[str, Any]) -> float:
    """The disagreement; without predicted classes 1 − the correlation."""
    if pair["disagreement"] is not None:
        return float(pair["disagreement"])
    return 1 - (pair["error_correlation"] or 0.0)


def _format_selection(selection: Mapping[str, Any], metric: MetricSpec) -> str:
    steps, rules = selection["selection"]["steps"], selection["rules"]
    if not steps:
        return "Selected: none of them; the reasons are above."
    last_step = steps[-1]
    budget_note = "" if rules["has_latency_budget"] else f", {rules['max_latency_ratio']:g} times the student"
    names = ", ".join(selection["selection"]["selected"]) + (" together" if len(steps) > 1 else "")
    criterion_name = selection["selection"]["criterion_name"]
    criterion = f", {criterion_name} {format_fixed(last_step['criterion_value'])}" if criterion_name else ""
    return (
        f"Selected: {names}: {metric.text} {metric.format(last_step['value'])}{criterion}, "
        f"{last_step['latency_ms']:.3g} ms of a budget of {rules['latency_budget']:.3g} ms{budget_note}"
    )


def render_reproduce_table(result: Mapping[str, Any]) -> str:
    """The contents of ``reproduce.json`` as plain text: a line for each metric, the likely reasons, and the result."""

    def format_number(value: float | None) -> str:
        return MISSING if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.5g}"

    def format_difference(original: float | None, reproduced: float | None) -> str:
        if original is None or reproduced is None:
            return MISSING
        return "0" if reproduced == original else f"{reproduced - original:+.3g}".replace("-", "−")

    rows = [
        (row["model"], row["metric"], format_number(row["original"]), format_number(row["reproduced"]),
         format_difference(row["original"], row["reproduced"]), _MATCH_LABELS[row["match"]])
        for row in result["metrics"]
    ]  # fmt: skip
    table = make_table(["model", "metric"], ["original", "reproduced", "difference", "match"], rows)
    table.columns[-1].justify = "left"
    return "\n".join([render_text(table), "", *_format_reproduce_result(result)])


def _format_reproduce_result(result: Mapping[str, Any]) -> list[str]:
    matches, tolerance = [row["match"] for row in result["metrics"]], f"{result['tolerance']:g}"
    weights_notes = {True: ", and the student's weights are bit-identical", False: ", and the student's weights differ"}
    weights_note = weights_notes.get(result["same_weights"], "")
    if result["match"] == "exact":
        return [f"The metrics match exactly, all {len(matches)}{weights_note}."]
    text = f"The metrics match within {tolerance}: {matches.count('exact')} of {len(matches)} exactly{weights_note}."
    if result["match"] == "different":
        count = f"{matches.count('different')} of {len(matches)}"
        text = f"The metrics do NOT match: {count} differ by more than {tolerance}{weights_note}."
    if not result["reasons"]:
        return [text, "No recorded condition has changed: the difference comes from randomness that no seed controls."]
    return [text, "Conditions that have changed and may be the reason:", *(f" - {r}" for r in result["reasons"])]
