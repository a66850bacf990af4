"""The trials of a study: folders that workers of any process or machine take by a lock.

The state of a trial is read from its run folder: ``record.json`` is there when it is done, ``error.txt`` when it
failed, and its lock is held while a worker trains it. The operating system releases the lock of a process that ends,
so the trial of a killed worker waits again.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, final

from limbeck.core.errors import LimbeckError, format_root_cause
from limbeck.recipe import Recipe
from limbeck.recipe.study_schema import Study
from limbeck.training.checkpoint import TrainingInterrupted
from limbeck.utils.io import require_regular_file, write_text
from limbeck.workflows._job.run_dir import is_unlocked, lock_folder
from limbeck.workflows.study.variants import make_variants

__all__ = [
    "Trial", "TrialState", "claim_trial", "estimate_seconds_left", "list_trials", "read_states", "retry_failed",
]  # fmt: skip

TrialState = Literal["waiting", "running", "done", "failed"]
_ERROR_FILE = "error.txt"
_TRACEBACK_FILE = "traceback.txt"
"""Of an unexpected error."""
_STATE_LOCK = "trials"
"""Its lock is held while states are read, since looking at the lock of a trial takes it for a moment."""


@final
@dataclass(frozen=True, slots=True)
class Trial:
    """One variant with one seed."""

    variant: str
    seed: int

    @property
    def path(self) -> str:
        """Its folder, relative to that of the study."""
        return f"trials/{self.variant}/{self.seed}"


def list_trials(recipe: Recipe) -> list[Trial]:
    """Every trial, seed by seed, the teacher first, since others wait for it."""
    return [Trial(name, seed) for seed in (recipe.study or Study()).seeds for name in make_variants(recipe)]


def read_states(study_dir: Path, trials: Sequence[Trial]) -> dict[Trial, tuple[TrialState, str | None]]:
    """The state of each trial, with the error of a failed one."""
    with lock_folder(study_dir / _STATE_LOCK, timeout=60):
        return {trial: _read_state(study_dir / trial.path) for trial in trials}


@contextmanager
def claim_trial(study_dir: Path, trials: Sequence[Trial]) -> Iterator[Trial | None]:
    """Lock the first of ``trials`` that waits; ``None`` where other workers took them all.

    An error in the body marks the trial as failed and is raised again; an interruption leaves it waiting.
    """
    with ExitStack() as exit_stack:
        with lock_folder(study_dir / _STATE_LOCK, timeout=60):
            waiting = (trial for trial in trials if _read_state(study_dir / trial.path)[0] == "waiting")
            if (trial := next(waiting, None)) is not None:
                exit_stack.enter_context(lock_folder(study_dir / trial.path))
        try:
            yield trial
        except TrainingInterrupted:
            raise
        except Exception as error:
            if trial is not None:
                text, folder = str(error), study_dir / trial.path
                if not isinstance(error, LimbeckError):
                    path = write_text(folder / _TRACEBACK_FILE, "".join(traceback.format_exception(error)))
                    text = f"{format_root_cause(error)}; the traceback is in {path}"
                write_text(folder / _ERROR_FILE, text)
            raise


def retry_failed(study_dir: Path, trials: Sequence[Trial]) -> None:
    """Let every failed trial wait again."""
    for trial in trials:
        for name in (_ERROR_FILE, _TRACEBACK_FILE):
            (study_dir / trial.path / name).unlink(missing_ok=True)


def estimate_seconds_left(trials: Sequence[Mapping[str, Any]], *, num_workers: int) -> float | None:
    """Seconds until every trial is done, from the mean duration of the finished ones of its variant, or of all.

    A running trial counts half. ``None`` where none has finished.

    Args:
        trials: as in ``study.json``.
        num_workers: trials that run at the same time.

    >>> done = {"variant": "kd", "state": "done", "seconds": 10.0}
    >>> estimate_seconds_left([done, {"variant": "kd", "state": "waiting"}] * 3, num_workers=2)
    15.0
    """
    durations: dict[str, list[float]] = {}
    for trial in trials:
        if (seconds := trial.get("seconds")) is not None:
            durations.setdefault(trial["variant"], []).append(seconds)
    if not durations:
        return None
    all_durations = [seconds for values in durations.values() for seconds in values]
    shares = {"waiting": 1.0, "running": 0.5}
    total = sum(
        shares.get(trial["state"], 0.0) * fmean(durations.get(trial["variant"], all_durations)) for trial in trials
    )
    return total / max(num_workers, 1)


def _read_state(folder: Path) -> tuple[TrialState, str | None]:
    if (folder / "record.json").exists():
        return "done", None
    if not is_unlocked(folder):
        return "running", None
    try:
        return "failed", require_regular_file(folder / _ERROR_FILE).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return "waiting", None
