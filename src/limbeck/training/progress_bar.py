"""Progress of a training on stderr: a bar in a terminal, a live bar in a notebook, lines in a log file or pipe."""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from statistics import fmean
from typing import Any, Final, Literal, Protocol, final

from limbeck.core.metric_spec import MetricSpec
from limbeck.training.callbacks import Callback, MetricsRow
from limbeck.utils.console import print_text
from limbeck.utils.durations import format_duration

__all__ = ["ProgressBar", "training_title"]

_MIN_LINE_SECONDS: Final = 5.0
_MAX_LINE_SECONDS: Final = 30.0


def training_title(phase: str, stage: str, *, has_more_stages: bool) -> str:
    """The name of a training in progress bars.

    >>> training_title("distilled", "warmup", has_more_stages=True)
    'distilled/warmup'
    """
    return f"{phase}/{stage}" if has_more_stages else phase


@final
class ProgressBar(Callback):
    """Shows stage, step, losses, monitored metrics, samples per second and the time left on stderr.

    In a terminal it is a bar. In a Jupyter notebook it is a live bar that needs no ipywidgets and ends as a line of
    text. Elsewhere, as in a log file, it is a line after each epoch (of epochs shorter than 5 seconds, after about 20
    of them in a training) and after 30 seconds without a line.

    Args:
        run_steps: number of steps of each training of the run, by its title and in order; the time left of the run is
            then shown as well.
        prefix: text before each title, such as the number of a trial.
        title: instead of the name of each training.
        display: ``auto`` as above; ``lines`` for several processes that share a terminal: only a line after 30 seconds.
    """

    def __init__(
        self,
        *,
        run_steps: Mapping[str, int] | None = None,
        prefix: str = "",
        title: str | None = None,
        display: Literal["auto", "lines"] = "auto",
    ) -> None:
        self._later_steps, self._prefix, self._display_name = dict(run_steps or {}), prefix, display
        self._title = title
        self._step_seconds: list[float] = []  # of each training so far
        self._display: _Display | None = None

    def on_train_start(self, *, title: str, step: int, steps: int) -> None:
        while title in self._later_steps:  # those before it have ended, or were not needed
            del self._later_steps[next(iter(self._later_steps))]
        self._status = _Status(self._prefix + (self._title or title), step, steps)
        self._start_step, self._start_time = step, time.monotonic()
        self._display = _choose_display() if self._display_name == "auto" else _LogLines(max_epoch_lines=0)
        self._display.update(self._status)

    def on_step_end(self, step: int, metrics: Mapping[str, float]) -> None:
        assert self._display is not None
        status, num_steps = self._status, step - self._start_step
        status.step, status.metrics = step, _describe_metrics(metrics, self.monitored_metrics)
        status.seconds = time.monotonic() - self._start_time
        if num_steps > 0:
            step_seconds = status.seconds / num_steps
            status.seconds_left = step_seconds * (status.steps - step)
            if self._later_steps:
                later_seconds = fmean([*self._step_seconds, step_seconds]) * sum(self._later_steps.values())
                status.run_seconds_left = status.seconds_left + later_seconds
        self._display.update(status)

    def on_epoch_end(self, rows: Sequence[MetricsRow]) -> None:
        assert self._display is not None
        self._display.end_epoch(self._status, len(rows))

    def on_train_end(self) -> None:
        if self._display is not None:
            self._display.close(self._status)
            if (num_steps := self._status.step - self._start_step) > 0:
                self._step_seconds.append(self._status.seconds / num_steps)
        self._display = None


@dataclass(slots=True)
class _Status:
    """State of a training as shown; seconds are those of this process."""

    title: str
    step: int
    steps: int
    metrics: str = ""
    seconds: float = 0.0
    seconds_left: float | None = None
    run_seconds_left: float | None = None

    @property
    def fraction(self) -> float:
        return self.step / max(self.steps, 1)

    @property
    def time_text(self) -> str:
        """The time left, or how long a finished training took."""
        if self.step >= self.steps:
            return f"done in {format_duration(self.seconds)}" if self.seconds else "done"
        if self.seconds_left is None:
            return "starting"
        run_text = "" if self.run_seconds_left is None else f" (run: {format_duration(self.run_seconds_left)})"
        return f"{format_duration(self.seconds_left)} left{run_text}"

    @property
    def line(self) -> str:
        """Everything in one line of text."""
        return " · ".join(
            filter(None, [f"{self.title}: step {self.step:,}/{self.steps:,}", self.metrics, self.time_text])
        )


