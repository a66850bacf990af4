"""``temperatures.csv``, a row for each step and term, as lines that are short enough to draw."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, final

from limbeck.core.errors import LimbeckError

if TYPE_CHECKING:
    from limbeck.report.metrics_csv import Curve

__all__ = ["Taken", "taken"]

_POINTS = 300
_Row = tuple[float, float, float, float]


@final
@dataclass(frozen=True, slots=True)
class Taken:
    """What one term took: ``steps`` since its phase began, and at each of them the mean, the lowest and the highest."""

    steps: tuple[float, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


def taken(path: Path, curve: Curve | None) -> dict[str, Taken]:
    """By term, what was taken in the steps of the curve's phase; none where there is no file.

    Of many steps neighbours are joined, so that no line has more than some 300 points: their mean, lowest and highest.

    Raises:
        LimbeckError: the file is no text.
    """
    rows: dict[str, list[_Row]] = {}
    if curve is not None:
        for term, row in _read(path, curve):
            rows.setdefault(term, []).append(row)
    return {term: _thin(mine) for term, mine in rows.items()}


def _read(path: Path, curve: Curve) -> Iterator[tuple[str, _Row]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                try:
                    step, *figures = (float(row[name]) for name in ("step", "mean", "lowest", "highest"))
                except (TypeError, ValueError, KeyError):
                    continue  # a line that a kill cut in half
                if row.get("phase") == curve.phase and all(map(math.isfinite, (step, *figures))):
                    mean, low, high = figures
                    yield row["term"], (curve.stages.get(row["stage"], 0.0) + step, mean, low, high)
    except FileNotFoundError:
        return
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise LimbeckError(f"{path} could not be read ({error}): delete it to draw temperatures by epoch") from None


def _thin(rows: Sequence[_Row]) -> Taken:
    each = -(-len(rows) // _POINTS)
    parts = [rows[start : start + each] for start in range(0, len(rows), each)]
    return Taken(
        tuple(part[-1][0] for part in parts),
        tuple(math.fsum(row[1] for row in part) / len(part) for part in parts),
        tuple(min(row[2] for row in part) for part in parts),
        tuple(max(row[3] for row in part) for part in parts),
    )
