"""The result of the checks of ``limbeck evaluate`` as tables for the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from limbeck.core.metric_spec import MetricSpec
from limbeck.core.roles import Role
from limbeck.report.formatting import (
    format_bytes,
    format_count,
    format_fixed,
    format_percent,
    format_points,
)
from limbeck.report.terminal import make_table, render_text

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["render_evaluation_table"]

_EVALUATION_WIDTH = 120
_MAX_HEADING = 12
_ATTACK_LABELS = {"fgsm": "FGSM", "pgd": "PGD-20", "apgd": "APGD-20", "worst_case": "worst of them"}
_OOD_SCORE_LABELS = {"max_softmax": "AUROC, softmax", "energy": "AUROC, energy"}
_MetricRow = tuple[str, str, tuple[str | int, ...], Callable[[float | None], str]]


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
    headings = [*(f"batch of {batch}" for batch in batches), metric, "agreement", "file"]
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
