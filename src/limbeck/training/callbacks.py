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

__all__ = ["Bar", "Metrics", "Watcher", "logger", "read_metrics"]

Row = dict[str, Any]
_FIRST = (
    "phase", "stage", "epoch", "step", "seconds", "images_per_second", "lr", "loss", "train_accuracy",
    "validation_top1", "validation_nll",
)  # fmt: skip


class Watcher(Protocol):
    """Somebody who is told how training goes and cannot change it."""

    def begin(self, *, title: str, step: int, steps: int) -> None:
        """A training begins (or goes on) at ``step`` of ``steps``."""
        ...

    def step(self, step: int, figures: Mapping[str, float]) -> None:
        """Now and then: what the newest figures are."""
        ...

    def epoch(self, rows: Sequence[Row]) -> None:
        """An epoch ended; all rows so far, the newest last."""
        ...

    def end(self) -> None:
        """The training ended, well or not."""
        ...


@final
class Metrics:
    """Keeps ``metrics.csv``: a row for each epoch of each phase. Rows of other phases stay; the file appears whole."""

    def __init__(self, path: Path, *, phase: str, stage: str) -> None:
        self._path, self._mine = path, (phase, stage)
        self._others = [row for row in read_metrics(path) if (row["phase"], row["stage"]) != self._mine]
        self._written = 0.0

    def begin(self, *, title: str, step: int, steps: int) -> None: ...

    def step(self, step: int, figures: Mapping[str, float]) -> None: ...

    def epoch(self, rows: Sequence[Row]) -> None:
        self._rows = rows
        # A small network has hundreds of epochs a minute; nobody reads the file that often.
        if time.monotonic() - self._written > 1.0:
            self._write(rows)

    def end(self) -> None:
        if hasattr(self, "_rows"):
            self._write(self._rows)

    def _write(self, rows: Sequence[Row]) -> None:
        everything = [*self._others, *rows]
        columns = list(_FIRST) + sorted({name for row in everything for name in row} - set(_FIRST))

        def fill(path: Path) -> None:
            with path.open("w", newline="") as file:
                table = csv.DictWriter(file, columns)
                table.writeheader()
                table.writerows({name: _short(value) for name, value in row.items()} for row in everything)

        write_atomically(self._path, fill)
        self._written = time.monotonic()


def read_metrics(path: Path) -> list[dict[str, str]]:
    """The rows of a ``metrics.csv``; none where there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@final
class Bar:
    """A progress bar with the parts of the loss, accuracy, images a second and the time left."""

    def __init__(self) -> None:
        self._progress: Any = None

    def begin(self, *, title: str, step: int, steps: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn("{task.description:<11}"), BarColumn(bar_width=24), TextColumn("{task.completed}/{task.total}"),
            TimeRemainingColumn(compact=True), TextColumn("{task.fields[figures]}"),
            console=Console(file=sys.stderr, width=None if sys.stderr.isatty() else 140), refresh_per_second=5,
        )  # fmt: skip
        self._progress.start()
        self._task = self._progress.add_task(title, total=steps, completed=step, figures="")

    def step(self, step: int, figures: Mapping[str, float]) -> None:
        words = [f"loss {figures['loss']:.3f}"]
        parts = {name.removeprefix("loss/"): v for name, v in figures.items() if name.startswith("loss/")}
        if len(parts) > 1:
            words[0] += " (" + ", ".join(f"{name} {value:.3f}" for name, value in parts.items()) + ")"
        for name, form in (("train_accuracy", "train {:.1%}"), ("validation_top1", "val {:.1%}")):
            if name in figures:
                words.append(form.format(figures[name]))
        words.append(f"{figures['images_per_second']:,.0f} img/s")
        self._progress.update(self._task, completed=step, figures=" · ".join(words))

    def epoch(self, rows: Sequence[Row]) -> None: ...

    def end(self) -> None:
        if self._progress is not None:
            self._progress.stop()


def logger(name: str, folder: Path, *, run: str) -> Any:
    """A Fabric logger by name: ``tensorboard`` or ``mlflow``, writing below ``folder``."""
    if name == "tensorboard":
        from lightning_fabric.loggers.tensorboard import TensorBoardLogger

        return _built(name, lambda: TensorBoardLogger(root_dir=folder, name="tensorboard", version=""))
    if name == "mlflow":
        return _built(name, lambda: _MLflow(folder / "mlflow.db", run))
    raise LimbeckError(f"figures can be sent to tensorboard or mlflow, not {name!r}")


def _built(name: str, make: Any) -> Any:
    try:
        return make()
    except ImportError as error:
        raise LimbeckError(f"{name} is not installed: pip install 'limbeck[{name}]'") from error


class _MLflow:
    """The part of Fabric's logger interface that limbeck uses, over MLflow's client."""

    def __init__(self, database: Path, run: str) -> None:
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient(tracking_uri=f"sqlite:///{database}")
        found = self._client.get_experiment_by_name("limbeck")
        experiment = found.experiment_id if found else self._client.create_experiment("limbeck")
        self._run = self._client.create_run(experiment, run_name=run).info.run_id

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Send the newest figures."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(self._run, [Metric(name, float(v), now, step or 0) for name, v in metrics.items()])

    def finalize(self, status: str) -> None:
        """Say how the run ended."""
        self._client.set_terminated(self._run, "FINISHED" if status == "success" else "FAILED")


def _short(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value
