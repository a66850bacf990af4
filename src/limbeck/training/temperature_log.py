"""``temperatures.csv``: the temperature that each loss took in each step, however it came about."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, final

from limbeck.core.errors import LimbeckError, format_root_cause
from limbeck.training.running_stats import update_stats
from limbeck.utils.io import write_atomically

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["COLUMNS", "TemperatureCSV"]

COLUMNS = ("phase", "stage", "step", "loss", "mean", "min", "max")
_MAX_BUFFERED = 4096
_MAX_LINE_LENGTH = 4096  # letters of a line; a longer one is damage


@final
class TemperatureCSV:
    """Keeps the file: a row for each loss and step, with the mean, the lowest and the highest over the step's rows.

    Rows are held until :meth:`write`, which is called at the end of an epoch and before each checkpoint, so that
    the device is never waited for in a step. Rows of other phases stay. A training that goes on from a checkpoint takes
    off what it had written beyond it, and a line that a kill cut in half.

    Arguments:
        path: of the file; it appears with the first row.
        phase: whose training this is.
        stage: which of its stages.
        step: the steps that are done already.
    """

    def __init__(self, path: Path, *, phase: str, stage: str, step: int) -> None:
        self._path, self._key = path, (phase, stage)
        self._buffer: list[tuple[int, Mapping[str, Sequence[float | Tensor]]]] = []
        if path.exists():
            write_atomically(path, lambda partial: self._rewrite(partial, step))

    def add(self, step: int, temperatures: Mapping[str, Sequence[float | Tensor]]) -> None:
        """Put by what the terms took in one batch of the step number ``step``, counted from 1."""
        self._buffer.append((step, temperatures))
        if len(self._buffer) >= _MAX_BUFFERED:
            self.write()

    def write(self) -> None:
        """Write down what was put by."""
        if not self._buffer:
            return
        rows = list(self._format_rows())
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", newline="", encoding="utf-8") as file:
                table = csv.writer(file)
                if not file.tell():
                    table.writerow(COLUMNS)
                table.writerows(rows)
        except OSError as error:
            raise LimbeckError(
                f"{self._path} could not be written ({format_root_cause(error)}): free some space, and go on with --resume"
            ) from error
        self._buffer = []

    def _format_rows(self) -> Iterator[tuple[str | int, ...]]:
        batches: dict[int, list[Mapping[str, Sequence[float | Tensor]]]] = {}
        for step, temperatures in self._buffer:
            batches.setdefault(step, []).append(temperatures)
        for step, step_batches in batches.items():
            for loss, stats in update_stats({}, step_batches).items():
                yield *self._key, step, loss, *(f"{value:.6g}" for value in (stats.mean, stats.minimum, stats.maximum))

    def _rewrite(self, partial: Path, last_step: int) -> None:
        with (
            self._path.open(newline="", encoding="utf-8", errors="replace") as source,
            partial.open("w", newline="", encoding="utf-8") as file,
        ):
            table = csv.writer(file)
            table.writerow(COLUMNS)
            for line in (text for text in source if text.endswith("\n") and len(text) < _MAX_LINE_LENGTH):
                row = next(csv.reader([line]), [])
                is_valid = len(row) == len(COLUMNS) and row[2].isdecimal()
                if is_valid and ((row[0], row[1]) != self._key or int(row[2]) <= last_step):
                    table.writerow(row)
