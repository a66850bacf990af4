"""Results as tables for the terminal, rendered by Rich as plain text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from textwrap import fill, wrap
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
    format_points,
)
from limbeck.report.record_io import parse_record
from limbeck.report.task_metrics import TaskMetrics

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

_MAX_PAIRS = 10
_EVALUATION_WIDTH = 120
_MAX_HEADING = 12
_COMPARE_HEADINGS = ("Gain", "Gap recovered", "Parameters", "Latency")
"""Columns of a comparison beside the primary metric."""
_ATTACK_LABELS = {"fgsm": "FGSM", "pgd": "PGD-20", "apgd": "APGD-20", "worst_case": "worst of them"}
_OOD_SCORE_LABELS = {"max_softmax": "AUROC, softmax", "energy": "AUROC, energy"}
_MATCH_LABELS = {"exact": "exact", "within_tolerance": "within tolerance", "different": "DIFFERENT"}
_MAX_SUMMARY_METRICS = 3
_HEADING_WIDTH = 10
_STUDENT_LABELS = {
    Role.BASELINE: "baseline", Role.NO_ASSISTANTS: "student, no assistants", Role.DISTILLED: "distilled student",
}  # fmt: skip
_MetricRow = tuple[str, str, tuple[str | int, ...], Callable[[float | None], str]]


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
    return "\n".join(line.rstrip() for line in capture.get().strip("\n").splitlines())


def render_summary_table(record: Mapping[str, Any]) -> str:
    """The contents of ``record.json`` as plain text.

    Raises:
        LimbeckError: it is not a record of a run.
    """
    parsed = parse_record(record)
    metrics = parsed.get_metrics(parsed.distilled)
    rows, specs = list[tuple[str, ...]](), parsed.metric_specs[:_MAX_SUMMARY_METRICS]
    for name, model in parsed.ordered_models():
        values = [spec.format(parsed.get_metric(model, spec.name)) for spec in specs]
        latency = model.latency_ms.median if model.latency_ms else None
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


def render_compare_table(comparison: Comparison) -> str:
    """A comparison as plain text: the table, then the verdicts, then the number of unfinished trials."""
    metrics = comparison.task_metrics
    with_interval = (metrics.primary_spec.heading, "Gain")
    columns = [
        column for column in non_empty_columns(metric_columns(metrics), comparison.variants)
        if column.heading in (*with_interval, *_COMPARE_HEADINGS)
    ]  # fmt: skip
    rows = []
    for variant in comparison.variants:
        cells = [(column.heading, column.make_cell(variant)) for column in columns]
        texts = [
            f"{cell.text}\n{cell.detail}" if cell.detail and heading in with_interval else cell.text
            for heading, cell in cells
        ]
        rows.append((variant.name, str(comparison.count_seeds(variant.name)), *texts))
    num_samples_note = "" if comparison.num_samples is None else f", n = {comparison.num_samples:,}"
    table = make_table(
        ["variant"], ["seeds", *map(format_heading, columns)], rows, wrap="variant",
        title=f"{comparison.title}: {comparison.split} split{num_samples_note}",
    )  # fmt: skip
    lines = [render_text(table), *(variant.verdict for variant in comparison.variants if variant.verdict)]
    states = ", ".join(f"{count} {state}" for state, count in comparison.states.items() if state != "done")
    if states:
        lines.append(f"Not finished: {states} of {len(comparison.trials)}.")
    return "\n".join(lines)


def render_candidates_table(selection: Mapping[str, Any]) -> str:
    """The contents of ``teacher_selection.json`` as plain text: metrics, reasons, pairs, warnings, the selection."""
    candidates, baseline, pairs = selection["candidates"], selection["baseline"], selection["pairs"]
    spec = TaskMetrics.model_validate(selection).primary_spec
    metric_rows = []
    for name, model in {**candidates, "baseline": baseline}.items():
        metrics, is_candidate = model["validation"]["metrics"], model is not baseline
        metric_rows.append(
            ("●" if is_candidate and model["is_selected"] else "", name, spec.format(metrics[spec.name]),
             format_gain_number(model["margin_points"], spec) if is_candidate else "", format_fixed(metrics["nll"]),
             format_fixed(metrics["ece"]), format_count(model["parameters"]),
             format_latency(model["latency_ms"]["median"]), format_bytes(model["peak_memory"]))
        )  # fmt: skip
    title = f"validation split, n = {baseline['validation']['num_samples']}"
    headings = [spec.text, "margin", "NLL", "ECE", "parameters", "latency", "memory"]
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
    most_similar = sorted(pairs, key=lambda pair: pair["disagreement"])[:_MAX_PAIRS]
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


def _format_selection(selection: Mapping[str, Any], metric: MetricSpec) -> str:
    steps, rules = selection["selection"]["steps"], selection["rules"]
    if not steps:
        return "Selected: none of them; the reasons are above."
    last_step = steps[-1]
    budget_note = "" if rules["has_latency_budget"] else f", {rules['max_latency_ratio']:g} times the student"
    names = ", ".join(selection["selection"]["selected"]) + (" together" if len(steps) > 1 else "")
    return (
        f"Selected: {names}: {metric.format(last_step[metric.name])}, NLL {format_fixed(last_step['nll'])}, "
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


def render_evaluation_table(evaluation: Mapping[str, Any]) -> str:
    """The contents of ``evaluation.json`` as plain text of up to 120 columns."""
    models = evaluation["models"]
    by_key = {(item["model"], item["reference"], item["metric"]): item for item in evaluation["differences"]}
    pairs = list(dict.fromkeys(key[:2] for key in by_key))
    rows = []
    spec = _metric_spec(evaluation)
    for title, metric, key_path, formatter in _metric_rows(evaluation, spec):
        values = [formatter(_get_metric(model, key_path)) for model in models.values()]
        rows.append((title, *values, *(_format_difference(by_key.get((*pair, metric))) for pair in pairs)))
    headings = [_model_label(name, model) for name, model in models.items()]
    table = make_table([f"{spec.text} of"], [*headings, *(f"{a} − {b}, 95 %" for a, b in pairs)], rows)
    num_samples = max(model["num_samples"] for model in models.values())
    title = f"{evaluation['name']}, {evaluation['split']} split, n = {num_samples} unless stated otherwise"
    # Titles are lines of their own: a table wraps its title at its own width.
    lines = [render_text(title, table, *_cost_tables(evaluation), width=_EVALUATION_WIDTH)]
    for note in _format_notes(evaluation):
        lines += wrap(f"note: {note}", _EVALUATION_WIDTH, subsequent_indent="  ")
    return "\n".join(lines)


def _metric_spec(evaluation: Mapping[str, Any]) -> MetricSpec:
    """The primary metric of the task."""
    return MetricSpec(**evaluation["metric"])


def _metric_rows(evaluation: Mapping[str, Any], spec: MetricSpec) -> Iterator[_MetricRow]:
    """Title, name in the differences, key path in a model's metrics, and formatter."""
    first_model = next(iter(evaluation["models"].values()))
    yield "clean samples", "clean", ("clean",), spec.format
    for name in (name for name in _ATTACK_LABELS if name in first_model.get("attacks", {})):
        title = f"{_ATTACK_LABELS[name]}, ε = {_format_eps(first_model['attacks']['eps'])}"
        yield "  worst of them" if name == "worst_case" else title, name, ("attacks", name), format_percent
    if "corruptions" in first_model:
        yield "15 corruptions × 5", "corruptions", ("corruptions", "mean"), spec.format
        for name in first_model["corruptions"]["by_corruption"]:
            yield f"  {name.replace('_', ' ')}", name, ("corruptions", "by_corruption", name), spec.format
    for index, sigma in enumerate(first_model.get("noise", {}).get("sigmas", ())):
        yield f"noise, σ = {sigma:g}", f"noise {sigma:g}", ("noise", "values", index), spec.format
    if "shift" in first_model:
        n = f", n = {first_model['shift']['num_samples']}"
        if first_model["shift"]["is_paired"]:
            yield f"reference images{n}", "", ("shift", "reference_accuracy"), format_percent
        yield f"shifted images{n}", "shift", ("shift", "shifted_accuracy"), format_percent
        yield "  points against reference", "", ("shift", "difference"), format_points
        if first_model["shift"]["is_paired"]:
            yield "  flip rate", "", ("shift", "flip_rate"), format_percent
    for name in (name for name in _OOD_SCORE_LABELS if name in first_model.get("ood", {})):
        title = f"{_OOD_SCORE_LABELS[name]}, {first_model['ood']['dataset']}"
        yield title, f"auroc {name}", ("ood", name, "auroc"), format_fixed
    if "calibration" in first_model:
        title = f"temperature, n = {first_model['calibration']['num_samples']}"
        yield title, "", ("calibration", "temperature"), format_fixed
        for stage, metric in ((stage, metric) for stage in ("before", "after") for metric in ("ece", "nll")):
            yield f"  {metric.upper()} {stage}", f"{metric} {stage}", ("calibration", stage, metric), format_fixed


