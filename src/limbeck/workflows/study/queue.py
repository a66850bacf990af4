"""The cells of a study that wait, in Optuna's storage (https://optuna.readthedocs.io): who takes one has it alone.

A cell is a trial that was put in the queue. Several processes, and several machines that name one database, take from
the same queue. Whoever works on a cell gives a sign of life; a cell whose worker is gone is put in the queue again.
"""

from __future__ import annotations

import re
import socket
import threading
import time
import uuid
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from limbeck.core.errors import LimbeckError, reason
from limbeck.recipe import Recipe
from limbeck.workflows._job.run_dir import free, locked

if TYPE_CHECKING:
    import optuna

__all__ = ["Cell", "Queue"]

_HEARTBEAT, _GRACE = 60, 600
"""Seconds between signs of life, and without any until a cell is taken from its worker."""


@final
@dataclass(frozen=True, slots=True, order=True)
class Cell:
    """One arm with one seed."""

    arm: str
    seed: int

    @property
    def place(self) -> str:
        """Its folder within that of the study."""
        return f"cells/{self.arm}/{self.seed}"


@final
class Queue:
    """The queue of one study.

    Arguments:
        folder: of the study.
        url: a database as SQLAlchemy names it; ``None``: a file in the folder.
        name: of the study in that database.

    Raises:
        LimbeckError: Optuna is not installed, or the database cannot be opened.
    """

    def __init__(self, folder: Path, *, url: str | None = None, name: str = "study") -> None:
        try:
            import optuna
        except ImportError:
            raise LimbeckError(
                "a study keeps its queue by Optuna, which is not installed: pip install 'limbeck[study]'"
            ) from None
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.folder = folder
        url = url or f"sqlite:///{(folder / 'queue.db').resolve()}"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._storage, self._study = _opened(url, name)

    @classmethod
    def of(cls, recipe: Recipe, folder: Path, url: str | None) -> Queue:
        """The queue of a recipe's study; its name stands in ``folder``, which machines mount at other paths."""
        path = folder / "queue.name"
        if not path.exists():
            with suppress(FileExistsError), path.open("x") as file:
                file.write(f"{recipe.name} {uuid.uuid4().hex}")
        return cls(folder, url=url, name=path.read_text())

    def fill(self, cells: Iterable[Cell]) -> None:
        """Put every cell in the queue that neither waits there nor is worked on; those of lost workers again."""
        with locked(self.folder / "cells", patience=60):
            self._fill(cells)

    def _fill(self, cells: Iterable[Cell]) -> None:
        import optuna

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            optuna.storages.fail_stale_trials(self._study)
        held = set[Cell]()
        for trial, cell in self._trials():
            if trial.state.name == "RUNNING" and self._left(trial, cell):
                self._study.tell(trial.number, state=optuna.trial.TrialState.FAIL, skip_if_finished=True)
            elif trial.state.name in ("RUNNING", "WAITING"):
                held.add(cell)
        for cell in cells:
            if cell not in held:
                self._study.enqueue_trial({}, user_attrs={"arm": cell.arm, "seed": cell.seed})

    @contextmanager
    def take(self) -> Iterator[Cell | None]:
        """The next cell that waits, or ``None``; an error inside is told to the queue, and goes on."""
        import optuna

        with warnings.catch_warnings():
            # The signs of life are given below, as Study.optimize would give them.
            warnings.filterwarnings("ignore", message="Heartbeat of storage")
            trial = self._study.ask()
        cell = _cell(trial.user_attrs)
        if cell is None:  # another worker was faster, and Optuna made up an empty one
            self._study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            yield None
            return
        trial.set_user_attr("host", socket.gethostname())
        try:
            with self._alive(trial):
                yield cell
        except BaseException as error:
            trial.set_user_attr("error", str(error) if isinstance(error, LimbeckError) else reason(error))
            self._study.tell(trial, state=optuna.trial.TrialState.FAIL, skip_if_finished=True)
            raise
        self._study.tell(trial, 0.0, skip_if_finished=True)

    def waiting(self) -> int:
        """How many cells wait."""
        return sum(trial.state.name == "WAITING" for trial, _ in self._trials())

    def states(self) -> dict[Cell, tuple[str, str | None]]:
        """What is known of each cell: ``waiting``, ``running``, ``done`` or ``failed``, and then why."""
        words = {"WAITING": "waiting", "RUNNING": "running", "COMPLETE": "done", "FAIL": "failed"}
        return {cell: (words[trial.state.name], trial.user_attrs.get("error")) for trial, cell in self._trials()}

    def shared(self, key: str, make: Any) -> Any:
        """A value that all workers have alike: what the first of them made."""
        if key not in self._study.user_attrs:
            self._study.set_user_attr(key, make())
        return self._study.user_attrs[key]

    def _trials(self) -> list[tuple[optuna.trial.FrozenTrial, Cell]]:
        """In the order in which they were put in, so that the last word on a cell comes last."""
        found = []
        for trial in self._study.get_trials(deepcopy=False):
            cell = _cell(trial.user_attrs)
            if cell is not None:
                found.append((trial, cell))
        return found

    def lost(self, cell: Cell) -> bool:
        """Whether the cell counts as worked on, and its worker, one of this machine, is gone."""
        latest = [trial for trial, one in self._trials() if one == cell][-1:]
        return bool(latest) and latest[0].state.name == "RUNNING" and self._left(latest[0], cell)

    def _left(self, trial: optuna.trial.FrozenTrial, cell: Cell) -> bool:
        """Whether the worker was of this machine, and is gone; one that never told its name was cut off at once."""
        host, begun = trial.user_attrs.get("host"), trial.datetime_start
        silent = host is None and begun is not None and (datetime.now() - begun).total_seconds() > _HEARTBEAT
        return (silent or host == socket.gethostname()) and free(self.folder / cell.place)

    @contextmanager
    def _alive(self, trial: optuna.trial.Trial) -> Iterator[None]:
        """Signs of life while the cell is worked on."""
        ended = threading.Event()

        def beat() -> None:
            while not ended.wait(_HEARTBEAT):
                self._storage.record_heartbeat(trial._trial_id)

        self._storage.record_heartbeat(trial._trial_id)
        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def _cell(told: Mapping[str, Any]) -> Cell | None:
    return Cell(str(told["arm"]), int(told["seed"])) if "arm" in told else None


def _opened(url: str, name: str, *, tries: int = 5) -> tuple[Any, Any]:
    """The storage and the study in it; two workers that make the tables at one moment stand in each other's way."""
    import optuna

    for left in reversed(range(tries)):
        try:
            storage = optuna.storages.RDBStorage(url, heartbeat_interval=_HEARTBEAT, grace_period=_GRACE)
            return storage, optuna.create_study(storage=storage, study_name=name, load_if_exists=True)
        except Exception as error:  # SQLAlchemy and each database's driver have errors of their own
            if not left:
                raise LimbeckError(
                    f"the queue {_shown(url)} could not be opened ({reason(error)}): give another --storage"
                ) from error
            time.sleep(0.3)
    raise AssertionError("the last try returns or raises")


def _shown(url: str) -> str:
    """A database's URL without its password."""
    return re.sub(r"(?<=://)([^:@/]*):[^@/]*@", r"\1:***@", url)
