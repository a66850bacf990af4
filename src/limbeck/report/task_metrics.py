"""The metrics of a run: of its record or, before it has one, of ``task.json``."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from pydantic import Field, ValidationError

from limbeck.core.metric_spec import MetricSpec
from limbeck.report.metrics_csv import TrainingCurve
from limbeck.report.record_sections import CoercedStr, MetricInfo, RecordSection, TaskInfo
from limbeck.utils.io import require_regular_file

UNKNOWN_METRIC = "metric"


class TaskMetrics(RecordSection):
    """The part of a record that names the task and its metrics; ``task.json`` of a run holds it from the start.

    Attributes:
        task: the task, and the metrics that it validates after each epoch.
        metric_info: every metric by name, in the order of tables.
        primary_metric: the metric of verdicts.
    """

    task: TaskInfo = TaskInfo()
    metric_info: dict[str, MetricInfo] = Field(default_factory=dict)
    primary_metric: CoercedStr

    @property
    def primary_spec(self) -> MetricSpec:
        """The metric of verdicts."""
        return self.metric_spec(self.primary_metric)

    @property
    def monitored_spec(self) -> MetricSpec:
        """The metric of curves: the one that selects the epoch."""
        return self.metric_spec(next(iter(self.task.monitored_metrics), self.primary_metric))

    @property
    def metric_specs(self) -> list[MetricSpec]:
        """Every metric, in the order of tables."""
        return [self.metric_spec(name) for name in self.metric_info]

    def metric_spec(self, name: str) -> MetricSpec:
        """One metric by its name; a metric without an entry is a plain number."""
        info = self.task.monitored_metrics.get(name) or self.metric_info.get(name)
        if info is None:
            return MetricSpec(name=name, label=name, unit="", digits=3)
        return MetricSpec(name=name, **info.model_dump())


def load_task_metrics(run_dir: Path, curves: Mapping[str, TrainingCurve]) -> TaskMetrics:
    """The metrics of a run that has no record yet.

    Without a readable ``task.json`` the metric is the first column ``val/NAME`` of ``curves``, a plain number.
    """
    with suppress(OSError, UnicodeDecodeError, ValidationError):
        return TaskMetrics.model_validate_json(require_regular_file(run_dir / "task.json").read_text(encoding="utf-8"))
    columns = (name.removeprefix("val/") for curve in curves.values() for name in curve.columns if name[:4] == "val/")
    return TaskMetrics(primary_metric=next(filter(str.isidentifier, columns), UNKNOWN_METRIC))
