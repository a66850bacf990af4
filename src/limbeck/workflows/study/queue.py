"""The trials of a study that wait, in Optuna's storage (https://optuna.readthedocs.io): who takes one has it alone.

A trial is an Optuna trial that was put in the queue. Several processes, and several machines that name one database,
take from the same queue. Whoever works on a trial gives a sign of life; a trial whose worker is gone is put in the
queue again.
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

from limbeck.core.errors import LimbeckError, format_root_cause
from limbeck.recipe import Recipe
from limbeck.workflows._job.run_dir import is_unlocked, lock_folder

if TYPE_CHECKING:
    import optuna

__all__ = ["Trial", "TrialQueue"]

_HEARTBEAT_SECONDS, _GRACE_SECONDS = 60, 600
"""Seconds between signs of life, and without any until a trial is taken from its worker."""


@final
@dataclass(frozen=True, slots=True, order=True)
class Trial:
    """One variant with one seed."""

    variant: str
    seed: int

    @property
    def path(self) -> str:
        """Its folder within that of the study."""
        return f"trials/{self.variant}/{self.seed}"


@final
class TrialQueue:
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
        self.study_dir = folder
        url = url or f"sqlite:///{(folder / 'queue.db').resolve()}"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._storage, self._study = _open_study(url, name)

    @classmethod
    def from_recipe(cls, recipe: Recipe, folder: Path, url: str | None) -> TrialQueue:
        """The queue of a recipe's study; its name stands in ``folder``, which machines mount at other paths."""
        path = folder / "queue.name"
        if not path.exists():
            with suppress(FileExistsError), path.open("x") as file:
                file.write(f"{recipe.name} {uuid.uuid4().hex}")
        return cls(folder, url=url, name=path.read_text())

    def enqueue(self, trials: Iterable[Trial]) -> None:
        """Put every trial in the queue that neither waits there nor is worked on; those of lost workers again."""
        with lock_folder(self.study_dir / "trials", timeout=60):
            self._enqueue(trials)

    def _enqueue(self, trials: Iterable[Trial]) -> None:
        import optuna

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            optuna.storages.fail_stale_trials(self._study)
        active_trials = set[Trial]()
        for optuna_trial, trial in self._optuna_trials():
            if optuna_trial.state.name == "RUNNING" and self._is_worker_gone(optuna_trial, trial):
                self._study.tell(optuna_trial.number, state=optuna.trial.TrialState.FAIL, skip_if_finished=True)
            elif optuna_trial.state.name in ("RUNNING", "WAITING"):
                active_trials.add(trial)
        for trial in trials:
            if trial not in active_trials:
                self._study.enqueue_trial({}, user_attrs={"variant": trial.variant, "seed": trial.seed})

    @contextmanager
    def claim(self) -> Iterator[Trial | None]:
        """The next trial that waits, or ``None``; an error inside is told to the queue, and goes on."""
        import optuna

        with warnings.catch_warnings():
            # The signs of life are given below, as Study.optimize would give them.
            warnings.filterwarnings("ignore", message="Heartbeat of storage")
            optuna_trial = self._study.ask()
        trial = _parse_trial(optuna_trial.user_attrs)
        if trial is None:  # another worker was faster, and Optuna made up an empty one
            self._study.tell(optuna_trial, state=optuna.trial.TrialState.PRUNED)
            yield None
            return
        optuna_trial.set_user_attr("host", socket.gethostname())
        try:
            with self._send_heartbeats(optuna_trial):
                yield trial
        except BaseException as error:
            optuna_trial.set_user_attr(
                "error", str(error) if isinstance(error, LimbeckError) else format_root_cause(error)
            )
            self._study.tell(optuna_trial, state=optuna.trial.TrialState.FAIL, skip_if_finished=True)
            raise
        self._study.tell(optuna_trial, 0.0, skip_if_finished=True)

    def num_waiting(self) -> int:
        """How many trials wait."""
        return sum(optuna_trial.state.name == "WAITING" for optuna_trial, _ in self._optuna_trials())

    def states(self) -> dict[Trial, tuple[str, str | None]]:
        """What is known of each trial: ``waiting``, ``running``, ``done`` or ``failed``, and then why."""
        state_names = {"WAITING": "waiting", "RUNNING": "running", "COMPLETE": "done", "FAIL": "failed"}
        return {
            trial: (state_names[optuna_trial.state.name], optuna_trial.user_attrs.get("error"))
            for optuna_trial, trial in self._optuna_trials()
        }

    def get_or_compute(self, key: str, compute: Any) -> Any:
        """A value that all workers have alike: what the first of them made."""
        if key not in self._study.user_attrs:
            self._study.set_user_attr(key, compute())
        return self._study.user_attrs[key]

    def _optuna_trials(self) -> list[tuple[optuna.trial.FrozenTrial, Trial]]:
        """In the order in which they were put in, so that the last word on a trial comes last."""
        trial_pairs = []
        for optuna_trial in self._study.get_trials(deepcopy=False):
            trial = _parse_trial(optuna_trial.user_attrs)
            if trial is not None:
                trial_pairs.append((optuna_trial, trial))
        return trial_pairs

    def is_abandoned(self, trial: Trial) -> bool:
        """Whether the trial counts as worked on, and its worker, one of this machine, is gone."""
        latest = [optuna_trial for optuna_trial, queued_trial in self._optuna_trials() if queued_trial == trial][-1:]
        return bool(latest) and latest[0].state.name == "RUNNING" and self._is_worker_gone(latest[0], trial)

    def _is_worker_gone(self, optuna_trial: optuna.trial.FrozenTrial, trial: Trial) -> bool:
        """Whether the worker was of this machine, and is gone; one that never told its name was cut off at once."""
        host, start_time = optuna_trial.user_attrs.get("host"), optuna_trial.datetime_start
        never_reported = (
            host is None
            and start_time is not None
            and (datetime.now() - start_time).total_seconds() > _HEARTBEAT_SECONDS
        )
        return (never_reported or host == socket.gethostname()) and is_unlocked(self.study_dir / trial.path)

    @contextmanager
    def _send_heartbeats(self, optuna_trial: optuna.trial.Trial) -> Iterator[None]:
        """Signs of life while the trial is worked on."""
        stop_event = threading.Event()

        def send_heartbeats() -> None:
            while not stop_event.wait(_HEARTBEAT_SECONDS):
                self._storage.record_heartbeat(optuna_trial._trial_id)

        self._storage.record_heartbeat(optuna_trial._trial_id)
        thread = threading.Thread(target=send_heartbeats, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop_event.set()
            thread.join()


def _parse_trial(user_attrs: Mapping[str, Any]) -> Trial | None:
    return Trial(str(user_attrs["variant"]), int(user_attrs["seed"])) if "variant" in user_attrs else None


def _open_study(url: str, name: str, *, max_attempts: int = 5) -> tuple[Any, Any]:
    """The storage and the study in it; two workers that make the tables at one moment stand in each other's way."""
    import optuna

    for attempts_left in reversed(range(max_attempts)):
        try:
            storage = optuna.storages.RDBStorage(
                url, heartbeat_interval=_HEARTBEAT_SECONDS, grace_period=_GRACE_SECONDS
            )
            return storage, optuna.create_study(storage=storage, study_name=name, load_if_exists=True)
        except Exception as error:  # SQLAlchemy and each database's driver have errors of their own
            if not attempts_left:
                raise LimbeckError(
                    f"the queue {_mask_password(url)} could not be opened ({format_root_cause(error)}): give "
                    "another --storage"
                ) from error
            time.sleep(0.3)
    raise AssertionError("the last try returns or raises")


def _mask_password(url: str) -> str:
    """A database's URL without its password."""
    return re.sub(r"(?<=://)([^:@/]*):[^@/]*@", r"\1:***@", url)
