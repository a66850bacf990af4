"""``temperatures.csv``, a row for each step and loss, as lines that are short enough to draw."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, final

from limbeck.core.errors import LimbeckError
from limbeck.report.metrics_csv import migrate_row

if TYPE_CHECKING:
    from limbeck.report.metrics_csv import TrainingCurve

__all__ = ["TemperatureSeries", "load_temperatures"]

_MAX_POINTS = 300
_StepRow = tuple[float, float, float, float]


@final
@dataclass(frozen=True, slots=True)
class TemperatureSeries:
    """Temperatures of one loss: ``steps`` since its phase began, and at each the mean, the lowest and the highest."""

    steps: tuple[float, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


def load_temperatures(path: Path, curve: TrainingCurve | None) -> dict[str, TemperatureSeries]:
    """By loss, the temperatures in the steps of the curve's phase; none where there is no file.

    Of many steps neighbours are joined, so that no line has more than some 300 points: their mean, lowest and highest.

    Raises:
        LimbeckError: the file is no text.
    """
    rows: dict[str, list[_StepRow]] = {}
    if curve is not None:
        for loss, row in _read_rows(path, curve):
            rows.setdefault(loss, []).append(row)
    return {loss: _downsample(loss_rows) for loss, loss_rows in rows.items()}


def _read_rows(path: Path, curve: TrainingCurve) -> Iterator[tuple[str, _StepRow]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for row in map(migrate_row, csv.DictReader(file)):
                try:
                    step, *values = (float(row[name]) for name in ("step", "mean", "min", "max"))
                except (TypeError, ValueError, KeyError):
                    continue  # a line that a kill cut in half
                if row.get("phase") == curve.phase and all(map(math.isfinite, (step, *values))):
                    mean, low, high = values
                    yield row["loss"], (curve.stages.get(row["stage"], 0.0) + step, mean, low, high)
    except FileNotFoundError:
        return
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise LimbeckError(f"{path} could not be read ({error}): delete it to draw temperatures by epoch") from None


def _downsample(rows: Sequence[_StepRow]) -> TemperatureSeries:
    stride = -(-len(rows) // _MAX_POINTS)
    chunks = [rows[start : start + stride] for start in range(0, len(rows), stride)]
    return TemperatureSeries(
        tuple(chunk[-1][0] for chunk in chunks),
        tuple(math.fsum(row[1] for row in chunk) / len(chunk) for chunk in chunks),
        tuple(min(row[2] for row in chunk) for chunk in chunks),
        tuple(max(row[3] for row in chunk) for chunk in chunks),
    )