class _Display(Protocol):
    """Shows the status of one training."""

    def update(self, status: _Status) -> None: ...
    def end_epoch(self, status: _Status, epoch: int) -> None: ...
    def close(self, status: _Status) -> None: ...


def _choose_display() -> _Display:
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if hasattr(shell, "kernel"):
        return _NotebookBar()
    return _TerminalBar() if sys.stderr.isatty() and os.environ.get("TERM") != "dumb" else _LogLines(max_epoch_lines=20)


@final
class _TerminalBar:
    """A bar by Rich."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn
        from rich.table import Column

        def text_column(text: str, **settings: Any) -> TextColumn:
            return TextColumn(text, markup=False, table_column=Column(no_wrap=True, **settings))

        self._progress = Progress(
            text_column("{task.description:<11}"), BarColumn(bar_width=16),
            text_column("{task.completed:,}/{task.total:,}"), text_column("{task.fields[time]}"),
            text_column("{task.fields[metrics]}", overflow="ellipsis", ratio=1),
            console=Console(file=sys.stderr), refresh_per_second=5, expand=True,
        )  # fmt: skip
        self._task: Any = None

    def update(self, status: _Status) -> None:
        fields: dict[str, Any] = {"metrics": status.metrics, "time": status.time_text}
        if self._task is None:  # not before, or the bar would be drawn without a title
            self._task = self._progress.add_task(status.title, completed=status.step, total=status.steps, **fields)
            self._progress.start()
            return
        self._progress.update(self._task, description=status.title, completed=status.step, total=status.steps, **fields)

    def end_epoch(self, status: _Status, epoch: int) -> None:
        """The bar shows it already."""

    def close(self, status: _Status) -> None:
        self._progress.stop()


@final
class _NotebookBar:
    """An HTML bar in the output of a notebook cell, updated in place; the last state is a line of text."""

    def __init__(self) -> None:
        self._handle: Any = None

    def update(self, status: _Status) -> None:
        html = f'<progress value="{status.fraction:.4f}" max="1"></progress> <code>{escape(status.line)}</code>'
        self._show({"text/plain": status.line, "text/html": html})

    def end_epoch(self, status: _Status, epoch: int) -> None:
        """The bar shows it already."""

    def close(self, status: _Status) -> None:
        self._show({"text/plain": status.line})

    def _show(self, content: dict[str, str]) -> None:
        if self._handle is None:
            display = importlib.import_module("IPython.display").display
            self._handle = display(content, raw=True, display_id=True)
        else:
            self._handle.update(content, raw=True)


@final
class _LogLines:
    """Lines of text; none for epochs and the end where ``max_epoch_lines`` is 0."""

    def __init__(self, *, max_epoch_lines: int) -> None:
        self._max_epoch_lines = max_epoch_lines
        self._last_time, self._last_step = time.monotonic(), -1

    def update(self, status: _Status) -> None:
        if time.monotonic() - self._last_time > _MAX_LINE_SECONDS:
            self._write(status)

    def end_epoch(self, status: _Status, epoch: int) -> None:
        if not self._max_epoch_lines:
            return
        epochs = max(epoch, round(epoch * status.steps / max(status.step, 1)))
        is_due = epoch % -(-epochs // self._max_epoch_lines) == 0
        if is_due or time.monotonic() - self._last_time > _MIN_LINE_SECONDS:
            self._write(status)

    def close(self, status: _Status) -> None:
        if self._max_epoch_lines:
            self._write(status)

    def _write(self, status: _Status) -> None:
        if status.step == self._last_step:
            return
        print_text(status.line, file=sys.stderr)
        self._last_time, self._last_step = time.monotonic(), status.step


def _describe_metrics(metrics: Mapping[str, float], monitored: Sequence[MetricSpec]) -> str:
    loss = f"loss {metrics['loss']:.3f}"
    losses = {name.removeprefix("loss/"): value for name, value in metrics.items() if name.startswith("loss/")}
    if len(losses) > 1:
        loss += " (" + ", ".join(f"{name} {value:.3f}" for name, value in losses.items()) + ")"
    labels = [loss]
    for metric in monitored:
        if (name := f"val/{metric.name}") in metrics:
            labels.append(f"val {metric.name} {metric.format(metrics[name])}")
    labels.append(f"{metrics['samples_per_second']:,.0f} samples/s")
    for metric in monitored:
        if (name := f"train/{metric.name}") in metrics:
            labels.append(f"train {metric.name} {metric.format(metrics[name])}")
    return " · ".join(labels)
