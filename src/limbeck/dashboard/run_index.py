"""The runs and studies in a folder and their progress; entries with links out of the folder are skipped."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from limbeck.core.errors import LimbeckError
from limbeck.report.metrics_csv import load_curves
from limbeck.report.task_metrics import load_task_metrics

RunState = Literal["running", "finished", "failed", "stopped"]

_MAX_FOLDER_DEPTH: Final = 6
_MAX_ENTRIES: Final = 1000
_FRESH_SECONDS: Final = 300.0
"""Seconds after its last change for which a run without a lock counts as running."""

_FILE_NAMES: Final = (
    "recipe.yaml", "task.json", "record.json", "metrics.csv", "predictions.safetensors", "report.html", "study.json",
    ".lock",
)  # fmt: skip


class RunEntry(NamedTuple):
    """One run or study.

    Attributes:
        relative_path: the path in the folder, with slashes; the only name by which the entry can be requested.
        folder: the full path.
        kind: run or study.
        state: ``running`` where a process holds the lock or a file has just changed, ``failed`` for a study with a
            failed trial, ``stopped`` for what can be resumed.
        modified: the time of the last change, in seconds since 1970.
        num_done: number of finished trials of a study.
        num_total: number of trials of a study.
    """

    relative_path: str
    folder: Path
    kind: Literal["run", "study"]
    state: RunState
    modified: float
    num_done: int = 0
    num_total: int = 0


class PhaseProgress(NamedTuple):
    """Step, number of steps (``None`` where the recipe does not set it), and last and best metric of one training."""

    name: str
    step: int
    total_steps: int | None
    last: float | None
    best: float | None

    @property
    def fraction(self) -> float | None:
        """The completed fraction, from 0 to 1."""
        return None if not self.total_steps else min(1.0, self.step / self.total_steps)


def list_runs(root: Path) -> dict[str, RunEntry]:
    """Every run and study under ``root``, newest first; links that lead out of it are skipped."""
    root = root.resolve()
    entries = (_read_run_entry(folder, root) for folder in _find_run_folders(root, root, _MAX_FOLDER_DEPTH))
    runs = sorted((entry for entry in entries if entry), key=lambda entry: -entry.modified)
    return {entry.relative_path: entry for entry in runs[:_MAX_ENTRIES]}


def read_phases(folder: Path) -> list[PhaseProgress]:
    """The progress of each training of a run; raises ``LimbeckError`` where its files cannot be read."""
    curves = load_curves(folder / "metrics.csv")
    metric = load_task_metrics(folder, curves).monitored_spec
    recipe = _read_recipe(folder / "recipe.yaml")
    teachers, stages = recipe.get("teachers"), recipe.get("stages")
    progress = []
    for name, curve in curves.items():
        is_teacher = isinstance(teachers, Mapping) and name in teachers
        steps, epochs = _sum_lengths([recipe.get("teacher_training")] if is_teacher else stages)
        per_epoch = curve.steps[-1] / len(curve.steps)
        total_steps = steps or (round(epochs * per_epoch) if epochs else None)
        values = list(filter(math.isfinite, curve.validation(metric.name)))
        best = max(values, key=lambda value: metric.sign * value, default=None)
        progress.append(PhaseProgress(name, int(curve.steps[-1]), total_steps, values[-1] if values else None, best))
    return progress


def entry_signature(entry: RunEntry) -> tuple[tuple[str, int, int], ...]:
    """Names, sizes and times of the files that an entry's page is made from."""
    marks = []
    for path in sorted(_iterate_files(entry.folder)):
        with suppress(OSError):
            stat = path.stat()
            marks.append((path.as_posix(), stat.st_size, stat.st_mtime_ns))
    return tuple(marks)


def _find_run_folders(folder: Path, root: Path, depth: int) -> Iterator[Path]:
    """Folders that hold a run or a study; their subfolders are not searched."""
    names = set()
    with suppress(OSError):
        names = {entry.name for entry in os.scandir(folder)}
    if names & {"study.json", "record.json", "recipe.yaml"}:
        yield folder
    elif depth:
        for name in sorted(names):
            child = folder / name
            with suppress(OSError):
                inside = not name.startswith(".") and child.is_dir() and child.resolve().is_relative_to(root)
                # A link to a parent folder would be walked forever.
                is_cycle = child.is_symlink() and folder.resolve().is_relative_to(child.resolve())
                if inside and not is_cycle:
                    yield from _find_run_folders(child, root, depth - 1)


def _read_run_entry(folder: Path, root: Path) -> RunEntry | None:
    files = list(_iterate_files(folder))
    try:
        if not all(path.resolve().is_relative_to(root) for path in files):
            return None
        modified = max(path.stat().st_mtime for path in files)
    except (OSError, RuntimeError, ValueError):
        return None
    is_alive = time.time() - modified < _FRESH_SECONDS or any(
        _is_locked(path) for path in files if path.name == ".lock"
    )
    relative_path = folder.relative_to(root).as_posix()
    state: RunState = "running" if is_alive else "stopped"
    if not (folder / "study.json").exists():
        state = "finished" if (folder / "record.json").exists() else state
        return RunEntry(relative_path, folder, "run", state, modified)
    states = _read_trial_states(folder)
    if not (is_alive and {"running", "waiting"} & set(states)):
        is_finished = bool(states) and set(states) == {"done"}
        state = "finished" if is_finished else "failed" if "failed" in states else "stopped"
    return RunEntry(relative_path, folder, "study", state, modified, states.count("done"), len(states))


def _iterate_files(folder: Path) -> Iterator[Path]:
    """The existing files of a run or study that the dashboard reads."""
    yield from (folder / name for name in _FILE_NAMES if os.path.lexists(folder / name))
    if (folder / "study.json").exists():
        for trial in (folder / "trials").glob("*/*"):
            yield from (trial / name for name in _FILE_NAMES if os.path.lexists(trial / name))


def _read_trial_states(folder: Path) -> list[str]:
    from limbeck.workflows.compare.load_runs import read_study

    try:
        return [str(trial["state"]) for trial in read_study(folder)["trials"]]
    except LimbeckError:
        return []


def _is_locked(path: Path) -> bool:
    """Whether a process holds a run's lock, by the kernel's list: acquiring the lock could block the run."""
    try:
        stat, lines = path.stat(), Path("/proc/locks").read_text().splitlines()
    except OSError:
        return False
    inode = f"{os.major(stat.st_dev):02x}:{os.minor(stat.st_dev):02x}:{stat.st_ino}"
    return any(inode in line.split() for line in lines)


def _read_recipe(path: Path) -> Mapping[str, Any]:
    """The content of a recipe; empty where it cannot be read."""
    import yaml

    recipe: Any = {}
    with suppress(OSError, ValueError, yaml.YAMLError):
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    return recipe if isinstance(recipe, Mapping) else {}


def _sum_lengths(stages: Any) -> tuple[int | None, float | None]:
    """Total steps, or else total epochs, where every stage is measured in the same unit."""
    stages = stages if isinstance(stages, list) else []
    totals: list[float | None] = []
    for unit in ("steps", "epochs"):
        lengths = [stage.get(unit) if isinstance(stage, Mapping) else None for stage in stages]
        numbers = [length for length in lengths if isinstance(length, int | float)]
        totals.append(sum(numbers) if numbers and len(numbers) == len(lengths) else None)
    steps, epochs = totals
    return None if steps is None else int(steps), None if steps is not None else epochs
