"""``limbeck cache``: fill, list, check and remove caches of teacher outputs."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from limbeck.core.errors import LimbeckError, suggest_names
from limbeck.core.limits import MAX_BATCH_SIZE
from limbeck.recipe import Recipe, find_recipe, load_recipe
from limbeck.teachers import CachedTeacher, ExternalTeacher
from limbeck.teachers.cache.cache_registry import CacheEntry, cache_dir, list_caches, remove_cache, verify_cache
from limbeck.utils.console import print_text
from limbeck.workflows._job.job import Job

__all__ = ["populate_cache", "print_caches", "prune_caches", "verify_caches"]

_SECONDS_PER_DAY = 86_400


def populate_cache(
    recipe: Recipe | str | Path, overrides: Sequence[str] = (), *, batch_size: int = 256
) -> list[CachedTeacher]:
    """Compute and store the outputs of the teachers of ``recipe`` for every view of every training image.

    Outputs that are stored already are not computed again. Under ``torchrun`` each process computes its share; on
    several machines, let them share the folder of the cache.

    Args:
        recipe: a recipe with ``cache``, its file, or the name of one that comes with limbeck.
        overrides: ``key=value`` settings that replace those of a file.
        batch_size: images in one forward pass.
    """
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(find_recipe(recipe), overrides)
    if recipe.cache is None:
        raise LimbeckError("the recipe keeps no teacher outputs: add cache: {} to it, or cache.top_k=10 to the command")
    if not 1 <= batch_size <= MAX_BATCH_SIZE:
        raise LimbeckError(f"--batch-size must be from 1 to {MAX_BATCH_SIZE:,}, got {batch_size}")
    job = Job.from_recipe(recipe, Path("runs") / recipe.name)
    teachers = {name: job.build_teacher(name) for name in recipe.teachers}
    for name, network in teachers.items():
        if recipe.teachers[name].weights is None and not isinstance(network, ExternalTeacher):
            raise LimbeckError(
                f"teachers.{name} has no weights yet: `limbeck distill` trains it and fills the cache while it "
                "trains the student; or give weights, a file or a run folder"
            )
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    caches = job.open_caches(job.build_student(), teachers)
    for name, cached in caches:
        with Progress(console=Console(stderr=True), disable=rank > 0) as progress:
            bar = progress.add_task(f"running {name}", total=cached.num_entries)
            for num_done, _ in cached.populate(job.task, batch_size=batch_size, rank=rank, world_size=world_size):
                progress.update(bar, completed=num_done)
        stats = cached.stats()
        print_text(
            f"{name}: {stats['misses']:,} outputs computed, {cached.num_entries - stats['misses']:,} cached before; "
            f"{stats['bytes'] / 1e6:,.1f} MB in {stats['folder']}"
        )
    return [cached for _, cached in caches]


def print_caches(root: str | Path | None = None) -> list[CacheEntry]:
    """Print every cache, the last used first."""
    entries = list_caches(root)
    if not entries:
        print_text(f"there is no cache in {cache_dir(root)}")
    for entry in entries:
        metadata, days = entry.metadata, (time.time() - entry.last_used) / _SECONDS_PER_DAY
        config, fields = metadata["layout"]["config"], [field["name"] for field in metadata["layout"]["fields"]]
        top_k_text = "all logits" if config["top_k"] is None else f"top {config['top_k']}, {config['tail']}"
        contents = ", ".join([top_k_text, config["dtype"], *(name for name in fields if name != "logits")])
        print_text(
            f"{entry.folder.name}  {metadata['teacher']}: {metadata['num_samples']:,} samples × "
            f"{metadata['num_views']} views, {contents}; {entry.num_bytes / 1e6:,.1f} MB, "
            f"{'complete' if entry.complete else 'not complete'}, used "
            f"{'today' if days < 1 else f'{days:.0f} days ago'}"
        )
    return entries


def verify_caches(keys: Sequence[str] = (), root: str | Path | None = None) -> None:
    """Check every record of these caches, or of all without ``keys``; an error where one is damaged."""
    damaged_keys = []
    for entry in _select_entries(keys, root):
        damaged, missing, changed = 0, 0, False
        for path, num_damaged, num_missing, is_unchanged in verify_cache(entry):
            damaged, missing, changed = damaged + num_damaged, missing + num_missing, changed or not is_unchanged
            if num_damaged or not is_unchanged or (num_missing and entry.complete):
                print_text(f"{path}: {num_damaged} damaged, {num_missing} missing")
        if damaged or changed or (missing and entry.complete):
            damaged_keys.append(entry.folder.name)
            state = f"{damaged} damaged, {missing} missing"
        else:
            state = "intact" if entry.complete else f"intact, {missing:,} still to be computed"
        print_text(f"{entry.folder.name}: {state}")
    if damaged_keys:
        raise LimbeckError(
            f"damaged: {', '.join(damaged_keys)}; the next run that reads one computes what was damaged again, and "
            "so does `limbeck cache fill`"
        )


def prune_caches(
    keys: Sequence[str] = (),
    *,
    older_than: float | None = None,
    all_caches: bool = False,
    root: str | Path | None = None,
) -> None:
    """Remove the caches in ``keys``, those not used for ``older_than`` days, or all."""
    if sum((bool(keys), older_than is not None, all_caches)) != 1:
        raise LimbeckError("give what to remove: keys, --older-than DAYS, or --all, one of the three")
    if older_than is not None and not 0 <= older_than < math.inf:
        raise LimbeckError(f"--older-than must be a number of days, at least 0, got {older_than}")
    oldest = time.time() - (older_than or 0.0) * _SECONDS_PER_DAY
    entries = [entry for entry in _select_entries(keys, root) if older_than is None or entry.last_used < oldest]
    for entry in entries:
        remove_cache(entry)
        rest = f"; {entry.folder} keeps files that limbeck did not write" if entry.folder.exists() else ""
        print_text(f"removed {entry.folder.name} ({entry.num_bytes / 1e6:,.1f} MB){rest}")
    if not entries:
        print_text("nothing to remove")


def _select_entries(keys: Sequence[str], root: str | Path | None) -> list[CacheEntry]:
    """The caches whose names begin with one of ``keys``; all without ``keys``."""
    entries = list_caches(root)
    names = [entry.folder.name for entry in entries]
    for key in keys:
        if not any(name.startswith(key) for name in names):
            raise LimbeckError(
                f"there is no cache {key!r} in {cache_dir(root)}; available: {suggest_names(key, names)}"
            )
    return [entry for entry in entries if not keys or entry.folder.name.startswith(tuple(keys))]
