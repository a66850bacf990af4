"""``metrics.csv`` as curves: one per phase, its stages joined end to end."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, final

from limbeck.core.errors import LimbeckError
from limbeck.report.migrate import PHASE_NAMES, STAGE_NAMES, VARIANT_NAMES

__all__ = ["TrainingCurve", "load_curves", "migrate_row"]

_SCHEMA_2_COLUMNS: Final = {
    "images_per_second": "samples_per_second", "validation_top1": "val/accuracy", "validation_nll": "val/nll",
    "train_accuracy": "train/accuracy", "term": "loss", "lowest": "min", "highest": "max",
}  # fmt: skip
_SCHEMA_2_PREFIXES: Final = {
    "weight": "loss_weight", "share": "loss_share", "gradient": "grad_norm", "gradient_ratio": "grad_norm_ratio",
    "flatness": "teacher_entropy", "tau": "temperature", "tau_min": "temperature_min", "tau_max": "temperature_max",
}  # fmt: skip


@final
@dataclass(frozen=True, slots=True)
class TrainingCurve:
    """What one phase (the training of one model) wrote down, a row an epoch.

    Attributes:
        phase: the model's name in the record.
        steps: optimizer steps done since the phase began, over all its stages.
        accuracy: validation accuracy, a fraction; NaN where the row has none.
        losses: by name, the value of the loss with its weight; NaN where the stage has no such loss.
        columns: every other column of numbers by its name, such as ``temperature/kd``; NaN where a row has none.
        stages: by stage, the step at which it began.
    """

    phase: str
    steps: tuple[float, ...]
    accuracy: tuple[float, ...]
    losses: dict[str, tuple[float, ...]]
    stages: dict[str, float]
    columns: dict[str, tuple[float, ...]] = field(default_factory=dict)

    def columns_by_loss(self, prefix: str) -> dict[str, tuple[float, ...]]:
        """By loss, the columns ``prefix/<loss>``; those of which no row has a number are left out.

        >>> columns = {"temperature/kd": (4.0,), "temperature/dkd": (math.nan,), "lr": (0.1,)}
        >>> TrainingCurve("d", (1.0,), (0.5,), {}, {}, columns).columns_by_loss("temperature")
        {'kd': (4.0,)}
        """
        column_prefix = f"{prefix}/"
        matching = {
            name.removeprefix(column_prefix): column
            for name, column in self.columns.items()
            if name.startswith(column_prefix)
        }
        return {name: values for name, values in matching.items() if any(map(math.isfinite, values))}


def load_curves(path: Path) -> dict[str, TrainingCurve]:
    """The curves by phase, in the order of the file; none where there is no file or no row.

    A file of schema 2 is read by today's names of columns, phases and stages.

    Raises:
        LimbeckError: the file is no text, or has no columns ``phase`` and ``step``.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise LimbeckError(f"{path} could not be read ({error}): delete it to make the report without curves") from None
    if rows and not {"phase", "step"} <= rows[0].keys():
        raise LimbeckError(
            f"{path} has the columns {', '.join(map(str, list(rows[0])[:6]))}, and a file of metrics has at least "
            "phase and step: delete it to make the report without curves"
        )
    phases: dict[str, list[dict[str, str]]] = {}
    for row in map(migrate_row, rows):
        if math.isfinite(_parse_float(row.get("step"))):
            phases.setdefault(row["phase"], []).append(row)
    return {phase: _build_curve(phase, phase_rows) for phase, phase_rows in phases.items()}


def migrate_row(row: dict[str, str]) -> dict[str, str]:
    """A row of ``metrics.csv`` or ``temperatures.csv`` by today's names; one that has no old column stays.

    >>> migrate_row({"phase": "alone", "stage": "distill", "validation_top1": "0.5", "tau/kd": "4"})
    {'phase': 'baseline', 'stage': 'distill', 'val/accuracy': '0.5', 'temperature/kd': '4'}
    """
    if not _SCHEMA_2_COLUMNS.keys() & row.keys():
        return row
    migrated = {_migrate_column(name): value for name, value in row.items()}
    phase, stage = migrated.get("phase", ""), migrated.get("stage", "")
    # A run has no phases "longer" and "smoothed"; "alone" of a trial of a study is read as that of a run.
    names = {**VARIANT_NAMES, **PHASE_NAMES}
    return {**migrated, "phase": names.get(phase, phase), "stage": STAGE_NAMES.get(stage, stage)}


def _migrate_column(name: str) -> str:
    # The csv module files the cells beyond the header under None.
    prefix, slash, loss = (name or "").partition("/")
    return f"{_SCHEMA_2_PREFIXES.get(prefix, prefix)}/{loss}" if slash else _SCHEMA_2_COLUMNS.get(name, name)


def _build_curve(phase: str, rows: list[dict[str, str]]) -> TrainingCurve:
    steps: list[float] = []
    stages: dict[str, float] = {}
    steps_before = last_step = 0.0
    for row in rows:
        step, stage = _parse_float(row["step"]), row.get("stage") or ""
        if stage not in stages:
            # A stage that counts its own steps from one goes on where the last one ended.
            steps_before = steps_before + last_step if step <= last_step else steps_before
            stages[stage] = steps[-1] if steps else 0.0
        last_step = step
        steps.append(steps_before + step)
    names = [name for name in rows[0] if name and name not in ("phase", "stage")]
    columns = {name: tuple(_parse_float(row.get(name)) for row in rows) for name in names}
    losses = {name.removeprefix("loss/"): column for name, column in columns.items() if name.startswith("loss/")}
    return TrainingCurve(
        phase=phase,
        steps=tuple(steps),
        accuracy=tuple(_parse_float(row.get("val/accuracy")) for row in rows),
        losses={name: values for name, values in losses.items() if any(map(math.isfinite, values))},
        stages=stages,
        columns=columns,
    )


def _parse_float(text: str | None) -> float:
    try:
        value = float(text or "nan")
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan
