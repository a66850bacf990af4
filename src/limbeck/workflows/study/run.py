"""``limbeck study``: variants and matched baselines of one recipe, each with several seeds.

Every trial is a run folder, ``trials/VARIANT/SEED``. Workers of this process, of other processes and of other machines
with the same folder take trials by their locks; a finished trial is never trained again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.core.limits import MAX_PROCESSES
from limbeck.core.progress import Progress
from limbeck.recipe import Recipe, fill_defaults, find_recipe, load_recipe, to_yaml
from limbeck.recipe.schema import to_plain, validate
from limbeck.recipe.study_schema import Study
from limbeck.report.compare.compare_page import render_compare_page
from limbeck.report.terminal import render_compare_table
from limbeck.training import make_fabric
from limbeck.training.callbacks import Callback
from limbeck.training.checkpoint import TrainingInterrupted
from limbeck.training.convert_precision import to_precision
from limbeck.training.distributed import get_launched_world_size
from limbeck.training.fit import get_batches
from limbeck.training.optimizers import make_optimizer
from limbeck.utils.console import print_text
from limbeck.utils.io import write_text
from limbeck.utils.settings import TrainingSettings
from limbeck.utils.timing import measure_latencies
from limbeck.workflows._job.data_cache import DataCache
from limbeck.workflows._job.job import Job
from limbeck.workflows._job.run_dir import choose_run_dir, lock_folder
from limbeck.workflows.compare.load_runs import read_study
from limbeck.workflows.compare.run import build_comparison
from limbeck.workflows.study.results import write_study
from limbeck.workflows.study.trials import list_trials, read_states, retry_failed
from limbeck.workflows.study.variants import StudyContext, Variant, dry_run_recipe, make_variants
from limbeck.workflows.study.worker import run_workers

__all__ = ["study"]

_MAX_CACHE_BYTES = 4 * 2**30
"""Largest cache that is made for the variants to share where the recipe has none."""


def study(
    recipe: Recipe | str | Path,
    overrides: Sequence[str] = (),
    *,
    seeds: int | Sequence[int] | None = None,
    jobs: int = 1,
    output_dir: str | Path | None = None,
    resume: bool = False,
    callbacks: Sequence[Callback] | None = None,
) -> dict[str, Any]:
    """Train every missing trial of a study, and return what ``study.json`` holds.

    Args:
        recipe: a recipe, its file, or the name of one that comes with limbeck; its ``study`` names seeds and variants.
        overrides: ``key=value`` settings that replace those of the file.
        seeds: how many, or which, in place of the recipe's.
        jobs: processes on this machine.
        output_dir: the folder; ``None``: ``runs/NAME-study``, numbered if taken.
        resume: continue the study in that folder; new seeds and variants are added, failed trials are trained again.
        callbacks: of each training; ``None``: a progress bar with one job.

    Raises:
        LimbeckError: a trial failed (the others are finished first), or an error of a run.
    """
    if not 1 <= jobs <= MAX_PROCESSES:
        raise LimbeckError(f"--jobs must be from 1 to {MAX_PROCESSES}, got {jobs}")
    if get_launched_world_size() > 1:
        raise LimbeckError("a study starts its own processes: start it without torchrun, with --jobs")
    recipe = _load_study_recipe(recipe, overrides, seeds)
    folder, data_cache = _resolve_study_dir(recipe, output_dir, resume=resume), DataCache()
    variants, trials = make_variants(recipe), list_trials(recipe)
    _validate_variants(recipe, variants, folder, data_cache)
    write_text(folder / "recipe.yaml", to_yaml(recipe))
    retry_failed(folder, trials)
    context = _load_or_make_context(recipe, variants, folder, data_cache)
    num_waiting = [state for state, _ in read_states(folder, trials).values()].count("waiting")
    num_seeds = len(trials) // len(variants)
    print_text(f"{recipe.name}: {len(variants)} variants x {num_seeds} seeds, {num_waiting} to run")
    try:
        run_workers(recipe, context, jobs, callbacks, data_cache)
    except TrainingInterrupted as interruption:
        interruption.args = (f"stopped: the work is saved; limbeck study … --resume --out {folder} continues",)
        raise
    finally:
        summary = write_study(recipe, context)
    comparison = build_comparison([folder])
    page = write_text(folder / "compare.html", render_compare_page(comparison))
    print_text("\n".join([render_compare_table(comparison), comparison.rule, str(page.resolve())]))
    failed = [trial for trial in summary["trials"] if trial["state"] == "failed"]
    if failed:
        raise LimbeckError(
            f"{len(failed)} of {len(trials)} trials failed, the first {failed[0]['variant']} with seed "
            f"{failed[0]['seed']}: {failed[0]['error']}; --resume --out {folder} tries them again"
        )
    return summary


def _load_study_recipe(
    recipe: Recipe | str | Path, overrides: Sequence[str], seeds: int | Sequence[int] | None
) -> Recipe:
    """The recipe with a ``study``, and with ``seeds`` in it."""
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(find_recipe(recipe), overrides)
    study_dict = to_plain(recipe.study or Study())
    if seeds is not None:
        study_dict["seeds"] = seeds if isinstance(seeds, int) else list(seeds)
    return validate(Recipe, to_plain(recipe) | {"study": study_dict})


def _resolve_study_dir(recipe: Recipe, output_dir: str | Path | None, *, resume: bool) -> Path:
    """The folder; one with a study is continued only with ``resume``, and only with the same recipe."""
    folder = choose_run_dir(f"{recipe.name}-study", output_dir, resume=resume)
    if resume:
        old_recipe = load_recipe(folder / "recipe.yaml")
        old, new = (to_plain(fill_defaults(loaded)) | {"study": None} for loaded in (old_recipe, recipe))
        if changed_keys := [key for key in new if old.get(key) != new[key]]:
            raise LimbeckError(
                f"{folder} was begun with another recipe ({', '.join(changed_keys)} changed): only variants and seeds "
                "can be added to a study, so resume with the settings it was begun with, or give another --out"
            )
        _require_same_variants(old_recipe, recipe, folder)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _require_same_variants(old: Recipe, new: Recipe, folder: Path) -> None:
    """Refuse a variant that has finished trials with other settings."""
    old_variants, new_variants = make_variants(old), make_variants(new)
    for name in old_variants.keys() & new_variants.keys():
        if any((folder / "trials" / name).glob("*/record.json")):
            old_dict, new_dict = (
                to_plain(fill_defaults(dry_run_recipe(recipe, variant, folder)))
                for recipe, variant in ((old, old_variants[name]), (new, new_variants[name]))
            )
            if old_dict != new_dict:
                raise LimbeckError(
                    f"the variant {name!r} has finished trials and is another now: give it another name, or remove "
                    f"{folder / 'trials' / name} to train it anew"
                )


def _validate_variants(recipe: Recipe, variants: Mapping[str, Variant], folder: Path, data_cache: DataCache) -> None:
    """Refuse an error in any variant before the first one is trained."""
    for variant in variants.values():
        try:
            _dry_run_job(dry_run_recipe(recipe, variant, folder), folder, data_cache).validate()
        except LimbeckError as error:
            raise LimbeckError(f"the variant {variant.name!r}: {error}") from error


def _dry_run_job(recipe: Recipe, folder: Path, data_cache: DataCache) -> Job:
    return Job.from_recipe(recipe, folder / "dry_run", data_cache=data_cache)


def _load_or_make_context(
    recipe: Recipe, variants: Mapping[str, Variant], folder: Path, data_cache: DataCache
) -> StudyContext:
    """What the trials share: the first command measures it and writes ``study.json``, others wait and read it."""
    job = _dry_run_job(validate(Recipe, to_plain(recipe) | {"study": None}), folder, data_cache)
    path = folder / "study.json"
    with lock_folder(folder, timeout=-1):
        if path.exists():
            summary = read_study(folder)
            if not {"time_ratio", "num_shared_views"} <= summary.keys():
                raise LimbeckError(
                    f"{path} has no time_ratio or num_shared_views: remove it, and --resume measures them"
                )
            context = StudyContext(folder, job.stage_steps(), summary["time_ratio"], summary["num_shared_views"])
        else:
            time_ratio = _measure_time_ratio(job) if recipe.teachers else 1.0
            num_views = _num_shared_views(recipe, variants, job, data_cache)
            context = StudyContext(folder, job.stage_steps(), time_ratio, num_views)
        write_study(recipe, context)
    return context


def _measure_time_ratio(job: Job) -> float:
    """Wall time of the recipe's stages with their teachers, divided by that of the same stages without.

    The steps of both are timed in turns, so that other load slows both alike. Teacher outputs are computed at every
    step or, where the recipe itself has a cache, once for each view; a cache that the study adds and the training of
    the teacher do not count.
    """
    teachers: dict[str, nn.Module] = {
        name: job.build_network(name).eval() for name in job.recipe.training_order()[-1].teachers
    }
    distilled_seconds = baseline_seconds = 0.0
    for stage_index, num_steps in enumerate(job.stage_steps()):
        step, query_teachers = _make_step(job, stage_index, teachers)
        step_without, _ = _make_step(job, stage_index, None)
        calls = {"distilled": step, "query": query_teachers, "baseline": step_without}
        num_threads = torch.get_num_threads()
        timings = measure_latencies(calls, rounds=6, calls_per_round=2, max_seconds=60.0, num_threads=num_threads)
        seconds, query_seconds, seconds_without = (timings[name]["median"] for name in calls)
        saved_by_cache = (1 - _query_fraction(job, num_steps)) * min(query_seconds, seconds - seconds_without)
        distilled_seconds += num_steps * (seconds - max(0.0, saved_by_cache))
        baseline_seconds += num_steps * seconds_without
    return distilled_seconds / baseline_seconds


def _query_fraction(job: Job, num_steps: int) -> float:
    """The fraction of a stage's samples for which teacher outputs are computed: with a cache, each view once."""
    num_views = job.data.augmentation.num_views if job.data.augmentation.transforms else 1
    if job.recipe.cache is None or not num_views:
        return 1.0
    return min(1.0, num_views * len(job.data.train) / (num_steps * _mean_batch_size(job, job.recipe.training)))


