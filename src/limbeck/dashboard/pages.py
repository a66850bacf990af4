"""The pages of the dashboard: the index, a run in training, and the reports of finished runs and studies."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from limbeck.core.errors import LimbeckError
from limbeck.core.roles import Role
from limbeck.dashboard.run_index import PhaseProgress, RunEntry, read_phases
from limbeck.report import read_record, render_report
from limbeck.report.compare.compare_page import render_compare_page
from limbeck.report.compare.comparison import VariantResult
from limbeck.report.formatting import format_duration
from limbeck.report.html.templates import load_template
from limbeck.report.metrics_csv import load_curves
from limbeck.report.plots.curves import plot_learning_curves
from limbeck.report.plots.style import assign_styles
from limbeck.workflows.compare.run import build_comparison

_PHASE_ROLES = {
    "student_only": Role.BASELINE, "equal_time": Role.BASELINE_EQUAL_TIME,
    "label_smoothing": Role.BASELINE_LABEL_SMOOTHING, **{role.value: role for role in Role},
}  # fmt: skip
"""The models of runs and the built-in variants of studies, by the names of their phases."""


def render_index(entries: Iterable[RunEntry], root: Path) -> str:
    """The index of all runs and studies; of ``root`` it shows only the name."""
    rows = [(entry, _read_last_phase(entry)) for entry in entries]
    return _render("index.html.j2", rows=rows, name=root.name or "runs")


def render_page(entry: RunEntry) -> str:
    """The page of one run or study; where its files cannot be read, a page with the reason."""
    try:
        if entry.kind == "study":
            return render_compare_page(build_comparison([entry.folder]), home_url="/")
        return _render_report(entry.folder) if entry.state == "finished" else _render_training(entry)
    except LimbeckError as error:
        text = str(error)
    except Exception as error:  # an edited record must not stop the dashboard
        text = f"The files of this {entry.kind} cannot be read at present ({type(error).__name__})."
    return _render("message.html.j2", title=entry.relative_path, text=text)


def render_not_found() -> str:
    """The page of an unknown address."""
    text = "There is no run or study of this name on the dashboard: it may have been moved or removed."
    return _render("message.html.j2", title="Not found", text=text)


def _render(template: str, **context: Any) -> str:
    page = load_template(template, folder=Path(__file__).parent)
    return page.render(age=_format_age, local_time=_format_time, **context)


def _render_report(folder: Path) -> str:
    report_path = folder / "report.html"
    if report_path.exists():
        return report_path.read_text(encoding="utf-8")
    # A trial of a study holds one variant, which only a comparison shows.
    is_run = read_record(folder / "record.json").kind == "run"
    return render_report(folder) if is_run else render_compare_page(build_comparison([folder]), home_url="/")


def _render_training(entry: RunEntry) -> str:
    # A phase of any other name trains a teacher or an assistant.
    variants = [
        VariantResult(name=name, role=_PHASE_ROLES.get(name, Role.TEACHER), curves=(curve,))
        for name, curve in load_curves(entry.folder / "metrics.csv").items()
    ]
    styles = assign_styles(variants)
    return _render(
        "training.html.j2", entry=entry, phases=read_phases(entry.folder), styles=styles,
        curve_plot=plot_learning_curves(variants, styles),
    )  # fmt: skip


def _read_last_phase(entry: RunEntry) -> PhaseProgress | None:
    """The last phase of a run that is not finished."""
    if entry.kind == "run" and entry.state != "finished":
        with suppress(LimbeckError, IndexError):
            return read_phases(entry.folder)[-1]
    return None


def _format_age(modified: float) -> str:
    return f"{format_duration(max(0.0, time.time() - modified))} ago"


def _format_time(modified: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(modified))
