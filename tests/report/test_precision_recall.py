"""Precision against recall: one line for each model with a curve, the mean over the classes with a box."""

from __future__ import annotations

from types import SimpleNamespace

from limbeck.core.roles import Role
from limbeck.report.plots.precision_recall import plot_precision_recall
from limbeck.report.record_sections import ModelRecord, SplitMetrics


def make_record(**details):
    models = {
        name: ModelRecord(role=role, test=SplitMetrics(details=details if role == Role.DISTILLED else {}))
        for name, role in (("baseline", Role.BASELINE), ("distilled", Role.DISTILLED))
    }
    return SimpleNamespace(
        ordered_models=lambda: list(models.items()), get_metrics=lambda model: model.test, display_name=str.title
    )


def test_the_line_is_the_mean_over_the_classes_with_a_box():
    rows = [[1.0] * 51 + [0.0] * 50, None, [0.5] * 101]
    plot = plot_precision_recall(make_record(precision_at_recalls=rows))
    assert [entry.label for entry in plot.legend] == ["Distilled, mean precision 50.2 %"]
    assert "<svg" in plot.svg


def test_without_curves_there_is_no_plot():
    assert plot_precision_recall(make_record()) is None
    assert plot_precision_recall(make_record(precision_at_recalls=[None, None])) is None
    assert plot_precision_recall(make_record(precision_at_recalls=[[1.0, 0.5], [1.0, 0.5, 0.2]])) is None