def _cost_tables(evaluation: Mapping[str, Any]) -> Iterator[RenderableType]:
    """Titles and tables of latency and memory."""
    if not evaluation["efficiency"]:
        return
    measurements = evaluation["efficiency"]["rows"]
    machine, threads, batches = (measurements[0][key] for key in ("machine", "num_threads", "latency_ms"))
    latency_rows, memory_rows, spec = [], [], _metric_spec(evaluation)
    for row in measurements:
        label = _model_label(row["model"], evaluation["models"][row["model"]])
        latencies = (row["latency_ms"][batch] for batch in batches)
        latency_rows.append(
            (label, f"{row['runtime']} {row['precision']}",
             *(f"{latency['median']:.3g} ({latency['p95']:.3g})" for latency in latencies),
             spec.format(row["value"]), format_percent(row["agreement"]), format_bytes(row["bytes"]))
        )  # fmt: skip
        if row["runtime"] == "torch":
            numbers = (format_count(row["parameters"]), format_count(row["flops"]), format_bytes(row["peak_memory"]))
            memory_rows.append((label, *numbers))
    metric = spec.text if len(spec.text) <= _MAX_HEADING else "metric"
    yield (
        f"ms per call, median (95th percentile); {threads} thread{'s' if threads > 1 else ''} of "
        f"{machine['num_cores']} cores, {machine['cpu']}"
    )
    headings = [*(f"batch of {batch}" for batch in batches), metric, "as torch", "file"]
    yield make_table(["network", "runtime"], headings, latency_rows)
    yield "for one sample in torch"
    yield make_table(["network"], ["parameters", "FLOPs", "peak memory"], memory_rows)


