"""Renders the report of a run as one HTML file without JavaScript and network requests."""

from __future__ import annotations

import base64
import binascii
import struct
from pathlib import Path
from typing import Any

from limbeck.core.errors import LimbeckError
from limbeck.core.roles import Role
from limbeck.report.confusion import load_confusion
from limbeck.report.html.templates import load_template, read_asset
from limbeck.report.latency import model_latencies
from limbeck.report.metrics_csv import load_curves, load_temperatures
from limbeck.report.next_steps import next_steps
from limbeck.report.plots.curves import (
    describe_constants,
    plot_gradient_ratios,
    plot_learning_rate,
    plot_loss_components,
    plot_loss_shares,
    plot_temperatures,
    plot_validation_curves,
)
from limbeck.report.plots.embedding_map import plot_embedding_map
from limbeck.report.plots.heatmap import plot_cka
from limbeck.report.plots.latency_scatter import plot_metric_vs_latency
from limbeck.report.plots.precision_recall import plot_precision_recall
from limbeck.report.plots.reliability import plot_reliability
from limbeck.report.record import Record
from limbeck.report.record_io import integrity_warning, read_record
from limbeck.report.record_sections import ClassErrors, StudentFidelity
from limbeck.report.verdict import RULE, classify_interval, format_verdict
from limbeck.utils.io import write_text

_CONTENT_SECURITY_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_MAX_ERROR_CLASSES = 8
_MAX_THUMBNAIL = 96
"""The longest side in pixels of an input that is shown beside its text, not above it."""
_Students = list[tuple[str, Role, StudentFidelity]]


def write_report(run_dir: Path) -> Path:
    """Write ``run_dir/report.html`` from the record, the metrics and the predictions in ``run_dir``; returns its path.

    The output is deterministic. Without ``metrics.csv`` the page has no curves, and without ``predictions.safetensors``
    no confusion matrix.

    Raises:
        LimbeckError: there is no record, or it is not the record of a finished run.
    """
    page = render_report(run_dir)
    return write_text(Path(run_dir) / "report.html", page)


def render_report(run_dir: Path) -> str:
    """The page of :func:`write_report` as text; raises the same errors."""
    run_dir = Path(run_dir)
    record = read_record(run_dir / "record.json")
    if record.kind == "trial":
        study = record.variant.study if record.variant else ""
        raise LimbeckError(
            f"{run_dir} is a trial of the study {study}, and a report needs a complete run: "
            "give the folder of the study to `limbeck compare`"
        )
    warning = integrity_warning(run_dir)
    students, latencies = _list_students(record), model_latencies(record.models)
    models = [(name, record.display_name(name), model) for name, model in record.ordered_models()]
    return load_template("report.html.j2").render(
        record=record, models=models, csp=_CONTENT_SECURITY_POLICY, style=read_asset("report.css"), rule=RULE,
        students=students, next_steps=next_steps(record), latencies=latencies,
        confusion=load_confusion(run_dir, record),
        warnings=[*([warning] if warning else []), *record.warnings], png_size=png_size,
        has_correct=any(
            panel.correct is not None for example in record.examples for panel in example.predictions.values()
        ),
        has_large_inputs=any(max(png_size(example.input.png)) > _MAX_THUMBNAIL for example in record.examples),
        class_errors=_errors_by_class(students), to_yaml=_dump_yaml,
        outcome=classify_interval(record.verdict.interval if record.verdict else None),
        verdict_text=_verdict_text(record), **_draw_plots(record, run_dir, students),
    )  # fmt: skip


def png_size(png: str | None) -> tuple[int, int]:
    """Width and height in pixels of a PNG as base64; zeros if it is not a PNG."""
    try:
        header = base64.b64decode(png or "", validate=True)[:24]
    except (binascii.Error, ValueError):
        return 0, 0
    if len(header) < 24 or not header.startswith(b"\x89PNG\r\n\x1a\n"):
        return 0, 0
    width, height = struct.unpack(">II", header[16:24])
    return width, height


def _list_students(record: Record) -> _Students:
    """Label, role and fidelity of each student, the distilled one first."""
    fidelities = record.fidelity.students if record.fidelity else {}
    students = [
        (record.display_name(name), record.models[name].role, fidelity)
        for name, fidelity in fidelities.items() if name in record.models
    ]  # fmt: skip
    return sorted(students, key=lambda student: student[1] != Role.DISTILLED)


def _verdict_text(record: Record) -> str:
    verdict = record.verdict
    if verdict and verdict.text:
        return verdict.text
    models = {name: model.model_dump() for name, model in record.models.items()}
    values = (verdict.gain, verdict.interval, verdict.gap_recovered) if verdict else (None, None, None)
    return format_verdict(models, *values, metric=record.primary_spec)


def _errors_by_class(students: _Students) -> list[tuple[ClassErrors, ClassErrors | None]]:
    """The classes with the most errors of the first student, with the errors of the second student if there is one."""
    by_class = [{row.name: row for row in fidelity.per_class} for *_, fidelity in students]
    second = by_class[1] if len(by_class) > 1 else {}

    def num_errors(row: ClassErrors) -> int:
        return row.same_error + row.different_error + row.student_only_wrong + row.teacher_only_wrong

    rows = sorted(filter(num_errors, by_class[0].values() if by_class else ()), key=num_errors, reverse=True)
    return [(row, second.get(row.name)) for row in rows[:_MAX_ERROR_CLASSES]]


def _draw_plots(record: Record, run_dir: Path, students: _Students) -> dict[str, Any]:
    curves = load_curves(run_dir / "metrics.csv")
    curve = curves.get(next(name for name, model in record.models.items() if model is record.distilled))
    temperatures = load_temperatures(run_dir / "temperatures.csv", curve)
    reliability_plots, embedding_maps = [], []
    for index, (name, model) in enumerate(record.ordered_models()):
        label, metrics = record.display_name(name), record.get_metrics(model)
        plot = plot_reliability(metrics, role=model.role, title=label, name=f"reliability{index}")
        reliability_plots += [(label, model.role, metrics, plot)] if plot else []
        embedding = plot_embedding_map(metrics, title=label, name=f"embedding{index}")
        embedding_maps += [(label, model.role, embedding)] if embedding else []
    validation_plot, loss_plot = plot_validation_curves(record, curves), plot_loss_components(curve)
    constants = describe_constants(curve, temperatures)
    training_plots = {
        f"Validation {record.monitored_spec.text}": validation_plot,
        "Training loss of the distilled student": loss_plot,
        "Learning rate of the distilled student": plot_learning_rate(curve),
        "Share of each loss": plot_loss_shares(curve),
        "Gradient norm relative to the supervised loss": plot_gradient_ratios(curve),
        "Temperature": plot_temperatures(curve, temperatures),
    }
    return {
        "training_plots": training_plots, "constants": constants,
        "validation_plot": validation_plot, "loss_plot": loss_plot,
        "reliability_plots": reliability_plots,
        "latency_plot": plot_metric_vs_latency(record),
        "precision_recall_plot": plot_precision_recall(record),
        "embedding_maps": embedding_maps,
        "cka_plots": [
            (label, role, plot_cka(fidelity.cka, title=label, name=f"cka{index}"))
            for index, (label, role, fidelity) in enumerate(students) if fidelity.cka and fidelity.cka.matrix
        ],
    }  # fmt: skip


def _dump_yaml(value: Any) -> str:
    import yaml

    return str(yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100))
