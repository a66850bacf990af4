"""Variants × seeds from one recipe: matched baselines, the recipe, its variants; what is finished is never done again.

Every trial is a run folder of its own under ``trials/VARIANT/SEED``. Workers take trials from one queue, in this
process, in others, and on other machines that share the folder and name the same database.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from limbeck.core.errors import LimbeckError
from limbeck.recipe import Recipe, fill_defaults, find_recipe, load_recipe, to_yaml
from limbeck.recipe.schema import to_plain, validate
from limbeck.recipe.study_schema import Study
from limbeck.report import render_compare_table
from limbeck.report.compare import render_compare_page
from limbeck.training.callbacks import Callback
from limbeck.training.checkpoint import TrainingInterrupted
from limbeck.utils.io import write_atomically
from limbeck.workflows._job.data_cache import DataCache
from limbeck.workflows._job.job import Job
from limbeck.workflows._job.run_dir import RUNS_DIR
from limbeck.workflows.compare.run import build_comparison
from limbeck.workflows.study.equal_time import measure_time_ratio
from limbeck.workflows.study.queue import TrialQueue
from limbeck.workflows.study.study_state import is_done, list_trials, write_study
from limbeck.workflows.study.variants import StudyContext, Variant, make_trial_recipe, make_variants
from limbeck.workflows.study.worker import run_workers

__all__ = ["study"]

_MAX_CACHE_BYTES = 4 * 2**30
"""Bytes up to which a cache that the recipe does not ask for is made, so that its variants share the answers."""


def study(
    recipe: Recipe | str | Path,
    overrides: Sequence[str] = (),
    *,
    seeds: int | Sequence[int] | None = None,
    jobs: int = 1,
    output_dir: Path | None = None,
    resume: bool = False,
    storage: str | None = None,
    callbacks: Sequence[Callback] | None = None,
) -> dict[str, Any]:
    """Run what is missing of a study, and give what ``study.json`` holds.

    Arguments:
        recipe: a recipe, its file, or the name of one that comes with limbeck; its ``study`` names seeds and variants.
        overrides: ``key=value`` settings laid over a file.
        seeds: in place of the recipe's: how many, or which.
        jobs: processes on this machine.
        output_dir: the folder; ``None``: ``runs/NAME-study``, numbered where that is taken.
        resume: go on with the study in that folder; new seeds and new variants join it.
        storage: a database URL that several machines name alike; ``None``: a file in the folder.
        callbacks: who is told how training goes; ``None``: a progress bar where there is one job.

    Raises:
        LimbeckError: a trial failed (all others are finished first), or anything that stops a run.
    """
    if jobs < 1:
        raise LimbeckError(f"--jobs is a number of processes from 1, not {jobs}")
    if int(os.environ.get("WORLD_SIZE") or 1) > 1:
        raise LimbeckError(
            "a study spreads its trials over processes by itself: start it without torchrun, with --jobs"
        )
    recipe = _recipe_with_study(recipe, overrides, seeds)
    variants = make_variants(recipe)
    folder = _resolve_study_dir(recipe, output_dir, resume=resume)
    data_cache = DataCache()
    _validate_variants(recipe, variants, folder, data_cache)
    _write_text(folder / "recipe.yaml", to_yaml(recipe))
    queue = TrialQueue.from_recipe(recipe, folder, storage)
    context = _make_context(recipe, variants, folder, queue, data_cache)
    queue.enqueue([trial for trial in list_trials(recipe) if not is_done(folder, trial)])
    _print(
        f"{recipe.name}: {len(variants)} variants x {len((recipe.study or Study()).seeds)} seeds, "
        f"{queue.num_waiting()} to run"
    )
    write_study(recipe, queue, context)  # so that whoever looks sees a study before its first trial has ended
    try:
        run_workers(recipe, context, storage, jobs, callbacks, data_cache)
    except TrainingInterrupted as interruption:
        interruption.args = (f"stopped: the work is saved; limbeck study … --resume --out {folder} goes on from there",)
        raise
    finally:
        summary = write_study(recipe, queue, context)
    study_comparison = build_comparison([folder])
    _write_text(folder / "compare.html", render_compare_page(study_comparison))
    _print(
        "\n".join(
            [render_compare_table(study_comparison), study_comparison.rule, str((folder / "compare.html").resolve())]
        )
    )
    failed_trials = [trial for trial in summary["trials"] if trial["state"] == "failed"]
    if failed_trials:
        first_failed = failed_trials[0]
        raise LimbeckError(
            f"{len(failed_trials)} of {len(summary['trials'])} trials failed, the first {first_failed['variant']} "
            f"with seed {first_failed['seed']}: "
            f"{first_failed['error']}; --resume --out {folder} tries them again"
        )
    return summary


def _recipe_with_study(
    recipe: Recipe | str | Path, overrides: Sequence[str], seeds: int | Sequence[int] | None
) -> Recipe:
    """The recipe, with its study, and with other seeds where some are given."""
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(find_recipe(recipe), overrides)
    recipe_dict = to_plain(recipe)
    study_dict = recipe_dict["study"] or to_plain(Study())
    if seeds is not None:
        study_dict = {**study_dict, "seeds": seeds if isinstance(seeds, int) else list(seeds)}
    return validate(Recipe, recipe_dict | {"study": study_dict})


def _resolve_study_dir(recipe: Recipe, output_dir: Path | None, *, resume: bool) -> Path:
    """Where the study lives; one that is there is gone on with only when asked to, and only if it is the same."""
    default_dir = RUNS_DIR / f"{recipe.name}-study"
    if output_dir is None and not resume:
        suffix = 1
        while (
            output_dir := default_dir if suffix == 1 else default_dir.with_name(f"{default_dir.name}-{suffix}")
        ).exists():
            suffix += 1
    folder = output_dir or default_dir
    old_recipe_file = folder / "recipe.yaml"
    if resume and not old_recipe_file.exists():
        raise LimbeckError(f"{folder} holds no study to go on with: leave --resume away, or give its --out")
    if not resume and folder.exists() and any(folder.iterdir()):
        raise LimbeckError(f"{folder} is not empty: go on with --resume, or give another --out")
    if resume:
        old, new = (
            to_plain(fill_defaults(loaded_recipe)) | {"study": None}
            for loaded_recipe in (load_recipe(old_recipe_file), recipe)
        )
        if changed_keys := [key for key in new if old.get(key) != new[key]]:
            raise LimbeckError(
                f"{folder} was begun with another recipe ({', '.join(changed_keys)} changed): only variants and "
                "seeds can "
                "join a study, so resume with the settings it was begun with, or give another --out"
            )
        _require_same_variants(load_recipe(old_recipe_file), recipe, folder)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _require_same_variants(old: Recipe, new: Recipe, folder: Path) -> None:
    """Refuse a variant that has finished trials and now means something else: its old figures would be misread."""
    placeholder_context = StudyContext(folder, [1] * len(new.stages), 1.0, 0)
    old_variants, new_variants = make_variants(old), make_variants(new)
    for name in old_variants.keys() & new_variants.keys():
        if any((folder / "trials" / name).glob("*/record.json")):
            recipe_variants = ((old, old_variants[name]), (new, new_variants[name]))
            old_trial_recipe, new_trial_recipe = (
                to_plain(fill_defaults(make_trial_recipe(recipe, variant, 0, placeholder_context)))
                for recipe, variant in recipe_variants
            )
            if old_trial_recipe != new_trial_recipe:
                raise LimbeckError(
                    f"the variant {name!r} has finished trials and is another now: give it another name, or remove "
                    f"{folder / 'trials' / name} to train it anew"
                )


def _validate_variants(recipe: Recipe, variants: Mapping[str, Variant], folder: Path, data_cache: DataCache) -> None:
    """What is wrong with any variant shows before an hour is spent on another one."""
    placeholder_context = StudyContext(folder, [1] * len(recipe.stages), 1.0, 0)
    for variant in variants.values():
        try:
            trial_recipe = make_trial_recipe(recipe, variant, recipe.seed, placeholder_context)
            Job.from_recipe(trial_recipe, folder / "dry_run", data_cache=data_cache).validate()
        except LimbeckError as error:
            raise LimbeckError(f"the variant {variant.name!r}: {error}") from error


def _make_context(
    recipe: Recipe, variants: Mapping[str, Variant], folder: Path, queue: TrialQueue, data_cache: DataCache
) -> StudyContext:
    """What all trials have alike; the first worker of all finds it out."""
    job = Job.from_recipe(
        validate(Recipe, to_plain(recipe) | {"study": None}), folder / "dry_run", data_cache=data_cache
    )
    time_ratio = queue.get_or_compute("time_ratio", lambda: measure_time_ratio(job) if recipe.teachers else 1.0)
    num_views = queue.get_or_compute("num_shared_views", lambda: _num_shared_views(recipe, variants, job, data_cache))
    return StudyContext(folder, job.stage_steps(), float(time_ratio), int(num_views))


def _num_shared_views(recipe: Recipe, variants: Mapping[str, Variant], job: Job, data_cache: DataCache) -> int:
    """How many views of a picture the longest variant shows, if a cache of them all is no burden.

    With as many views as showings, each is fresh, so the pictures are those that the recipe shows without a cache.
    """
    augmentation, num_views = job.data.augmentation, 0
    if recipe.cache is not None or not recipe.teachers or augmentation.num_views or not augmentation.transforms:
        return 0
    for variant in variants.values():
        if variant.uses_teachers:
            trial_recipe = make_trial_recipe(recipe, variant, recipe.seed, StudyContext(job.run_dir, [], 1.0, 0))
            trial_job = Job.from_recipe(trial_recipe, job.run_dir, data_cache=data_cache)
            num_samples_seen = sum(
                num_steps * trial_recipe.stage_training(stage).batch_size
                for num_steps, stage in zip(trial_job.stage_steps(), trial_recipe.stages, strict=True)
            )
            num_views = max(num_views, -(-num_samples_seen // len(job.data.train)) + len(trial_recipe.stages))
    bytes_per_output = 4 * len(job.data.class_names) + 12
    return (
        num_views
        if num_views * bytes_per_output * len(job.data.train) * len(recipe.teachers) <= _MAX_CACHE_BYTES
        else 0
    )


def _write_text(path: Path, text: str) -> None:
    write_atomically(path, lambda partial: partial.write_text(text))


def _print(text: str) -> None:
    print(text, flush=True)  # noqa: T201
