"""Workers of a study: in this process or in several, each takes trials until none waits."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from limbeck.core.errors import LimbeckError, StoppedBySignal
from limbeck.core.roles import Role
from limbeck.recipe import Recipe
from limbeck.recipe.schema import to_plain, validate
from limbeck.report.record_io import parse_record
from limbeck.training.callbacks import Callback
from limbeck.training.checkpoint import TrainingInterrupted
from limbeck.training.progress_bar import ProgressBar
from limbeck.utils.console import print_text
from limbeck.utils.durations import format_duration
from limbeck.workflows._job.data_cache import DataCache
from limbeck.workflows.study.results import write_study
from limbeck.workflows.study.trial import run_trial
from limbeck.workflows.study.trials import Trial, claim_trial, estimate_seconds_left, list_trials, read_states
from limbeck.workflows.study.variants import StudyContext, make_trial_recipe, make_variants

__all__ = ["run_workers"]

_SHUTDOWN_TIMEOUT = 30.0
"""Seconds for a worker to save and stop after Ctrl-C or SIGHUP."""


def run_workers(
    recipe: Recipe,
    context: StudyContext,
    jobs: int,
    callbacks: Sequence[Callback] | None,
    data_cache: DataCache,
) -> None:
    """Train every trial that waits: in this process, with the data of ``data_cache``, or in ``jobs`` processes."""
    if jobs == 1:
        return _run_trials(recipe, context, 0, callbacks, data_cache)
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=_run_worker, args=(to_plain(recipe), context, jobs)) for _ in range(jobs)]
    previous_handler = signal.getsignal(signal.SIGTERM)
    if previous_handler == signal.SIG_DFL:  # so that the workers are ended too; the command line has its own handler
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    except (KeyboardInterrupt, StoppedBySignal) as stop:
        # Ctrl-C, and the end of a terminal, reached the workers too: a second signal would kill them before they saved.
        if getattr(stop, "signal", None) != signal.SIGTERM:
            for worker in workers:
                worker.join(_SHUTDOWN_TIMEOUT)
        raise
    finally:
        running_workers = [worker for worker in workers if worker.is_alive()]
        for worker in running_workers:
            worker.terminate()
        for worker in running_workers:
            worker.join()
        signal.signal(signal.SIGTERM, previous_handler)
    exit_codes = [worker.exitcode for worker in workers if worker.exitcode]
    if exit_codes:
        raise LimbeckError(
            f"{len(exit_codes)} of {jobs} workers ended early (status {exit_codes[0]}); finished trials are kept: "
            f"--resume --out {context.study_dir} continues"
        )
    return None


def _run_worker(recipe_dict: dict[str, Any], context: StudyContext, jobs: int) -> None:
    import torch

    recipe = validate(Recipe, recipe_dict)
    if recipe.num_threads is None:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // jobs))
    for signum in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(signum) == signal.SIG_DFL:
            signal.signal(signum, lambda number, _: sys.exit(128 + number))
    try:
        _run_trials(recipe, context, jobs - 1, None, DataCache())
    except (TrainingInterrupted, KeyboardInterrupt):
        sys.exit(130)
    except LimbeckError:  # printed already
        sys.exit(2)


def _run_trials(
    recipe: Recipe,
    context: StudyContext,
    num_other_workers: int,
    callbacks: Sequence[Callback] | None,
    data_cache: DataCache,
) -> None:
    """Take trials until none waits; after one that fails, the next."""
    variants, trials = make_variants(recipe), list_trials(recipe)
    # A student waits for the teacher of its seed, which another worker may be training.
    teachers = {
        trial: Trial("teacher", trial.seed)
        for trial in trials
        if recipe.teachers and variants[trial.variant].uses_teachers
    }
    while True:
        states = read_states(context.study_dir, trials)
        waiting = [trial for trial in trials if states[trial][0] == "waiting"]
        ready = [
            trial for trial in waiting if trial not in teachers or states[teachers[trial]][0] in ("done", "failed")
        ]
        if not waiting:
            return
        if not ready:
            time.sleep(0.5)
            continue
        start_time = time.monotonic()
        trial = None
        try:
            with claim_trial(context.study_dir, ready) as trial:
                if trial is None:
                    continue
                if trial in teachers and states[teachers[trial]][0] == "failed":
                    raise LimbeckError(f"the teacher of seed {trial.seed} failed: {states[teachers[trial]][1]}")
                variant = variants[trial.variant]
                record = run_trial(
                    make_trial_recipe(recipe, variant, trial.seed, context),
                    variant,
                    context.study_dir / trial.path,
                    study_name=recipe.name,
                    num_other_workers=num_other_workers,
                    callbacks=_make_callbacks(trial, trials, num_other_workers) if callbacks is None else callbacks,
                    data_cache=data_cache,
                )
        except TrainingInterrupted:
            raise
        except LimbeckError as error:
            print_text(f"failed: {error}")
            # Without its error file, as on a full disk, the trial would be taken again and again.
            if trial is None or read_states(context.study_dir, [trial])[trial][0] == "waiting":
                raise
        except Exception:  # user code can raise anything; the trial keeps the message and the traceback
            if trial is None:
                raise
            print_text(f"failed: {read_states(context.study_dir, [trial])[trial][1]}")
        else:
            result, seconds = _format_result(record), time.monotonic() - start_time
            progress = _format_progress(write_study(recipe, context)["trials"], num_other_workers + 1)
            print_text(f"{trial.variant}, seed {trial.seed}: {result} ({seconds:.0f} s) · {progress}")


def _make_callbacks(trial: Trial, trials: Sequence[Trial], num_other_workers: int) -> list[Callback]:
    """A bar with the number of the trial; lines where several workers share the terminal."""
    prefix = f"trial {trials.index(trial) + 1}/{len(trials)}, seed {trial.seed}, "
    return [ProgressBar(prefix=prefix, display="lines" if num_other_workers else "auto")]


def _format_result(record: Mapping[str, Any]) -> str:
    """The best primary metric of the models of a trial."""
    models = [model for model in record["models"].values() if model["role"] != Role.ASSISTANT]
    metric = parse_record(record).primary_spec
    values = [model["test"]["metrics"][metric.name] for model in models]
    best = max((value for value in values if value is not None), key=lambda x: metric.sign * x, default=None)
    return replace(metric, digits=metric.digits + 1).format(best)


def _format_progress(trials: Sequence[Mapping[str, Any]], num_workers: int) -> str:
    """The number of finished trials, and the time left.

    >>> trials = [{"variant": "kd", "state": state, "seconds": s} for state, s in (("done", 60.0), ("waiting", None))]
    >>> _format_progress(trials, 1), _format_progress(trials[:1], 1)
    ('1 of 2 trials, about 60 s left', '1 of 1 trials')
    """
    num_done = sum(trial["state"] == "done" for trial in trials)
    seconds_left = estimate_seconds_left(trials, num_workers=num_workers)
    time_text = f", about {format_duration(seconds_left)} left" if seconds_left else ""
    return f"{num_done} of {len(trials)} trials{time_text}"
