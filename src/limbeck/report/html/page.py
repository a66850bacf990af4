"""One page with all results of a run, which opens from disk, makes no network request and needs no script.

The page forbids itself every connection by a Content-Security-Policy, and Jinja escapes all text of the record.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck.core.errors import LimbeckError
from limbeck.core.roles import Role
from limbeck.report import examples, fidelity_view, formatting, results_view
from limbeck.report.verdict import RULE, classify_interval, format_verdict
from limbeck.report.verify import integrity_warning
from limbeck.utils.io import write_atomically

if TYPE_CHECKING:
    from limbeck.report.metrics_csv import TrainingCurve
    from limbeck.report.record import ExtraModel, Record

__all__ = ["format_date", "render_report", "write_report"]

_TEMPLATE_DIR = Path(__file__).parent


def write_report(run_dir: Path) -> Path:
    """Write ``run_dir/report.html`` from its ``record.json``, ``metrics.csv`` and ``temperatures.csv``; gives its path.

    The same record gives the same bytes. Without ``metrics.csv`` the page says that there are no curves.

    Raises:
        LimbeckError: there is no record, or it is not one of a finished run.
    """
    page = render_report(run_dir)
    return write_atomically(Path(run_dir) / "report.html", lambda path: path.write_text(page, encoding="utf-8"))


def render_report(run_dir: Path) -> str:
    """The page of :func:`write_report` as text, with nothing written; raises what it raises."""
    from limbeck.report.metrics_csv import load_curves
    from limbeck.report.read import read_record

    record = read_record(Path(run_dir) / "record.json")
    if record.kind == "trial":
        study = record.variant.study if record.variant else ""
        raise LimbeckError(
            f"{run_dir} holds one trial of the study {study}, and a report is of a whole run: "
            "give the folder of the study to `limbeck compare`"
        )
    return _render_page(
        record,
        load_curves(Path(run_dir) / "metrics.csv"),
        Path(run_dir) / "temperatures.csv",
        integrity_warning(run_dir),
    )


def format_date(iso: str) -> str:
    """A time as people write it; what is no time stays as it is."""
    try:
        time = datetime.fromisoformat(iso)
    except ValueError:
        return iso
    return f"{time.day} {time:%B %Y, %H:%M} {time.tzname() or ''}".rstrip()


def _render_page(record: Record, curves: dict[str, TrainingCurve], temperatures_path: Path, warning: str | None) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATE_DIR),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        name: getattr(formatting, name)
        for name in (
            "format_bytes", "format_count", "format_duration", "format_fixed", "format_percent", "format_scientific",
            "join_number_and_unit",
        )
    }  # fmt: skip
    style = (_TEMPLATE_DIR / "report.css").read_text(encoding="utf-8")
    return environment.get_template("report.html.j2").render(
        record=record, style=style, warnings=[*([warning] if warning else []), *record.warnings],
        **_template_context(record, curves, temperatures_path),
    )  # fmt: skip


def _template_context(record: Record, curves: dict[str, TrainingCurve], temperatures_path: Path) -> dict[str, Any]:
    """Everything the template shows in addition to the record itself."""
    metric_rows, cost_rows = results_view.comparison_rows(record)
    all_metrics = [metrics for _, model in record.ordered_models() if (metrics := record.get_metrics(model))]
    verdict_record = record.verdict
    interval, gain = (verdict_record.interval_points, verdict_record.gain_points) if verdict_record else (None, None)
    students = fidelity_view.list_students(record)
    teacher_names = (record.display_name(name) for name, model in record.ordered_models() if model is record.teacher)
    models = {name: model.model_dump() for name, model in record.models.items()}
    verdict_text = (verdict_record.text if verdict_record else "") or format_verdict(
        models, gain, interval, verdict_record.gap_recovered if verdict_record else None
    )
    return {
        "outcome": classify_interval(interval), "verdict": verdict_text.partition(":"), "rule": RULE,
        "created": format_date(record.created), "key_metrics": results_view.key_metrics(record),
        "interval": results_view.interval_positions(record), "extra_models": _extra_models(record),
        "models": [(name, record.display_name(name), model) for name, model in record.ordered_models()],
        "baseline_note": _baseline_note(record), "metric_rows": metric_rows, "cost_rows": cost_rows,
        "num_samples": _num_samples(record),
        "num_teachers": sum(model.role == Role.TEACHER for model in record.models.values()),
        "classes": examples.worst_classes(record), "samples": examples.disagreement_samples(record),
        "latency": next((model.latency_ms for _, model in record.ordered_models() if model.latency_ms), None),
        "num_bins": next((len(metrics.reliability) for metrics in all_metrics if metrics.reliability), 15),
        "teacher_name": next(teacher_names, "Teacher"),
        "students": [(record.display_name(name), role, student_fidelity) for name, role, student_fidelity in students],
        "fidelity_rows": fidelity_view.fidelity_rows([student_fidelity for _, _, student_fidelity in students]),
        "class_errors": fidelity_view.classes_by_errors([student_fidelity for _, _, student_fidelity in students]),
        "cka": fidelity_view.plot_cka_matrices(record),
        "recipe": _dump_recipe(record.recipe), **_draw_plots(record, curves, temperatures_path),
    }  # fmt: skip


def _extra_models(record: Record) -> list[tuple[str, ExtraModel]]:
    """Peers, early exits from shallow to deep, and the ensemble, with their labels."""
    extra_models = [(f"peer {name}", model) for name, model in record.peers.items()]
    extra_models += [(f"early exit {name}", model) for name, model in record.early_exits.items()]
    return extra_models + ([("all generations together", record.ensemble)] if record.ensemble else [])


def _draw_plots(record: Record, curves: dict[str, TrainingCurve], temperatures_path: Path) -> dict[str, Any]:
    from limbeck.report.plots.curves import plot_accuracy, plot_loss_components
    from limbeck.report.plots.reliability import plot_accuracy_vs_latency, plot_reliability
    from limbeck.report.plots.schedules_plot import plot_gradient_ratios, plot_loss_shares, plot_temperatures
    from limbeck.report.temperature_csv import load_temperatures

    reliability_plots = [
        (record.display_name(name), model.role, record.get_metrics(model), plot_reliability(
            record.get_metrics(model), role=model.role, title=record.display_name(name), name=f"reliability{index}"
        ))
        for index, (name, model) in enumerate(record.ordered_models())
    ]  # fmt: skip
    distilled = next(name for name, model in record.ordered_models() if model.role == Role.DISTILLED)
    distilled_curve = curves.get(distilled)
    return {
        "accuracy_plot": plot_accuracy(record, curves), "loss_plot": plot_loss_components(distilled_curve),
        "temperature_plot": plot_temperatures(distilled_curve, load_temperatures(temperatures_path, distilled_curve)),
        "gradient_plot": plot_gradient_ratios(distilled_curve), "loss_share_plot": plot_loss_shares(distilled_curve),
        "reliability_plots": [plot for plot in reliability_plots if plot[3]],
        "latency_plot": plot_accuracy_vs_latency(record),
    }  # fmt: skip


def _baseline_note(record: Record) -> str:
    """How fair the comparison is, in a sentence."""
    baseline, distilled = record.baseline, record.distilled
    if baseline is None:
        return "No baseline: the student was not trained without a teacher in this run."
    num_labeled, train = record.data.num_labeled, record.data.num_train
    is_partly_labeled = num_labeled is not None and train is not None and num_labeled < train
    training_data = f"the {num_labeled:,} labeled samples" if is_partly_labeled else "the same data"
    if baseline.steps is None or distilled.steps is None:
        return f"Baseline: the same student, trained without a teacher on {training_data}; its steps were not recorded."
    if baseline.steps == distilled.steps:
        unlabeled_note = (
            f" (distilled also used {train - num_labeled:,} without a label)"
            if is_partly_labeled and train and num_labeled
            else ""
        )
        steps = f"for the same number of steps ({distilled.steps:,}){unlabeled_note}"
        return f"Baseline: the same student, trained without a teacher on {training_data} {steps}."
    return (
        f"Baseline: the same student, trained without a teacher on {training_data}, but for {baseline.steps:,} steps "
        f"against {distilled.steps:,}: the budgets were not equal."
    )


def _num_samples(record: Record) -> int | None:
    metrics = record.get_metrics(record.distilled)
    return metrics.num_samples if metrics else None


def _dump_recipe(recipe: dict[str, Any]) -> str:
    import yaml

    return str(yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True, width=100)) if recipe else ""
