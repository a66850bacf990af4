"""Callbacks of a training (``metrics.csv``, ``temperatures.csv``) and loggers (TensorBoard, MLflow)."""

from __future__ import annotations

import csv
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, final

from torch import Tensor

from limbeck.core.errors import LimbeckError, format_root_cause
from limbeck.core.metric_spec import MetricSpec
from limbeck.distiller.objective import LossOutput
from limbeck.training.metric_accumulator import update_stats
from limbeck.utils.io import open_no_link, require_regular_file, write_atomically

__all__ = [
    "Callback", "MetricsCSV", "MetricsLogger", "MetricsRow", "TemperatureCSV", "make_logger", "read_metrics",
    "require_callbacks",
]  # fmt: skip

MetricsRow = dict[str, Any]
_LEADING_COLUMNS = (
    "phase", "stage", "epoch", "step", "seconds", "samples_per_second", "lr", "loss", "train/accuracy",
)  # fmt: skip
_TEMPERATURE_COLUMNS = ("phase", "stage", "step", "loss", "mean", "min", "max")
_MAX_BUFFERED_STEPS = 4096
_MAX_LINE_LENGTH = 4096  # characters; a longer line is damaged


class Callback:
    """Hooks of a training. Subclass it and override some; the others do nothing.

    Attributes:
        monitored_metrics: those of the task, whose values are ``val/NAME``; :func:`limbeck.fit` sets them.
    """

    monitored_metrics: Sequence[MetricSpec] = ()

    def on_train_start(self, *, title: str, step: int, steps: int) -> None:
        """Called before the first step; ``step`` of ``steps`` are done already."""

    def on_step_start(self, step: int) -> None:
        """Called before the forward pass of ``step``, counted from 1."""

    def on_loss(self, step: int, loss: LossOutput) -> None:
        """Called for each micro-batch of ``step``, before its backward pass."""

    def on_step_end(self, step: int, metrics: Mapping[str, float]) -> None:
        """Called several times a second, not after every step, with the means of the epoch so far."""

    def on_epoch_end(self, rows: Sequence[MetricsRow]) -> None:
        """Called after validation with all rows so far, the newest last; may add metrics to the newest."""

    def on_save_checkpoint(self) -> None:
        """Called before a checkpoint is written."""

    def on_train_end(self) -> None:
        """Called after the last step, or after an error."""


def require_callbacks(callbacks: Any) -> list[Callback]:
    """``callbacks`` as a list.

    Raises:
        LimbeckError: it is no list of objects with the methods of :class:`Callback`.
    """
    items = list(callbacks) if isinstance(callbacks, list | tuple) else [callbacks]
    names = [name for name in vars(Callback) if name.startswith("on_")]
    wrong = (item for item in items if isinstance(item, type) or not all(hasattr(item, name) for name in names))
    item = next(wrong, callbacks if not isinstance(callbacks, list | tuple) else None)
    if item is not None:
        raise LimbeckError(f"callbacks must be a list of limbeck.training.callbacks.Callback objects, got {item!r}")
    return items


class MetricsLogger(Protocol):
    """What a logger must have; those of Lightning Fabric have it."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log the value of each metric at ``step``."""


@final
class MetricsCSV(Callback):
    """Writes ``metrics.csv``: a row per epoch, phase and stage. Rows of other phases stay; writes are atomic."""

    def __init__(self, path: Path, *, phase: str, stage: str) -> None:
        self._path, self._key = path, (phase, stage)
        self._other_rows = [row for row in read_metrics(path) if (row["phase"], row["stage"]) != self._key]
        self._rows: Sequence[MetricsRow] = ()
        self._last_write = 0.0

    def on_epoch_end(self, rows: Sequence[MetricsRow]) -> None:
        self._rows = rows
        # A small network has hundreds of epochs a minute.
        if time.monotonic() - self._last_write > 1.0:
            self._write()

    def on_train_end(self) -> None:
        if self._rows:
            self._write()

    def _write(self) -> None:
        all_rows = [*self._other_rows, *self._rows]
        names = dict.fromkeys(name for row in all_rows for name in row)
        leading = [*_LEADING_COLUMNS, *(name for name in names if name.startswith("val/"))]
        columns = leading + sorted(names.keys() - set(leading))

        def write_table(path: Path) -> None:
            with path.open("w", newline="") as file:
                table = csv.DictWriter(file, columns)
                table.writeheader()
                for row in all_rows:
                    table.writerow({n: f"{v:.6g}" if isinstance(v, float) else v for n, v in row.items()})

        write_atomically(self._path, write_table)
        self._last_write = time.monotonic()