def _mean_batch_size(job: Job, training: TrainingSettings) -> float:
    if training.batch_tokens is None:
        return training.batch_size
    return len(job.data.train) / job.data.batches(batch_size=1, batch_tokens=training.batch_tokens).steps_per_epoch


def _make_step(
    job: Job, stage_index: int, teachers: dict[str, nn.Module] | None
) -> tuple[Callable[[], None], Callable[[], None]]:
    """An optimizer step with ``teachers`` or (``None``) of the baseline, and the teacher outputs of one step."""
    distiller, training = job.dry_run_stage(stage_index, teachers)
    stream = get_batches(job.data, training, "all" if distiller.teachers else "labeled")
    fabric = make_fabric(precision=job.plan.stages[stage_index].training.precision)
    batch_indices = count()

    def next_batch() -> Any:
        return to_precision(fabric, stream.batch(next(batch_indices)))

    # The networks of a stage in bf16-true are those of the next one, in float32.
    precision = fabric.strategy.precision
    precision.convert_module(distiller.float().to(fabric.device))
    with precision.forward_context():
        distiller.prepare(next_batch()).train()
    distiller.progress = Progress(step=0, steps=1, total_steps=1)
    optimizer = make_optimizer(distiller, training)

    def step() -> None:
        optimizer.zero_grad()
        with precision.forward_context():
            total: Tensor = distiller(next_batch()).total
        total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if fabric.device.type == "cuda":
            torch.cuda.synchronize(fabric.device)

    def query_teachers() -> None:
        batch = next_batch()
        with precision.forward_context():
            for teacher in distiller.teachers.values():
                teacher.predict(batch, distiller.task)

    return step, query_teachers


