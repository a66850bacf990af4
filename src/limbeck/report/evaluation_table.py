"""The tables of ``evaluation.json`` for the terminal: metrics by network with their difference, and what they cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from limbeck.core.roles import Role
from limbeck.report.formatting import MISSING, format_bytes, format_count, format_fixed, format_percent, format_points

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["render_evaluation_table"]

_WIDTH = 120
_ROLE_LABELS = {Role.BASELINE: "baseline", Role.NO_ASSISTANTS: "no assistants", Role.DISTILLED: "distilled"}
_ATTACK_LABELS = {"fgsm": "FGSM", "pgd": "PGD-20", "apgd": "APGD-20", "worst_case": "worst of them"}
_OOD_SCORE_LABELS = {"max_softmax": "AUROC, softmax", "energy": "AUROC, energy"}
_MetricRow = tuple[str, str, tuple[str | int, ...], Callable[[float | None], str]]


def render_evaluation_table(evaluation: Mapping[str, Any]) -> str:
    """What ``evaluation.json`` holds, as text of up to 120 columns without colours."""
    from rich.console import Console

    console = Console(width=_WIDTH, no_color=True, highlight=False, force_terminal=False)
    with console.capture() as capture:
        for title, table in (_accuracy_table(evaluation), *_cost_tables(evaluation)):
            # As a line of its own: a table breaks its title where the table ends.
            console.print(title, markup=False)
            console.print(table)
    text = "\n".join(line.rstrip() for line in capture.get().strip("\n").splitlines())
    notes = [
        line for note in _format_notes(evaluation) for line in wrap(f"note: {note}", _WIDTH, subsequent_indent="  ")
    ]
    return "\n".join([text, *notes])


def _accuracy_table(evaluation: Mapping[str, Any]) -> tuple[str, Table]:
    models = evaluation["models"]
    num_samples = max(model["num_samples"] for model in models.values())
    table = _make_table()
    table.add_column("accuracy of", no_wrap=True)
    for name, model in models.items():
        table.add_column(_model_label(name, model), justify="right", no_wrap=True)
    pairs = list(
        dict.fromkeys((difference["model"], difference["reference"]) for difference in evaluation["differences"])
    )
    for name_a, name_b in pairs:
        table.add_column(f"{name_a} − {name_b}, 95 %", justify="right", no_wrap=True)
    difference_by_key = {
        (difference["model"], difference["reference"], difference["metric"]): difference
        for difference in evaluation["differences"]
    }
    for title, metric, key_path, formatter in _metric_rows(evaluation):
        values = [_get_metric(model, key_path) for model in models.values()]
        differences = [_format_difference(difference_by_key.get((*pair, metric))) for pair in pairs]
        table.add_row(title, *(formatter(value) for value in values), *differences)
    return f"{evaluation['name']}, {evaluation['split']} split, n = {num_samples} unless stated otherwise", table


def _metric_rows(evaluation: Mapping[str, Any]) -> Iterator[_MetricRow]:
    """Title, name in the differences, path in a model's metrics, and how it is shown."""
    first_model = next(iter(evaluation["models"].values()))
    yield "clean images", "clean_accuracy", ("clean_accuracy",), format_percent
    for name in (name for name in _ATTACK_LABELS if name in first_model.get("attacks", {})):
        title = (
            f"  {_ATTACK_LABELS[name]}"
            if name == "worst_case"
            else f"{_ATTACK_LABELS[name]}, ε = {_format_eps(first_model['attacks']['eps'])}"
        )
        yield title, name, ("attacks", name), format_percent
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
        yield (
            f"{_OOD_SCORE_LABELS[name]}, {first_model['ood']['dataset']}",
            f"auroc {name}",
            ("ood", name, "auroc"),
            format_fixed,
        )
    if "calibration" in first_model:
        yield (
            f"temperature, n = {first_model['calibration']['num_samples']}",
            "",
            ("calibration", "temperature"),
            format_fixed,
        )
        for stage, metric in ((stage, metric) for stage in ("before", "after") for metric in ("ece", "nll")):
            yield f"  {metric.upper()} {stage}", f"{metric} {stage}", ("calibration", stage, metric), format_fixed


def _cost_tables(evaluation: Mapping[str, Any]) -> Iterator[tuple[str, Table]]:
    if not evaluation["efficiency"]:
        return
    rows = evaluation["efficiency"]["rows"]
    machine, threads = rows[0]["machine"], rows[0]["num_threads"]
    title = (
        f"ms for one call, median (95th percentile); {threads} thread{'s' if threads > 1 else ''} of "
        f"{machine['num_cores']} cores, {machine['cpu']}"
    )
    table = _make_table()
    table.add_column("network", no_wrap=True)
    table.add_column("runtime", no_wrap=True)
    batches = list(rows[0]["latency_ms"])
    for heading in (*(f"batch of {batch}" for batch in batches), "accuracy", "file"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        latencies = (row["latency_ms"][batch] for batch in batches)
        table.add_row(
            _model_label(row["model"], evaluation["models"][row["model"]]), f"{row['runtime']} {row['precision']}",
            *(f"{latency['median']:.3g} ({latency['p95']:.3g})" for latency in latencies),
            format_percent(row["accuracy"]), format_bytes(row["bytes"]),
        )  # fmt: skip
    yield title, table
    table = _make_table()
    for heading in ("network", "parameters", "FLOPs", "peak memory"):
        table.add_column(heading, justify="left" if heading == "network" else "right", no_wrap=True)
    for row in (row for row in rows if row["runtime"] == "torch"):
        label = _model_label(row["model"], evaluation["models"][row["model"]])
        table.add_row(
            label, format_count(row["parameters"]), format_count(row["flops"]), format_bytes(row["peak_memory"])
        )
    yield "for one image in torch", table


def _format_notes(evaluation: Mapping[str, Any]) -> Iterator[str]:
    first_model = next(iter(evaluation["models"].values()))
    if "corruptions" in first_model:
        yield first_model["corruptions"]["note"]
    if "calibration" in first_model:
        yield f"temperatures are fitted on {first_model['calibration']['fit_split']}, and evaluated on other images"
    yield from evaluation["notes"]


def _make_table() -> Table:
    from rich import box
    from rich.table import Table

    return Table(box=box.SIMPLE_HEAD, pad_edge=False)


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
    """The value at ``key_path``, the mean where there are several, and ``None`` where there is none."""
    for key in key_path:
        model = model.get(key) if isinstance(model, Mapping) else model[key]
        if model is None:
            return None
    return float(sum(model) / len(model) if isinstance(model, list) else model)


def _format_eps(eps: float) -> str:
    levels = eps * 255
    return f"{round(levels)}/255" if abs(levels - round(levels)) < 1e-6 else f"{eps:g}"
