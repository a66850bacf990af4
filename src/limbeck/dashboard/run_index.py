"""The runs and studies in a folder and their progress; entries with links out of the folder are skipped."""

from __future__ import annotations

import itertools
import math
import os
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, TypeAlias, final

from limbeck.core.errors import LimbeckError
from limbeck.dashboard.run_summary import RunSummary, estimate_run_seconds_left, summarize_record, summarize_study
from limbeck.recipe.yaml_io import parse_yaml, read_source
from limbeck.report.metrics_csv import TrainingCurve, load_curves
from limbeck.report.record_io import read_record
from limbeck.report.task_metrics import load_task_metrics

RunState = Literal["running", "finished", "failed", "stopped", "damaged"]

_MAX_FOLDER_DEPTH: Final = 6
_MAX_ENTRIES: Final = 1000
_FRESH_SECONDS: Final = 300.0
"""Seconds after its last change for which a run without a lock counts as running."""

_FILE_NAMES: Final = (
    "recipe.yaml", "task.json", "record.json", "metrics.csv", "predictions.safetensors", "report.html", "study.json",
    ".lock",
)  # fmt: skip


class FileMark(NamedTuple):
    """A file that an entry is made from, with what changes when it is written."""

    path: str
    num_bytes: int
    modified_ns: int
    device: int
    file_number: int

    @property
    def inode(self) -> str:
        """Its name in the kernel's list of locks."""
        return f"{os.major(self.device):02x}:{os.minor(self.device):02x}:{self.file_number}"


Signature: TypeAlias = tuple[FileMark, ...]


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


class RunEntry(NamedTuple):
    """One run or study.

    Attributes:
        relative_path: the path in the folder, with slashes; the only name by which the entry can be requested.
        folder: the full path.
        kind: run or study.
        state: ``running`` where a process holds the lock or a file has just changed, ``failed`` for a study with a
            failed trial, ``stopped`` for what can be resumed, ``damaged`` where a file cannot be read.
        modified: the time of the last change, in seconds since 1970.
        num_done: number of finished trials of a study.
        num_total: number of trials of a study.
        phase: the last training of a run that is not finished.
        error: why it is damaged.
        signature: the files that its page is made from.
        summary: metric, gain, verdict and time left.
    """

    relative_path: str
    folder: Path
    kind: Literal["run", "study"]
    state: RunState
    modified: float
    num_done: int = 0
    num_total: int = 0
    phase: PhaseProgress | None = None
    error: str = ""
    signature: Signature = ()
    summary: RunSummary = RunSummary()


class _Content(NamedTuple):
    """What the files of a run or study say."""

    kind: Literal["run", "study"]
    is_finished: bool = False
    states: tuple[str, ...] = ()
    phase: PhaseProgress | None = None
    error: str = ""
    summary: RunSummary = RunSummary()


@final
class RunIndex:
    """The runs and studies under ``root``.

    What was read of a run is kept until one of its files changes. Requests that wait for a search share the next one.
    """

    def __init__(self, root: Path) -> None:
        self._root, self._lock, self._clock = root.resolve(), threading.Lock(), itertools.count(1)
        self._began, self._entries = 0, dict[str, RunEntry]()
        self._contents: dict[Path, tuple[Signature, _Content]] = {}

    def read(self) -> dict[str, RunEntry]:
        """Every run and study, newest first; links that lead out of the folder are skipped.

        Returns:
            Entries by their relative path: of a search that began after this call, and the same dict to all its calls.
        """
        arrived = next(self._clock)
        with self._lock:
            if self._began < arrived:
                self._began = next(self._clock)
                self._entries = self._search()
            return self._entries

    def _search(self) -> dict[str, RunEntry]:
        locked, contents = _locked_inodes(), dict[Path, tuple[Signature, _Content]]()
        entries = []
        for folder in _find_run_folders(self._root, self._root, _MAX_FOLDER_DEPTH):
            signature = _read_signature(folder, self._root)
            if not signature:
                continue
            known_signature, content = self._contents.get(folder, ((), None))
            if content is None or known_signature != signature:
                content = _read_content(folder)
            contents[folder] = signature, content
            entries.append(_make_entry(folder, self._root, signature, content, locked))
        self._contents = contents
        entries.sort(key=lambda entry: -entry.modified)
        return {entry.relative_path: entry for entry in entries[:_MAX_ENTRIES]}


def list_runs(root: Path) -> dict[str, RunEntry]:
    """Every run and study under ``root``, newest first; links that lead out of it are skipped."""
    return RunIndex(root).read()


def read_phases(folder: Path) -> list[PhaseProgress]:
    """The progress of each training of a run.

    Raises:
        LimbeckError: its files cannot be read.
    """
    return _measure_progress(folder, load_curves(folder / "metrics.csv"), _read_recipe(folder / "recipe.yaml"))


def _measure_progress(
    folder: Path, curves: Mapping[str, TrainingCurve], recipe: Mapping[str, Any]
) -> list[PhaseProgress]:
    metric = load_task_metrics(folder, curves).monitored_spec
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


