"""``temperatures.csv``: the temperature that each term took in each step, however it came about."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, final

from limbeck.core.errors import LimbeckError, reason
from limbeck.training.running_stats import spans
from limbeck.utils.io import write_atomically

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["COLUMNS", "Temperatures"]

COLUMNS = ("phase", "stage", "step", "term", "mean", "lowest", "highest")
_MOST_HELD = 4096
_LONGEST = 4096  # letters of a line; a longer one is damage


@final
class Temperatures:
    """Keeps the file: a row for each term and step, with the mean, the lowest and the highest over the step's rows.

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
        self._path, self._mine = path, (phase, stage)
        self._held: list[tuple[int, Mapping[str, Sequence[float | Tensor]]]] = []
        if path.exists():
            write_atomically(path, lambda new: self._kept(new, step))

    def add(self, step: int, taus: Mapping[str, Sequence[float | Tensor]]) -> None:
        """Put by what the terms took in one batch of the step number ``step``, counted from 1."""
        self._held.append((step, taus))
        if len(self._held) >= _MOST_HELD:
            self.write()

    def write(self) -> None:
        """Write down what was put by."""
        if not self._held:
            return
        rows = list(self._rows())
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", newline="", encoding="utf-8") as file:
                table = csv.writer(file)
                if not file.tell():
                    table.writerow(COLUMNS)
                table.writerows(rows)
        except OSError as error:
            raise LimbeckError(
                f"{self._path} could not be written ({reason(error)}): free some space, and go on with --resume"
            ) from error
        self._held = []

    def _rows(self) -> Iterator[tuple[str | int, ...]]:
        batches: dict[int, list[Mapping[str, Sequence[float | Tensor]]]] = {}
        for step, taus in self._held:
            batches.setdefault(step, []).append(taus)
        for step, taken in batches.items():
            for term, one in spans({}, taken).items():
                yield *self._mine, step, term, *(f"{value:.6g}" for value in (one.mean, one.low, one.high))

    def _kept(self, new: Path, done: int) -> None:
        with (
            self._path.open(newline="", encoding="utf-8", errors="replace") as old,
            new.open("w", newline="", encoding="utf-8") as file,
        ):
            table = csv.writer(file)
            table.writerow(COLUMNS)
            for line in (one for one in old if one.endswith("\n") and len(one) < _LONGEST):
                row = next(csv.reader([line]), [])
                known = len(row) == len(COLUMNS) and row[2].isdecimal()
                if known and ((row[0], row[1]) != self._mine or int(row[2]) <= done):
                    table.writerow(row)
