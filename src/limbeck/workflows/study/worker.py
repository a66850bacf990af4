"""Working on a study's queue: here, or in so many processes, until no cell waits."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from limbeck.core.errors import LimbeckError
from limbeck.recipe import Recipe
from limbeck.recipe.schema import plain, validated
from limbeck.training.callbacks import Watcher
from limbeck.training.checkpoint import Stopped
from limbeck.workflows._job.data_cache import Loaded
from limbeck.workflows.study.queue import Cell, Queue
from limbeck.workflows.study.study_state import done, summed
from limbeck.workflows.study.trial import run_cell
from limbeck.workflows.study.variants import Arm, Shared, arms, cell_recipe

__all__ = ["work"]

_PATIENCE = 30.0
"""Seconds for a worker to save and stop after Ctrl-C."""
_LOOKS = 10
"""How often, half a second apart, a worker has to be seen gone: between taking a cell and working on it are moments."""


def work(
    recipe: Recipe, shared: Shared, storage: str | None, jobs: int, watchers: Sequence[Watcher] | None, loaded: Loaded
) -> None:  # fmt: skip
    """Work on the queue until it is empty: here, with what is ``loaded`` already, or in so many processes."""
    if jobs == 1:
        return _take_all(recipe, shared, storage, 0, watchers, loaded)
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=_worker, args=(plain(recipe), shared, storage, jobs), name=f"worker {number}")
        for number in range(jobs)
    ]
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the workers are ended too
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    except KeyboardInterrupt:
        # Ctrl-C reached the workers as well, and a second signal would kill them before they have saved.
        for worker in workers:
            worker.join(_PATIENCE)
        raise
    finally:
        _end([worker for worker in workers if worker.is_alive()])
        signal.signal(signal.SIGTERM, before)
    stopped = [worker.exitcode for worker in workers if worker.exitcode]
    if stopped:
        raise LimbeckError(
            f"{len(stopped)} of {jobs} workers ended early (status {stopped[0]}); what was finished is kept: "
            f"--resume --out {shared.folder} goes on"
        )
    return None


def _end(workers: Sequence[Any]) -> None:
    """Ask each to save and stop, and wait for it."""
    for worker in workers:
        if worker.is_alive():
            worker.terminate()
    for worker in workers:
        worker.join()


def _worker(recipe: dict[str, Any], shared: Shared, storage: str | None, jobs: int) -> None:
    """One of several processes; what went wrong with a cell is in the queue."""
    import torch

    told = validated(Recipe, recipe)
    if told.threads is None:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // jobs))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        _take_all(told, shared, storage, jobs - 1, (), Loaded())
    except (Stopped, KeyboardInterrupt):
        sys.exit(130)


def _take_all(
    recipe: Recipe, shared: Shared, storage: str | None, neighbours: int, watchers: Sequence[Watcher] | None,
    loaded: Loaded,
) -> None:  # fmt: skip
    """Take cells until none waits; one that fails leaves the others be."""
    every, queue = arms(recipe), Queue.of(recipe, shared.folder, storage)
    while queue.waiting():
        begun = time.monotonic()
        try:
            with queue.take() as cell:
                if cell is None or cell.arm not in every or done(shared.folder, cell):
                    continue
                record = _cell(recipe, every[cell.arm], cell.seed, shared, queue, neighbours, watchers, loaded)
        except Stopped:
            raise
        except LimbeckError as error:
            _say(f"failed: {error}")
            continue
        except Exception:  # a user's own code can raise anything; the queue has its reason, and here is the way to it
            traceback.print_exc()
            continue
        tops = [model["test"]["top1"] for model in record["models"].values() if model["role"] != "assistant"]
        _say(f"{cell.arm}, seed {cell.seed}: {100 * max(tops):.2f} % ({time.monotonic() - begun:.0f} s)")
        summed(recipe, queue, shared)


def _cell(
    recipe: Recipe,
    arm: Arm,
    seed: int,
    shared: Shared,
    queue: Queue,
    neighbours: int,
    watchers: Sequence[Watcher] | None,
    loaded: Loaded,
) -> dict[str, Any]:
    if arm.listens and recipe.teachers:
        _await_teacher(seed, shared.folder, queue)
    own = cell_recipe(recipe, arm, seed, shared)
    return run_cell(
        own, arm, shared.folder / Cell(arm.name, seed).place, study=recipe.name, neighbours=neighbours,
        watchers=watchers, loaded=loaded,
    )  # fmt: skip


def _await_teacher(seed: int, folder: Path, queue: Queue) -> None:
    """Another worker may be training it."""
    cell, gone = Cell("teacher", seed), 0
    while not done(folder, cell):
        state, error = queue.states().get(cell, ("failed", "it was never in the queue"))
        if state == "failed":
            raise LimbeckError(f"the teacher of seed {seed} failed, so nobody can learn from it: {error}")
        gone = gone + 1 if queue.lost(cell) else 0
        if gone >= _LOOKS:
            raise LimbeckError(f"whoever trained the teacher of seed {seed} is gone, so nobody can learn from it yet")
        time.sleep(0.5)


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201
