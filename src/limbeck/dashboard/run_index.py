"""What runs and studies stand under a folder, how far they are, and that none of their files leads out of it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, final

from limbeck.core.errors import LimbeckError
from limbeck.report.metrics_csv import curves

__all__ = ["Entry", "Phase", "entries", "phases", "signature"]

State = Literal["running", "finished", "failed", "stopped"]

_DEPTH: Final = 6
_MOST: Final = 1000
_FRESH: Final = 300.0
"""Seconds after its last sign of life for which a run without a lock counts as running."""

_FILES: Final = (
    "recipe.yaml",
    "record.json",
    "metrics.csv",
    "answers.safetensors",
    "report.html",
    "study.json",
    ".lock",
)


@final
@dataclass(frozen=True, slots=True)
class Entry:
    """One run or study.

    Attributes:
        place: its path under the folder, with slashes; the only name by which it can be asked for.
        folder: where it is.
        kind: run or study.
        state: ``running`` where a process holds the lock or a file has just changed; of the rest, ``failed`` is a study
            with a failed cell, and ``stopped`` what has an end to go on to.
        changed: when one of its files last changed, in seconds since 1970.
        done: of a study, finished cells.
        of: of a study, all cells.
    """

    place: str
    folder: Path
    kind: Literal["run", "study"]
    state: State
    changed: float
    done: int = 0
    of: int = 0

    @property
    def live(self) -> bool:
        """Whether another look may show more."""
        return self.state == "running"


@final
@dataclass(frozen=True, slots=True)
class Phase:
    """One training of a run: the step it is at, of how many (``None`` where the recipe does not tell), accuracy."""

    name: str
    step: int
    of: int | None
    accuracy: float | None

    @property
    def share(self) -> float | None:
        """How much of it is done, from 0 to 1."""
        return None if not self.of else min(1.0, self.step / self.of)


def entries(root: Path) -> dict[str, Entry]:
    """Every run and study under ``root``, the newest first; a link that leads out of it is passed over."""
    root = root.resolve()
    found = [one for folder in _walk(root, root, _DEPTH) if (one := _entry(folder, root)) is not None]
    found.sort(key=lambda one: -one.changed)
    return {one.place: one for one in found[:_MOST]}


def phases(folder: Path) -> list[Phase]:
    """How far the trainings of a run are; raises ``LimbeckError`` where its figures cannot be read just now."""
    wanted = _planned(folder / "recipe.yaml")
    found = []
    for name, curve in curves(folder / "metrics.csv").items():
        known = [value for value in curve.accuracy if value == value]
        steps, epochs = wanted.get("teaching" if name in wanted["teachers"] else "stages", (None, None))
        per_epoch = curve.steps[-1] / len(curve.steps)
        of = steps or (round(epochs * per_epoch) if epochs else None)
        found.append(Phase(name, int(curve.steps[-1]), of, known[-1] if known else None))
    return found


def signature(entry: Entry) -> tuple[tuple[str, int, int], ...]:
    """Names, sizes and times of all files that the page of an entry is made of: the page changes when it does."""
    marks = []
    for path in sorted(_files(entry.folder)):
        with suppress(OSError):
            told = path.stat()
            marks.append((path.as_posix(), told.st_size, told.st_mtime_ns))
    return tuple(marks)


def _walk(folder: Path, root: Path, depth: int) -> Iterator[Path]:
    """Folders that look like a run or a study; what is inside of one is its own."""
    names = set()
    with suppress(OSError):
        names = {entry.name for entry in os.scandir(folder)}
    if names & {"study.json", "record.json", "recipe.yaml"}:
        yield folder
    elif depth:
        for name in sorted(names):
            inner = folder / name
            with suppress(OSError):
                inside = not name.startswith(".") and inner.is_dir() and inner.resolve().is_relative_to(root)
                # A link to a folder above would be walked for ever.
                around = inner.is_symlink() and folder.resolve().is_relative_to(inner.resolve())
                if inside and not around:
                    yield from _walk(inner, root, depth - 1)


def _entry(folder: Path, root: Path) -> Entry | None:
    files = list(_files(folder))
    try:
        if not all(path.resolve().is_relative_to(root) for path in files):
            return None
        changed = max(path.stat().st_mtime for path in files)
    except (OSError, RuntimeError, ValueError):
        return None
    place = folder.relative_to(root).as_posix()
    if (folder / "study.json").exists():
        states = _cells(folder)
        done, of = states.count("done"), len(states)
        alive = any(_locked(path) for path in files if path.name == ".lock") or time.time() - changed < _FRESH
        state: State = "finished" if of and done == of else "failed" if "failed" in states else "stopped"
        if alive and ("running" in states or "waiting" in states):
            state = "running"
        return Entry(place, folder, "study", state, changed, done, of)
    if (folder / "record.json").exists():
        return Entry(place, folder, "run", "finished", changed)
    alive = _locked(folder / ".lock") or time.time() - changed < _FRESH
    return Entry(place, folder, "run", "running" if alive else "stopped", changed)


def _files(folder: Path) -> Iterator[Path]:
    """The files of a run or study that are ever read, so far as they are there."""
    yield from (folder / name for name in _FILES if os.path.lexists(folder / name))
    if (folder / "study.json").exists():
        for cell in (folder / "cells").glob("*/*"):
            yield from (cell / name for name in _FILES if os.path.lexists(cell / name))


def _cells(folder: Path) -> list[str]:
    from limbeck.workflows.compare.load_runs import read_study

    try:
        return [str(cell["state"]) for cell in read_study(folder)["cells"]]
    except LimbeckError:
        return []


def _locked(path: Path) -> bool:
    """Whether a process holds a run's lock, by the kernel's list: trying to take the lock could be in its way."""
    try:
        told, lines = path.stat(), Path("/proc/locks").read_text().splitlines()
    except OSError:
        return False
    inode = f"{os.major(told.st_dev):02x}:{os.minor(told.st_dev):02x}:{told.st_ino}"
    return any(inode in line.split() for line in lines)


def _planned(path: Path) -> dict[str, Any]:
    """Steps or epochs of the stages and of the teachers' own training, and the teachers' names, as the recipe says."""
    import yaml

    recipe: Any = {}
    with suppress(OSError, ValueError, yaml.YAMLError):
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    recipe = recipe if isinstance(recipe, Mapping) else {}
    teachers, stages = recipe.get("teachers"), recipe.get("stages")
    return {
        "teachers": set(teachers) if isinstance(teachers, Mapping) else set(),
        "teaching": _lengths([recipe.get("teaching")]), "stages": _lengths(stages if isinstance(stages, list) else []),
    }  # fmt: skip


def _lengths(stages: list[Any]) -> tuple[int | None, float | None]:
    """All steps together, or else all epochs together, where every stage tells the same kind."""
    for kind in ("steps", "epochs"):
        told = [stage.get(kind) if isinstance(stage, Mapping) else None for stage in stages]
        numbers = [value for value in told if isinstance(value, int | float)]
        if numbers and len(numbers) == len(told):
            total = sum(numbers)
            return (int(total), None) if kind == "steps" else (None, float(total))
    return None, None
