"""Caches of teachers' outputs by hand: filling one ahead of all runs, looking at them, checking and removing them."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from limbeck.core.errors import LimbeckError, suggest_names
from limbeck.recipe import Recipe, find_recipe, load_recipe
from limbeck.teachers import CachedTeacher, ExternalTeacher
from limbeck.teachers.cache.cache_registry import CacheEntry, cache_dir, list_caches, remove_cache, verify_cache
from limbeck.workflows._job.job import Job

__all__ = ["populate_cache", "print_caches", "prune_caches", "verify_caches"]

_SECONDS_PER_DAY = 86_400


def populate_cache(
    recipe: Recipe | str | Path, overrides: Sequence[str] = (), *, batch_size: int = 256
) -> list[CachedTeacher]:
    """Compute the outputs of the teachers of ``recipe`` for every view of every training image, and keep them.

    What is there already is not computed again.

    Arguments:
        recipe: a recipe with ``cache``, its file, or the name of one that comes with limbeck.
        overrides: ``key=value`` settings laid over a file.
        batch_size: images in one forward pass.

    Under ``torchrun`` each process computes its share; on several machines, let them share the cache's folder.
    """
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(find_recipe(recipe), overrides)
    if recipe.cache is None:
        raise LimbeckError("the recipe keeps no teacher outputs: add cache: {} to it, or cache.top_k=10 to the command")
    if batch_size < 1:
        raise LimbeckError(f"a batch has at least 1 image, not {batch_size}")
    job = Job.from_recipe(recipe, Path("runs") / recipe.name)
    teachers = {name: job.build_teacher(name) for name in recipe.teachers}
    for name, network in teachers.items():
        if recipe.teachers[name].weights is None and not isinstance(network, ExternalTeacher):
            raise LimbeckError(
                f"teachers.{name} has no weights yet: `limbeck distill` trains it and fills the cache while it "
                "trains the student; or give weights, a file or a run folder"
            )
    rank, world_size = (int(os.environ.get(name, default)) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
    caches = job.open_caches(job.build_student(), teachers)
    for name, cached in caches:
        _populate_with_progress(job, name, cached, batch_size=batch_size, rank=rank, world_size=world_size)
    return [cached for _, cached in caches]


def print_caches(root: str | Path | None = None) -> list[CacheEntry]:
    """Print every cache there is, the one used last first."""
    entries = list_caches(root)
    if not entries:
        _print(f"there is no cache in {cache_dir(root)}")
    for entry in entries:
        config, shape = (
            entry.metadata["layout"]["config"],
            f"{entry.metadata['num_samples']:,} samples × {entry.metadata['num_views']} views",
        )
        top_k_text = "all logits" if config["top_k"] is None else f"top {config['top_k']}, {config['tail']}"
        feature_names = [field["name"] for field in entry.metadata["layout"]["fields"] if field["name"] != "logits"]
        _print(
            f"{entry.folder.name}  {entry.metadata['teacher']}: {shape}, "
            f"{', '.join([top_k_text, config['dtype'], *feature_names])}; "
            f"{entry.num_bytes / 1e6:,.1f} MB, {'complete' if entry.complete else 'not complete'}, used "
            f"{_format_age(entry.last_used)}"
        )
    return entries


def verify_caches(keys: Sequence[str] = (), root: str | Path | None = None) -> None:
    """Read every record of these caches (all, where none is named) and check it; an error where one is damaged."""
    damaged_keys = []
    for entry in _select_entries(keys, root):
        total_damaged = total_missing = total_changed = 0
        for path, num_damaged, num_missing, is_unchanged in verify_cache(entry):
            total_damaged, total_missing, total_changed = (
                total_damaged + num_damaged,
                total_missing + num_missing,
                total_changed + (not is_unchanged),
            )
            if num_damaged or not is_unchanged or (num_missing and entry.complete):
                _print(f"{path}: {num_damaged} damaged, {num_missing} missing")
        is_damaged = total_damaged or total_changed or (total_missing and entry.complete)
        damaged_keys += [entry.folder.name] if is_damaged else []
        state = f"{total_damaged} damaged, {total_missing} missing" if is_damaged else "sound"
        _print(
            f"{entry.folder.name}: "
            f"{state}{'' if entry.complete or is_damaged else f', {total_missing:,} still to be computed'}"
        )
    if damaged_keys:
        raise LimbeckError(
            f"damaged: {', '.join(damaged_keys)}; the next run that reads one computes what was damaged again, and "
            "so does "
            "`limbeck cache fill`"
        )


def prune_caches(
    keys: Sequence[str] = (),
    *,
    older_than: float | None = None,
    all_caches: bool = False,
    root: str | Path | None = None,
) -> None:
    """Remove the caches named, those not used for ``older_than`` days, or all."""
    if sum((bool(keys), older_than is not None, all_caches)) != 1:
        raise LimbeckError("say what to remove: keys, --older-than DAYS, or --all, one of the three")
    entries = _select_entries(keys, root)
    if older_than is not None:
        entries = [entry for entry in entries if time.time() - entry.last_used > older_than * _SECONDS_PER_DAY]
    for entry in entries:
        remove_cache(entry)
        _print(f"removed {entry.folder.name} ({entry.num_bytes / 1e6:,.1f} MB)")
    if not entries:
        _print("nothing to remove")


def _populate_with_progress(
    job: Job, name: str, cached: CachedTeacher, *, batch_size: int, rank: int, world_size: int
) -> None:
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), disable=rank > 0) as bar:
        task = bar.add_task(f"running {name}", total=cached.num_entries)
        for num_done, _ in cached.populate(job.task, batch_size=batch_size, rank=rank, world_size=world_size):
            bar.update(task, completed=num_done)
    stats = cached.stats()
    _print(
        f"{name}: {stats['misses']:,} outputs computed, {cached.num_entries - stats['misses']:,} cached before; "
        f"{stats['bytes'] / 1e6:,.1f} MB in {stats['folder']}"
    )


def _select_entries(keys: Sequence[str], root: str | Path | None) -> list[CacheEntry]:
    entries = list_caches(root)
    for key in keys:
        if not any(entry.folder.name.startswith(key) for entry in entries):
            names = [entry.folder.name for entry in entries]
            raise LimbeckError(
                f"there is no cache {key!r} in {cache_dir(root)}; there are: {suggest_names(key, names)}"
            )
    return [entry for entry in entries if not keys or any(entry.folder.name.startswith(key) for key in keys)]


def _format_age(timestamp: float) -> str:
    days = (time.time() - timestamp) / _SECONDS_PER_DAY
    return "today" if days < 1 else f"{days:.0f} days ago"


def _print(text: str) -> None:
    print(text, flush=True)  # noqa: T201
