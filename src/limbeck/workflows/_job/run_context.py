"""What measuring networks needs to know of their run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, final

from limbeck.core.task import EvaluableTask
from limbeck.data import DataModule

__all__ = ["PythonRun", "RunContext"]


class RunContext(Protocol):
    """The data, the task and the folder of a run, which is that of a recipe (``Job``) or in Python."""

    @property
    def data(self) -> DataModule: ...
    @property
    def task(self) -> EvaluableTask: ...
    @property
    def run_dir(self) -> Path: ...
    @property
    def latencies(self) -> dict[str, Any]: ...


@final
@dataclass(frozen=True, slots=True)
class PythonRun:
    """A run of :func:`limbeck.fit` or :func:`limbeck.distill`, without a recipe."""

    data: DataModule
    task: EvaluableTask
    run_dir: Path
    latencies: dict[str, Any] = field(default_factory=dict)
