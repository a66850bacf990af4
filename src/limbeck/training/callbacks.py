"""Who watches a training: the progress bar, the file of figures, and TensorBoard or MLflow where asked for."""

from __future__ import annotations

import csv
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, final

from limbeck.core.errors import LimbeckError
from limbeck.utils.io import write_atomically

__all__ = ["Callback", "MetricsCSV", "ProgressBar", "make_logger", "read_metrics"]

MetricsRow = dict[str, Any]
_LEADING_COLUMNS = (
    "phase", "stage", "epoch", "step", "seconds", "samples_per_second", "lr", "loss", "train/accuracy",
    "val/accuracy", "val/nll",
)  # fmt: skip


class Callback(Protocol):
    """Somebody who is told how training goes and cannot change it."""

    def on_train_start(self, *, title: str, step: int, steps: int) -> None:
        """A training begins (or goes on) at ``step`` of ``steps``."""
        ...

    def on_step_end(self, step: int, metrics: Mapping[str, float]) -> None:
        """Now and then: what the newest figures are."""
        ...

    def on_epoch_end(self, rows: Sequence[MetricsRow]) -> None:
        """An epoch ended; all rows so far, the newest last."""
        ...

    def on_train_end(self) -> None:
        """The training ended, well or not."""
        ...


@final
class MetricsCSV:
    """Keeps ``metrics.csv``: a row for each epoch of each phase. Rows of other phases stay; the file appears whole."""

    def __init__(self, path: Path, *, phase: str, stage: str) -> None:
        self._path, self._key = path, (phase, stage)
        self._other_rows = [row for row in read_metrics(path) if (row["phase"], row["stage"]) != self._key]
        self._last_write = 0.0

    def on_train_start(self, *, title: str, step: int, steps: int) -> None: ...

    def on_step_end(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def on_epoch_end(self, rows: Sequence[MetricsRow]) -> None:
        self._rows = rows
        # A small network has hundreds of epochs a minute; nobody reads the file that often.
        if time.monotonic() - self._last_write > 1.0:
            self._write(rows)

    def on_train_end(self) -> None:
        if hasattr(self, "_rows"):
            self._write(self._rows)

    def _write(self, rows: Sequence[MetricsRow]) -> None:
        all_rows = [*self._other_rows, *rows]
        columns = list(_LEADING_COLUMNS) + sorted({name for row in all_rows for name in row} - set(_LEADING_COLUMNS))

        def write_table(path: Path) -> None:
            with path.open("w", newline="") as file:
                table = csv.DictWriter(file, columns)
                table.writeheader()
                table.writerows({name: _format_value(value) for name, value in row.items()} for row in all_rows)

        write_atomically(self._path, write_table)
        self._last_write = time.monotonic()


def read_metrics(path: Path) -> list[dict[str, str]]:
    """The rows of a ``metrics.csv``; none where there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@final
class ProgressBar:
    """A progress bar with the losses, accuracy, samples per second and the time left."""

    def __init__(self) -> None:
        self._progress: Any = None

    def on_train_start(self, *, title: str, step: int, steps: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn("{task.description:<11}"), BarColumn(bar_width=24), TextColumn("{task.completed}/{task.total}"),
            TimeRemainingColumn(compact=True), TextColumn("{task.fields[metrics]}"),
            console=Console(file=sys.stderr, width=None if sys.stderr.isatty() else 160), refresh_per_second=5,
        )  # fmt: skip
        self._progress.start()
        self._task = self._progress.add_task(title, total=steps, completed=step, metrics="")

    def on_step_end(self, step: int, metrics: Mapping[str, float]) -> None:
        labels = [f"loss {metrics['loss']:.3f}"]
        losses = {name.removeprefix("loss/"): v for name, v in metrics.items() if name.startswith("loss/")}
        if len(losses) > 1:
            labels[0] += " (" + ", ".join(f"{name} {value:.3f}" for name, value in losses.items()) + ")"
        for name, template in (("train/accuracy", "train accuracy {:.1%}"), ("val/accuracy", "val accuracy {:.1%}")):
            if name in metrics:
                labels.append(template.format(metrics[name]))
        labels.append(f"{metrics['samples_per_second']:,.0f} samples/s")
        self._progress.update(self._task, completed=step, metrics=" · ".join(labels))

    def on_epoch_end(self, rows: Sequence[MetricsRow]) -> None: ...

    def on_train_end(self) -> None:
        if self._progress is not None:
            self._progress.stop()


def make_logger(name: str, folder: Path, *, run: str) -> Any:
    """A Fabric logger by name: ``tensorboard`` or ``mlflow``, writing below ``folder``."""
    if name == "tensorboard":
        from lightning_fabric.loggers.tensorboard import TensorBoardLogger

        return _build_logger(name, lambda: TensorBoardLogger(root_dir=folder, name="tensorboard", version=""))
    if name == "mlflow":
        return _build_logger(name, lambda: _MLflowLogger(folder / "mlflow.db", run))
    raise LimbeckError(f"metrics can be sent to tensorboard or mlflow, not {name!r}")


def _build_logger(name: str, build: Any) -> Any:
    try:
        return build()
    except ImportError as error:
        raise LimbeckError(f"{name} is not installed: pip install 'limbeck[{name}]'") from error


class _MLflowLogger:
    """The part of Fabric's logger interface that limbeck uses, over MLflow's client."""

    def __init__(self, database: Path, run: str) -> None:
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient(tracking_uri=f"sqlite:///{database}")
        existing = self._client.get_experiment_by_name("limbeck")
        experiment = existing.experiment_id if existing else self._client.create_experiment("limbeck")
        self._run = self._client.create_run(experiment, run_name=run).info.run_id

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Send the newest figures."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(self._run, [Metric(name, float(v), now, step or 0) for name, v in metrics.items()])

    def finalize(self, status: str) -> None:
        """Say how the run ended."""
        self._client.set_terminated(self._run, "FINISHED" if status == "success" else "FAILED")


def _format_value(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value