def _format_notes(evaluation: Mapping[str, Any]) -> Iterator[str]:
    first_model = next(iter(evaluation["models"].values()))
    if "corruptions" in first_model:
        yield first_model["corruptions"]["note"]
    if "calibration" in first_model:
        yield f"temperatures are fitted on {first_model['calibration']['fit_split']}, and evaluated on other samples"
    yield from evaluation["notes"]


def _model_label(name: str, model: Mapping[str, Any]) -> str:
    """The role of a student, or the name of a teacher."""
    labels = {Role.BASELINE: "baseline", Role.NO_ASSISTANTS: "no assistants", Role.DISTILLED: "distilled"}
    return labels.get(model.get("role", ""), name)


def _format_difference(difference: Mapping[str, Any] | None) -> str:
    if difference is None:
        return ""
    digits = 1 if difference["unit"] == "points" else 3
    if difference["low"] is None:
        return f"{format_points(difference['difference'], digits=digits)} (too few samples for an interval)"
    gain, low, high = (format_points(difference[key], digits=digits) for key in ("difference", "low", "high"))
    return f"{gain} ({low} to {high})"


def _get_metric(model: Any, key_path: tuple[str | int, ...]) -> float | None:
    """The value at ``key_path``: the mean of a list, ``None`` where it is missing."""
    for key in key_path:
        model = model.get(key) if isinstance(model, Mapping) else model[key]
        if model is None:
            return None
    return float(sum(model) / len(model) if isinstance(model, list) else model)


def _format_eps(eps: float) -> str:
    levels = eps * 255
    return f"{round(levels)}/255" if abs(levels - round(levels)) < 1e-6 else f"{eps:g}"
