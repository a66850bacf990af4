"""An evaluation: metrics of each network with their differences, and cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from limbeck.core.roles import Role
from limbeck.report.formatting import MISSING, format_bytes, format_count, format_fixed, format_percent, format_points
from limbeck.report.terminal.text_table import make_table, render_text

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["render_evaluation_table"]

_WIDTH = 120
_ROLE_LABELS = {Role.BASELINE: "baseline", Role.NO_ASSISTANTS: "no assistants", Role.DISTILLED: "distilled"}
_ATTACK_LABELS = {"fgsm": "FGSM", "pgd": "PGD-20", "apgd": "APGD-20", "worst_case": "worst of them"}
_OOD_SCORE_LABELS = {"max_softmax": "AUROC, softmax", "energy": "AUROC, energy"}
_MetricRow = tuple[str, str, tuple[str | int, ...], Callable[[float | None], str]]


def render_evaluation_table(evaluation: Mapping[str, Any]) -> str:
    """The contents of ``evaluation.json`` as plain text of up to 120 columns."""
    # Titles are lines of their own: a table wraps its title at its own width.
    titles_and_tables = (_accuracy_table(evaluation), *_cost_tables(evaluation))
    text = render_text(*(item for pair in titles_and_tables for item in pair), width=_WIDTH)
    notes = (wrap(f"note: {note}", _WIDTH, subsequent_indent="  ") for note in _format_notes(evaluation))
    return "\n".join([text, *chain.from_iterable(notes)])


def _accuracy_table(evaluation: Mapping[str, Any]) -> tuple[str, Table]:
    models, differences = evaluation["models"], evaluation["differences"]
    num_samples = max(model["num_samples"] for model in models.values())
    pairs = list(dict.fromkeys((difference["model"], difference["reference"]) for difference in differences))
    headings = [_model_label(name, model) for name, model in models.items()]
    table = make_table(["accuracy of"], [*headings, *(f"{a} − {b}, 95 %" for a, b in pairs)])
    by_key = {
        (difference["model"], difference["reference"], difference["metric"]): difference for difference in differences
    }
    for title, metric, key_path, formatter in _metric_rows(evaluation):
        values = [formatter(_get_metric(model, key_path)) for model in models.values()]
        table.add_row(title, *values, *(_format_difference(by_key.get((*pair, metric))) for pair in pairs))
    return f"{evaluation['name']}, {evaluation['split']} split, n = {num_samples} unless stated otherwise", table


def _metric_rows(evaluation: Mapping[str, Any]) -> Iterator[_MetricRow]:
    """Title, name in the differences, key path in a model's metrics, and formatter."""
    first_model = next(iter(evaluation["models"].values()))
    yield "clean images", "clean_accuracy", ("clean_accuracy",), format_percent
    for name in (name for name in _ATTACK_LABELS if name in first_model.get("attacks", {})):
        title = f"{_ATTACK_LABELS[name]}, ε = {_format_eps(first_model['attacks']['eps'])}"
        yield "  worst of them" if name == "worst_case" else title, name, ("attacks", name), format_percent
    if "corruptions" in first_model:
        yield "15 corruptions × 5", "corruptions", ("corruptions", "mean"), format_percent
        for name in first_model["corruptions"]["by_corruption"]:
            yield f"  {name.replace('_', ' ')}", name, ("corruptions", "by_corruption", name), format_percent
    for index, sigma in enumerate(first_model.get("noise", {}).get("sigmas", ())):
        yield f"noise, σ = {sigma:g}", f"noise {sigma:g}", ("noise", "accuracy", index), format_percent
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


def _cost_tables(evaluation: Mapping[str, Any]) -> Iterator[tuple[str, Table]]:
    if not evaluation["efficiency"]:
        return
    rows = evaluation["efficiency"]["rows"]
    labels = [_model_label(row["model"], evaluation["models"][row["model"]]) for row in rows]
    machine, threads = rows[0]["machine"], rows[0]["num_threads"]
    batches = list(rows[0]["latency_ms"])
    table = make_table(["network", "runtime"], [*(f"batch of {batch}" for batch in batches), "accuracy", "file"])
    for label, row in zip(labels, rows, strict=True):
        latencies = (row["latency_ms"][batch] for batch in batches)
        table.add_row(
            label, f"{row['runtime']} {row['precision']}",
            *(f"{latency['median']:.3g} ({latency['p95']:.3g})" for latency in latencies),
            format_percent(row["accuracy"]), format_bytes(row["bytes"]),
        )  # fmt: skip
    yield (
        (
            f"ms per call, median (95th percentile); {threads} thread{'s' if threads > 1 else ''} of "
            f"{machine['num_cores']} cores, {machine['cpu']}"
        ),
        table,
    )
    table = make_table(["network"], ["parameters", "FLOPs", "peak memory"])
    for label, row in zip(labels, rows, strict=True):
        if row["runtime"] == "torch":
            numbers = (format_count(row["parameters"]), format_count(row["flops"]), format_bytes(row["peak_memory"]))
            table.add_row(label, *numbers)
    yield "for one image in torch", table


def _format_notes(evaluation: Mapping[str, Any]) -> Iterator[str]:
    first_model = next(iter(evaluation["models"].values()))
    if "corruptions" in first_model:
        yield first_model["corruptions"]["note"]
    if "calibration" in first_model:
        yield f"temperatures are fitted on {first_model['calibration']['fit_split']}, and evaluated on other images"
    yield from evaluation["notes"]


def _model_label(name: str, model: Mapping[str, Any]) -> str:
    return _ROLE_LABELS.get(model.get("role", ""), name)


def _format_difference(difference: Mapping[str, Any] | None) -> str:
    if difference is None:
        return ""
    formatter = format_points if difference["unit"] == "points" else _format_signed
    return f"{formatter(difference['difference'])} ({formatter(difference['low'])} to {formatter(difference['high'])})"


def _format_signed(value: float | None) -> str:
    return MISSING if value is None else f"{value:+.3f}".replace("-", "−")


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
