"""``metrics.csv`` as one curve per phase, and ``temperatures.csv`` as one series per loss."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Final, NamedTuple

from limbeck.core.errors import LimbeckError
from limbeck.report.migrate import COLUMN_NAMES, COLUMN_PREFIXES, PHASE_NAMES, STAGE_NAMES, VARIANT_NAMES
from limbeck.utils.io import require_regular_file

# A run has no phases "longer" and "smoothed"; "alone" of a trial of a study is read as that of a run.
_SCHEMA_2_PHASES: Final = {**VARIANT_NAMES, **PHASE_NAMES}
_MAX_POINTS: Final = 300


@dataclass(frozen=True)
class TrainingCurve:
    """The log of one phase (the training of one model), one row per epoch.

    Attributes:
        phase: the model's name in the record.
        steps: optimizer steps since the phase began, over all its stages.
        losses: by name, the weighted value of each loss; NaN where the stage has no such loss.
        columns: every column by its name, such as ``val/miou`` or ``temperature/kd``; NaN where a row has none.
        stages: by stage, the step at which it began.
    """

    phase: str
    steps: tuple[float, ...]
    losses: dict[str, tuple[float, ...]]
    stages: dict[str, float]
    columns: dict[str, tuple[float, ...]] = field(default_factory=dict)

    def validation(self, metric: str) -> tuple[float, ...]:
        """The column ``val/<metric>``; NaN where a row has none."""
        return self.columns.get(f"val/{metric}", (math.nan,) * len(self.steps))

    def columns_by_loss(self, prefix: str) -> dict[str, tuple[float, ...]]:
        """By loss, the columns ``prefix/<loss>`` that hold a number.

        >>> columns = {"temperature/kd": (4.0,), "temperature/dkd": (math.nan,), "lr": (0.1,)}
        >>> TrainingCurve("d", (1.0,), {}, {}, columns).columns_by_loss("temperature")
        {'kd': (4.0,)}
        """
        return _select_losses(self.columns, prefix)


class TemperatureSeries(NamedTuple):
    """Temperatures of one loss: steps since its phase began, and at each the mean, the minimum and the maximum."""

    steps: Sequence[float]
    mean: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


def load_curves(path: Path) -> dict[str, TrainingCurve]:
    """The curves by phase, in the order of the file; empty where there is no file or no row.

    Columns, phases and stages of schema 2 get today's names.

    Raises:
        LimbeckError: the file is not text, or has no columns ``phase`` and ``step``.
    """
    rows = list(_read_rows(path))
    if rows and not {"phase", "step"} <= rows[0].keys():
        raise LimbeckError(
            f"{path} has the columns {', '.join(map(str, list(rows[0])[:6]))}, and a file of metrics has at least "
            "phase and step: delete it to make the report without curves"
        )
    phases: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        if math.isfinite(_parse_float(row.get("step"))):
            phases.setdefault(row["phase"], []).append(row)
    return {phase: _build_curve(phase, phase_rows) for phase, phase_rows in phases.items()}


def load_temperatures(path: Path, curve: TrainingCurve | None) -> dict[str, TemperatureSeries]:
    """By loss, the temperatures of the curve's phase; empty where there is no file.

    Neighboring steps are merged, so that no series has more than 300 points.

    Raises:
        LimbeckError: the file is not text.
    """
    if curve is None:
        return {}
    rows_by_loss: dict[str, list[tuple[float, ...]]] = {}
    for row in _read_rows(path):
        step, *values = (_parse_float(row.get(name)) for name in ("step", "mean", "min", "max"))
        # A line that was cut off when the process was killed lacks a number.
        if row.get("phase") == curve.phase and all(map(math.isfinite, (step, *values))):
            start = curve.stages.get(row["stage"], 0.0)
            rows_by_loss.setdefault(row["loss"], []).append((start + step, *values))
    return {loss: _downsample(rows) for loss, rows in rows_by_loss.items()}


def _downsample(rows: Sequence[tuple[float, ...]]) -> TemperatureSeries:
    stride = -(-len(rows) // _MAX_POINTS)
    chunks = [list(zip(*rows[start : start + stride], strict=True)) for start in range(0, len(rows), stride)]
    points = [(steps[-1], fmean(means), min(lows), max(highs)) for steps, means, lows, highs in chunks]
    return TemperatureSeries(*zip(*points, strict=True))


def _read_rows(path: Path) -> Iterator[dict[str, str]]:
    try:
        with require_regular_file(path).open(newline="", encoding="utf-8") as file:
            yield from map(_migrate_row, csv.DictReader(file))
    except FileNotFoundError:
        return
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise LimbeckError(f"{path} could not be read ({error}): delete it to make the report without it") from None


def _migrate_row(row: dict[str, str]) -> dict[str, str]:
    """A row with today's names; one without a column of schema 2 is returned as it is.

    >>> _migrate_row({"phase": "alone", "stage": "distill", "validation_nll": "0.5", "tau/kd": "4"})
    {'phase': 'baseline', 'stage': 'distill', 'val/nll': '0.5', 'temperature/kd': '4'}
    """
    if not COLUMN_NAMES.keys() & row.keys():
        return row
    migrated = {}
    for name, value in row.items():
        # csv.DictReader stores cells beyond the header under None.
        prefix, slash, loss = (name or "").partition("/")
        new_prefix = COLUMN_PREFIXES.get(prefix, prefix)
        migrated[f"{new_prefix}/{loss}" if slash else COLUMN_NAMES.get(name, name)] = value
    for key, names in (("phase", _SCHEMA_2_PHASES), ("stage", STAGE_NAMES)):
        migrated[key] = names.get(migrated.get(key, ""), migrated.get(key, ""))
    return migrated


def _build_curve(phase: str, rows: list[dict[str, str]]) -> TrainingCurve:
    steps: list[float] = []
    stages: dict[str, float] = {}
    offset = last_step = 0.0
    for row in rows:
        step, stage = _parse_float(row["step"]), row.get("stage") or ""
        if stage not in stages:
            # Steps count from one in each stage: continue where the last stage ended.
            offset += last_step if step <= last_step else 0.0
            stages[stage] = steps[-1] if steps else 0.0
        last_step = step
        steps.append(offset + step)
    names = [name for name in rows[0] if name and name not in ("phase", "stage")]
    columns = {name: tuple(_parse_float(row.get(name)) for row in rows) for name in names}
    return TrainingCurve(phase, tuple(steps), _select_losses(columns, "loss"), stages, columns)


def _select_losses(columns: dict[str, tuple[float, ...]], prefix: str) -> dict[str, tuple[float, ...]]:
    return {
        name.removeprefix(f"{prefix}/"): column for name, column in columns.items()
        if name.startswith(f"{prefix}/") and any(map(math.isfinite, column))
    }  # fmt: skip


def _parse_float(text: str | None) -> float:
    try:
        value = float(text or "nan")
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan
