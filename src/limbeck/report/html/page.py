"""The report of a run as one page that opens from disk, makes no network request and needs no script."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck.core.errors import LimbeckError
from limbeck.core.roles import Role
from limbeck.report.formatting import format_date
from limbeck.report.html import fidelity_rows, metric_rows
from limbeck.report.html.templates import load_template, read_asset
from limbeck.report.metrics_csv import load_curves, load_temperatures
from limbeck.report.plots.accuracy_curves import plot_accuracy
from limbeck.report.plots.heatmap import plot_cka
from limbeck.report.plots.latency_scatter import plot_accuracy_vs_latency
from limbeck.report.plots.loss_curves import (
    plot_gradient_ratios,
    plot_loss_components,
    plot_loss_shares,
    plot_temperatures,
)
from limbeck.report.plots.reliability import plot_reliability
from limbeck.report.record_io import integrity_warning, read_record
from limbeck.report.verdict import RULE, classify_interval, format_verdict
from limbeck.utils.io import write_atomically

if TYPE_CHECKING:
    from limbeck.report.record import Record

__all__ = ["render_report", "write_report"]

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def write_report(run_dir: Path) -> Path:
    """Write ``run_dir/report.html`` from ``record.json``, ``metrics.csv`` and ``temperatures.csv``; returns its path.

    The same record gives the same bytes. Without ``metrics.csv`` the page has no curves.

    Raises:
        LimbeckError: there is no record, or it is not the record of a finished run.
    """
    page = render_report(run_dir)
    return write_atomically(Path(run_dir) / "report.html", lambda path: path.write_text(page, encoding="utf-8"))


def render_report(run_dir: Path) -> str:
    """The page of :func:`write_report` as text; raises the same errors."""
    run_dir = Path(run_dir)
    record = read_record(run_dir / "record.json")
    if record.kind == "trial":
        study = record.variant.study if record.variant else ""
        raise LimbeckError(
            f"{run_dir} holds one trial of the study {study}, and a report describes a whole run: "
            "give the folder of the study to `limbeck compare`"
        )
    warning = integrity_warning(run_dir)
    return load_template("report.html.j2").render(
        record=record, policy=_POLICY, style=read_asset("report.css"),
        warnings=[*([warning] if warning else []), *record.warnings],
        **_header_context(record), **_section_context(record), **_draw_plots(record, run_dir),
    )  # fmt: skip


def _header_context(record: Record) -> dict[str, Any]:
    verdict = record.verdict
    gain, interval, gap = (
        (verdict.gain_points, verdict.interval_points, verdict.gap_recovered) if verdict else (None, None, None)
    )
    text = verdict.text if verdict else ""
    if not text:
        models = {name: model.model_dump() for name, model in record.models.items()}
        text = format_verdict(models, gain, interval, gap)
    return {
        "outcome": classify_interval(interval), "verdict": text.partition(":"), "rule": RULE,
        "created": format_date(record.created), "baseline_note": _baseline_note(record),
        "key_metrics": metric_rows.key_metrics(record), "interval": metric_rows.interval_positions(record),
    }  # fmt: skip


def _section_context(record: Record) -> dict[str, Any]:
    models = [(name, record.display_name(name), model) for name, model in record.ordered_models()]
    metrics, all_metrics = record.get_metrics(record.distilled), [record.get_metrics(model) for *_, model in models]
    students = fidelity_rows.list_students(record)
    fidelities = [fidelity for *_, fidelity in students]
    rows, cost_rows = metric_rows.comparison_rows(record)
    extra_models = [(f"peer {name}", model) for name, model in record.peers.items()]
    extra_models += [(f"early exit {name}", model) for name, model in record.early_exits.items()]
    extra_models += [("ensemble of all generations", record.ensemble)] if record.ensemble else []
    return {
        "models": models, "metric_rows": rows, "cost_rows": cost_rows, "extra_models": extra_models,
        "num_samples": metrics.num_samples if metrics else None,
        "num_teachers": sum(model.role == Role.TEACHER for *_, model in models),
        "teacher_name": next((label for _, label, model in models if model is record.teacher), "Teacher"),
        "classes": metric_rows.worst_classes(record), "samples": metric_rows.disagreement_samples(record),
        "latency": next((model.latency_ms for *_, model in models if model.latency_ms), None),
        "num_bins": next((len(item.reliability) for item in all_metrics if item and item.reliability), 15),
        "students": students, "fidelity_rows": fidelity_rows.fidelity_rows(fidelities),
        "class_errors": fidelity_rows.classes_by_errors(fidelities), "recipe": _dump_recipe(record.recipe),
    }  # fmt: skip


def _draw_plots(record: Record, run_dir: Path) -> dict[str, Any]:
    curves = load_curves(run_dir / "metrics.csv")
    curve = curves.get(next(name for name, model in record.models.items() if model is record.distilled))
    temperatures = load_temperatures(run_dir / "temperatures.csv", curve)
    reliability_plots = []
    for index, (name, model) in enumerate(record.ordered_models()):
        label, metrics = record.display_name(name), record.get_metrics(model)
        plot = plot_reliability(metrics, role=model.role, title=label, name=f"reliability{index}")
        reliability_plots += [(label, model.role, metrics, plot)] if plot else []
    return {
        "accuracy_plot": plot_accuracy(record, curves), "loss_plot": plot_loss_components(curve),
        "temperature_plot": plot_temperatures(curve, temperatures), "gradient_plot": plot_gradient_ratios(curve),
        "loss_share_plot": plot_loss_shares(curve), "reliability_plots": reliability_plots,
        "latency_plot": plot_accuracy_vs_latency(record),
        "cka": [
            (label, role, plot_cka(fidelity.cka, title=label, name=f"cka{index}"))
            for index, (label, role, fidelity) in enumerate(fidelity_rows.list_students(record))
            if fidelity.cka is not None and fidelity.cka.matrix
        ],
    }  # fmt: skip


def _baseline_note(record: Record) -> str:
    """How the baseline was trained, in a sentence."""
    baseline, distilled = record.baseline, record.distilled
    if baseline is None:
        return "No baseline: the student was not trained without a teacher in this run."
    num_labeled, num_train = record.data.num_labeled, record.data.num_train
    num_unlabeled = num_train - num_labeled if num_train is not None and num_labeled is not None else 0
    training_data = f"the {num_labeled:,} labeled samples" if num_unlabeled else "the same data"
    text = f"Baseline: the same student, trained without a teacher on {training_data}"
    if baseline.steps is None or distilled.steps is None:
        return f"{text}; its steps were not recorded."
    if baseline.steps == distilled.steps:
        unlabeled_note = f" (distilled also used {num_unlabeled:,} without a label)" if num_unlabeled else ""
        return f"{text} for the same number of steps ({distilled.steps:,}){unlabeled_note}."
    return f"{text}, but for {baseline.steps:,} steps against {distilled.steps:,}: the budgets were not equal."


def _dump_recipe(recipe: dict[str, Any]) -> str:
    import yaml

    return str(yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True, width=100)) if recipe else ""
