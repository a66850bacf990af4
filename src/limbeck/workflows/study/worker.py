"""Working on a study's queue: here, or in so many processes, until no trial waits."""

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
from limbeck.core.roles import Role
from limbeck.recipe import Recipe
from limbeck.recipe.schema import to_plain, validate
from limbeck.training.callbacks import Callback
from limbeck.training.checkpoint import TrainingInterrupted
from limbeck.workflows._job.data_cache import DataCache
from limbeck.workflows.study.queue import Trial, TrialQueue
from limbeck.workflows.study.study_state import is_done, write_study
from limbeck.workflows.study.trial import run_trial
from limbeck.workflows.study.variants import StudyContext, Variant, make_trial_recipe, make_variants

__all__ = ["run_workers"]

_SHUTDOWN_TIMEOUT = 30.0
"""Seconds for a worker to save and stop after Ctrl-C."""
_MAX_MISSED_CHECKS = 10
"""How often, half a second apart, a worker has to be seen gone: between claiming a trial and its lock are moments."""


def run_workers(
    recipe: Recipe,
    context: StudyContext,
    storage: str | None,
    jobs: int,
    callbacks: Sequence[Callback] | None,
    data_cache: DataCache,
) -> None:
    """Work on the queue until it is empty: here, with what ``data_cache`` holds already, or in so many processes."""
    if jobs == 1:
        return _run_trials(recipe, context, storage, 0, callbacks, data_cache)
    mp_context = multiprocessing.get_context("spawn")
    workers = [
        mp_context.Process(target=_run_worker, args=(to_plain(recipe), context, storage, jobs), name=f"worker {index}")
        for index in range(jobs)
    ]
    previous_handler = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the workers are ended too
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    except KeyboardInterrupt:
        # Ctrl-C reached the workers as well, and a second signal would kill them before they have saved.
        for worker in workers:
            worker.join(_SHUTDOWN_TIMEOUT)
        raise
    finally:
        _stop_workers([worker for worker in workers if worker.is_alive()])
        signal.signal(signal.SIGTERM, previous_handler)
    exit_codes = [worker.exitcode for worker in workers if worker.exitcode]
    if exit_codes:
        raise LimbeckError(
            f"{len(exit_codes)} of {jobs} workers ended early (status {exit_codes[0]}); what was finished is kept: "
            f"--resume --out {context.study_dir} goes on"
        )
    return None


def _stop_workers(workers: Sequence[Any]) -> None:
    """Ask each to save and stop, and wait for it."""
    for worker in workers:
        if worker.is_alive():
            worker.terminate()
    for worker in workers:
        worker.join()


def _run_worker(recipe: dict[str, Any], context: StudyContext, storage: str | None, jobs: int) -> None:
    """One of several processes; what went wrong with a trial is in the queue."""
    import torch

    worker_recipe = validate(Recipe, recipe)
    if worker_recipe.num_threads is None:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // jobs))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        _run_trials(worker_recipe, context, storage, jobs - 1, (), DataCache())
    except (TrainingInterrupted, KeyboardInterrupt):
        sys.exit(130)


def _run_trials(
    recipe: Recipe,
    context: StudyContext,
    storage: str | None,
    num_other_workers: int,
    callbacks: Sequence[Callback] | None,
    data_cache: DataCache,
) -> None:
    """Take trials until none waits; one that fails leaves the others be."""
    variants, queue = make_variants(recipe), TrialQueue.from_recipe(recipe, context.study_dir, storage)
    while queue.num_waiting():
        start_time = time.monotonic()
        try:
            with queue.claim() as trial:
                if trial is None or trial.variant not in variants or is_done(context.study_dir, trial):
                    continue
                record = _run_queued_trial(
                    recipe,
                    variants[trial.variant],
                    trial.seed,
                    context,
                    queue,
                    num_other_workers,
                    callbacks,
                    data_cache,
                )
        except TrainingInterrupted:
            raise
        except LimbeckError as error:
            _print(f"failed: {error}")
            continue
        except Exception:  # a user's own code can raise anything; the queue has its reason, and here is the way to it
            traceback.print_exc()
            continue
        accuracies = [
            model["test"]["metrics"]["accuracy"]
            for model in record["models"].values()
            if model["role"] != Role.ASSISTANT
        ]
        _print(
            f"{trial.variant}, seed {trial.seed}: {100 * max(accuracies):.2f} % ({time.monotonic() - start_time:.0f} s)"
        )
        write_study(recipe, queue, context)


def _run_queued_trial(
    recipe: Recipe,
    variant: Variant,
    seed: int,
    context: StudyContext,
    queue: TrialQueue,
    num_other_workers: int,
    callbacks: Sequence[Callback] | None,
    data_cache: DataCache,
) -> dict[str, Any]:
    if variant.uses_teachers and recipe.teachers:
        _wait_for_teacher(seed, context.study_dir, queue)
    trial_recipe = make_trial_recipe(recipe, variant, seed, context)
    return run_trial(
        trial_recipe,
        variant,
        context.study_dir / Trial(variant.name, seed).path,
        study_name=recipe.name,
        num_other_workers=num_other_workers,
        callbacks=callbacks,
        data_cache=data_cache,
    )


def _wait_for_teacher(seed: int, folder: Path, queue: TrialQueue) -> None:
    """Another worker may be training it."""
    trial, num_missed_checks = Trial("teacher", seed), 0
    while not is_done(folder, trial):
        state, error = queue.states().get(trial, ("failed", "it was never in the queue"))
        if state == "failed":
            raise LimbeckError(f"the teacher of seed {seed} failed, so nobody can learn from it: {error}")
        num_missed_checks = num_missed_checks + 1 if queue.is_abandoned(trial) else 0
        if num_missed_checks >= _MAX_MISSED_CHECKS:
            raise LimbeckError(f"whoever trained the teacher of seed {seed} is gone, so nobody can learn from it yet")
        time.sleep(0.5)


def _print(text: str) -> None:
    print(text, flush=True)  # noqa: T201