def _num_shared_views(recipe: Recipe, variants: Mapping[str, Variant], job: Job, data_cache: DataCache) -> int:
    """Views of a sample in a cache for all variants; 0 without such a cache.

    As many as the longest variant uses, so that each variant trains on the same views as without a cache.
    """
    augmentation, num_views = job.data.augmentation, 0
    if recipe.cache is not None or not recipe.teachers or augmentation.num_views or not augmentation.transforms:
        return 0
    for variant in variants.values():
        if variant.uses_teachers:
            trial_recipe = dry_run_recipe(recipe, variant, job.run_dir)
            trial_job = Job.from_recipe(trial_recipe, job.run_dir, data_cache=data_cache)
            num_samples = {"all": len(job.data.train), "labeled": job.data.num_labeled}
            passes = math.ceil(sum(
                num_steps * _mean_batch_size(trial_job, trial_recipe.stage_training(stage)) / num_samples[stage.subset]
                for num_steps, stage in zip(trial_job.stage_steps(), trial_recipe.stages, strict=True)
            ))  # fmt: skip
            num_views = max(num_views, passes + len(trial_recipe.stages))
    num_bytes = num_views * (4 * len(job.data.class_names) + 12) * len(job.data.train) * len(recipe.teachers)
    return num_views if num_bytes <= _MAX_CACHE_BYTES else 0