def _find_run_folders(folder: Path, root: Path, depth: int) -> Iterator[Path]:
    """Folders that hold a run or a study; their subfolders are not searched."""
    children: dict[str, os.DirEntry[str]] = {}
    with suppress(OSError), os.scandir(folder) as found:
        children = {child.name: child for child in found}
    # A recipe without them is what `limbeck new` writes, next to the folder of runs.
    is_begun = "recipe.yaml" in children and bool(children.keys() & {"task.json", "metrics.csv", "checkpoint"})
    if is_begun or children.keys() & {"study.json", "record.json"}:
        yield folder
    elif depth:
        for name, child in sorted(children.items()):
            if not name.startswith(".") and _is_inside(child, folder, root):
                yield from _find_run_folders(folder / name, root, depth - 1)


def _is_inside(child: os.DirEntry[str], folder: Path, root: Path) -> bool:
    """Whether ``child`` is a folder, and no link out of ``root`` or to a parent, which would be walked forever."""
    try:
        if not child.is_symlink():
            return child.is_dir()
        target = Path(child.path).resolve()
        return child.is_dir() and target.is_relative_to(root) and not folder.resolve().is_relative_to(target)
    except (OSError, RuntimeError):
        return False


def _read_signature(folder: Path, root: Path) -> Signature:
    """The files that an entry is made from; empty where there is none, or one of them is a link out of ``root``."""
    folders = [folder]
    with suppress(OSError):
        if (folder / "study.json").exists():
            folders += [trial for trial in (folder / "trials").glob("*/*") if trial.is_dir()]
    marks = []
    try:
        for position, subfolder in enumerate(folders):
            if position and not subfolder.resolve().is_relative_to(root):
                return ()
            with os.scandir(subfolder) as found:
                files = [file for file in found if file.name in _FILE_NAMES]
            if any(file.is_symlink() and not Path(file.path).resolve().is_relative_to(root) for file in files):
                return ()
            stats = [(file.path, file.stat()) for file in files]
            marks += [FileMark(path, stat.st_size, stat.st_mtime_ns, stat.st_dev, stat.st_ino) for path, stat in stats]
    except (OSError, RuntimeError, ValueError):
        return ()
    return tuple(sorted(marks))


def _read_content(folder: Path) -> _Content:
    """What the index shows of a run or study, which depends on its files only; of a damaged one, the reason."""
    try:
        if (folder / "study.json").exists():
            study = _read_study(folder)
            states = tuple(str(trial["state"]) for trial in study["trials"])
            return _Content("study", states=states, summary=summarize_study(folder, study))
        if (folder / "record.json").exists():
            return _Content("run", is_finished=True, summary=summarize_record(read_record(folder / "record.json")))
        curves, recipe = load_curves(folder / "metrics.csv"), _read_recipe(folder / "recipe.yaml")
        phases, left = _measure_progress(folder, curves, recipe), estimate_run_seconds_left(curves, recipe)
        return _Content("run", phase=phases[-1] if phases else None, summary=RunSummary(seconds_left=left))
    except LimbeckError as error:
        reason = str(error).replace(f"{folder}/", "").replace(str(folder), folder.name)
    except Exception as error:  # an edited file must not stop the dashboard
        reason = f"{type(error).__name__}: its files cannot be read"
    return _Content("study" if (folder / "study.json").exists() else "run", error=reason[:300])


def _make_entry(folder: Path, root: Path, signature: Signature, content: _Content, locked: Collection[str]) -> RunEntry:
    modified, error = max(mark.modified_ns for mark in signature) / 1e9, content.error
    relative_path = os.fsencode(folder.relative_to(root)).decode("utf-8", "replace")
    if os.fsencode(relative_path) != os.fsencode(folder.relative_to(root)):
        error = "the name of its folder is not UTF-8"
    try:
        time.localtime(modified)
    except (OSError, OverflowError, ValueError):
        modified, error = 0.0, "the time of its last change is out of range"
    is_alive = time.time() - modified < _FRESH_SECONDS or any(
        mark.inode in locked for mark in signature if mark.path.endswith(".lock")
    )
    state: RunState = "running" if is_alive else "stopped"
    if error:
        state = "damaged"
    elif content.kind == "run":
        state = "finished" if content.is_finished else state
    elif not (is_alive and {"running", "waiting"} & set(content.states)):
        is_finished = bool(content.states) and set(content.states) == {"done"}
        state = "finished" if is_finished else "failed" if "failed" in content.states else "stopped"
    return RunEntry(
        relative_path, folder, content.kind, state, modified, content.states.count("done"), len(content.states),
        content.phase, error, signature, content.summary,
    )  # fmt: skip


def _read_study(folder: Path) -> Mapping[str, Any]:
    from limbeck.workflows.compare.load_runs import read_study

    return read_study(folder)


def _locked_inodes() -> set[str]:
    """The files that a process has locked, by the kernel's list: acquiring the lock of a run could block it."""
    try:
        return {word for line in Path("/proc/locks").read_text().splitlines() for word in line.split() if ":" in word}
    except OSError:
        return set()


def _read_recipe(path: Path) -> Mapping[str, Any]:
    """The content of a recipe; empty where it cannot be read."""
    recipe: Any = {}
    with suppress(LimbeckError):
        recipe = parse_yaml(*read_source(path))
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