def read_metrics(path: Path) -> list[dict[str, str]]:
    """Read the rows of a ``metrics.csv``; returns an empty list if there is no file.

    Raises:
        LimbeckError: the file cannot be read, or is damaged.
    """
    if not path.exists():
        return []
    try:
        with require_regular_file(path).open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        if rows and not {"phase", "stage"} <= rows[0].keys():
            raise ValueError("it has no columns phase and stage")
    except (OSError, ValueError, csv.Error) as error:
        raise LimbeckError(f"{path} could not be read ({error}): put a copy back, or remove it") from error
    return rows


@final
class TemperatureCSV(Callback):
    """Writes ``temperatures.csv``: mean, minimum and maximum temperature of each loss in each step.

    Rows are buffered, so that no step waits for the device. Rows of other phases stay; a resumed training first removes
    its rows after the checkpoint, and damaged lines.

    Args:
        path: path of the file, which is created with the first row.
        phase: phase of this training.
        stage: stage of this training.
        step: number of steps done already.
    """

    def __init__(self, path: Path, *, phase: str, stage: str, step: int) -> None:
        self._path, self._key = path, (phase, stage)
        self._buffer: list[tuple[int, Mapping[str, Sequence[float | Tensor]]]] = []
        if path.exists():
            write_atomically(path, lambda partial: self._rewrite(partial, step))

    def on_loss(self, step: int, loss: LossOutput) -> None:
        if loss.temperatures:
            self.add(step, loss.temperatures)

    def on_epoch_end(self, rows: Sequence[MetricsRow]) -> None:
        self.write()

    def on_save_checkpoint(self) -> None:
        self.write()

    def add(self, step: int, temperatures: Mapping[str, Sequence[float | Tensor]]) -> None:
        """Buffer the temperatures of one batch of ``step``, counted from 1."""
        self._buffer.append((step, temperatures))
        if len(self._buffer) >= _MAX_BUFFERED_STEPS:
            self.write()

    def write(self) -> None:
        """Append the buffered rows to the file."""
        if not self._buffer:
            return
        batches: dict[int, list[Mapping[str, Sequence[float | Tensor]]]] = {}
        for step, temperatures in self._buffer:
            batches.setdefault(step, []).append(temperatures)
        rows = [
            (*self._key, step, loss, *(f"{value:.6g}" for value in (stats.mean, stats.minimum, stats.maximum)))
            for step, step_batches in batches.items()
            for loss, stats in update_stats({}, step_batches).items()
        ]
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with open(self._path, "a", newline="", encoding="utf-8", opener=open_no_link) as file:
                table = csv.writer(file)
                if not file.tell():
                    table.writerow(_TEMPERATURE_COLUMNS)
                table.writerows(rows)
        except OSError as error:
            raise LimbeckError(
                f"{self._path} could not be written ({format_root_cause(error)}): free some space, and go on with "
                "--resume"
            ) from error
        self._buffer = []

    def _rewrite(self, partial: Path, last_step: int) -> None:
        with (
            require_regular_file(self._path).open(newline="", encoding="utf-8", errors="replace") as source,
            partial.open("w", newline="", encoding="utf-8") as file,
        ):
            table = csv.writer(file)
            table.writerow(_TEMPERATURE_COLUMNS)
            for line in (text for text in source if text.endswith("\n") and len(text) < _MAX_LINE_LENGTH):
                try:
                    row = next(csv.reader([line]), [])
                except csv.Error:
                    continue
                is_valid = len(row) == len(_TEMPERATURE_COLUMNS) and row[2].isdecimal()
                if is_valid and ((row[0], row[1]) != self._key or int(row[2]) <= last_step):
                    table.writerow(row)


def make_logger(name: str, folder: Path, *, run: str) -> Any:
    """Build a Fabric logger, ``tensorboard`` or ``mlflow``, that writes below ``folder``."""
    try:
        if name == "tensorboard":
            from lightning_fabric.loggers.tensorboard import TensorBoardLogger

            return TensorBoardLogger(root_dir=folder, name="tensorboard", version="")
        if name == "mlflow":
            return _MLflowLogger(folder / "mlflow.db", run)
        raise LimbeckError(f"metrics can be sent to tensorboard or mlflow, not {name!r}")
    except ImportError as error:
        raise LimbeckError(f"{name} is not installed: pip install 'limbeck[{name}]'") from error


class _MLflowLogger:
    """The methods of Fabric's logger that limbeck calls, on MLflow's client."""

    def __init__(self, database: Path, run: str) -> None:
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient(tracking_uri=f"sqlite:///{database}")
        existing = self._client.get_experiment_by_name("limbeck")
        experiment = existing.experiment_id if existing else self._client.create_experiment("limbeck")
        self._run = self._client.create_run(experiment, run_name=run).info.run_id

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log one value of each metric."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(self._run, [Metric(name, float(v), now, step or 0) for name, v in metrics.items()])

    def finalize(self, status: str) -> None:
        """End the run."""
        self._client.set_terminated(self._run, "FINISHED" if status == "success" else "FAILED")
