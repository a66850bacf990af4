"""Caches of teachers' answers by hand: filling one ahead of all runs, looking at them, checking and removing them."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from limbeck.core.errors import LimbeckError, nearest
from limbeck.recipe import Recipe, find, load
from limbeck.teachers import Cached, Foreign
from limbeck.teachers.cache.cache_registry import Entry, check, home, listing, remove
from limbeck.workflows._job.job import Job

__all__ = ["fill", "info", "prune", "verify"]

_DAY = 86_400


def fill(recipe: Recipe | str | Path, settings: Sequence[str] = (), *, batch: int = 256) -> list[Cached]:
    """Ask the teachers of ``recipe`` about every view of every training picture, and keep what they say.

    What is there already is not asked for again.

    Arguments:
        recipe: a recipe with ``cache``, its file, or the name of one that comes with limbeck.
        settings: ``key=value`` settings laid over a file.
        batch: pictures asked about at once.

    Under ``torchrun`` each process asks about its share; on several machines, let them share the cache's folder.
    """
    if not isinstance(recipe, Recipe):
        recipe = load(find(recipe), settings)
    if recipe.cache is None:
        raise LimbeckError("the recipe keeps no answers: add cache: {} to it, or cache.top=10 to the command")
    if batch < 1:
        raise LimbeckError(f"a batch has at least 1 picture, not {batch}")
    job = Job.of(recipe, Path("runs") / recipe.name)
    teachers = {name: job.teacher(name) for name in recipe.teachers}
    for name, network in teachers.items():
        if recipe.teachers[name].weights is None and not isinstance(network, Foreign):
            raise LimbeckError(
                f"teachers.{name} has no weights yet: `limbeck distill` trains it and fills the cache while it "
                "teaches; or give weights, a file or a run folder"
            )
    rank, world = (int(os.environ.get(name, usual)) for name, usual in (("RANK", "0"), ("WORLD_SIZE", "1")))
    found = job.kept(job.student(), teachers)
    for name, cached in found:
        _filled(job, name, cached, batch=batch, rank=rank, world=world)
    return [cached for _, cached in found]


def info(root: str | Path | None = None) -> list[Entry]:
    """Print every cache there is, the one used last first."""
    found = listing(root)
    if not found:
        _say(f"there is no cache in {home(root)}")
    for entry in found:
        form, shape = (
            entry.about["layout"]["format"],
            f"{entry.about['samples']:,} samples × {entry.about['views']} views",
        )
        kept = "all logits" if form["top"] is None else f"top {form['top']}, {form['tail']}"
        more = [field["name"] for field in entry.about["layout"]["fields"] if field["name"] != "logits"]
        _say(
            f"{entry.folder.name}  {entry.about['teacher']}: {shape}, {', '.join([kept, form['precision'], *more])}; "
            f"{entry.bytes / 1e6:,.1f} MB, {'complete' if entry.complete else 'not complete'}, used {_ago(entry.used)}"
        )
    return found


def verify(keys: Sequence[str] = (), root: str | Path | None = None) -> None:
    """Read every record of these caches (all, where none is named) and check it; an error where one is damaged."""
    broken = []
    for entry in _chosen(keys, root):
        damaged = missing = changed = 0
        for path, hurt, absent, same in check(entry):
            damaged, missing, changed = damaged + hurt, missing + absent, changed + (not same)
            if hurt or not same or (absent and entry.complete):
                _say(f"{path}: {hurt} damaged, {absent} missing")
        bad = damaged or changed or (missing and entry.complete)
        broken += [entry.folder.name] if bad else []
        state = f"{damaged} damaged, {missing} missing" if bad else "sound"
        _say(f"{entry.folder.name}: {state}{'' if entry.complete or bad else f', {missing:,} still to be asked for'}")
    if broken:
        raise LimbeckError(
            f"damaged: {', '.join(broken)}; the next run that reads one asks for what was damaged again, and so does "
            "`limbeck cache fill`"
        )


def prune(
    keys: Sequence[str] = (), *, older: float | None = None, everything: bool = False, root: str | Path | None = None
) -> None:
    """Remove the caches named, those not used for ``older`` days, or all."""
    if sum((bool(keys), older is not None, everything)) != 1:
        raise LimbeckError("say what to remove: keys, --older DAYS, or --all, one of the three")
    found = _chosen(keys, root)
    if older is not None:
        found = [entry for entry in found if time.time() - entry.used > older * _DAY]
    for entry in found:
        remove(entry)
        _say(f"removed {entry.folder.name} ({entry.bytes / 1e6:,.1f} MB)")
    if not found:
        _say("nothing to remove")


def _filled(job: Job, name: str, cached: Cached, *, batch: int, rank: int, world: int) -> None:
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), disable=rank > 0) as bar:
        task = bar.add_task(f"asking {name}", total=cached.answers)
        for done, _ in cached.fill(job.task, batch=batch, rank=rank, world=world):
            bar.update(task, completed=done)
    found = cached.figures()
    _say(
        f"{name}: {found['asked']:,} answers asked for, {cached.answers - found['asked']:,} known before; "
        f"{found['bytes'] / 1e6:,.1f} MB in {found['folder']}"
    )


def _chosen(keys: Sequence[str], root: str | Path | None) -> list[Entry]:
    found = listing(root)
    for key in keys:
        if not any(entry.folder.name.startswith(key) for entry in found):
            names = [entry.folder.name for entry in found]
            raise LimbeckError(f"there is no cache {key!r} in {home(root)}; there are: {nearest(key, names)}")
    return [entry for entry in found if not keys or any(entry.folder.name.startswith(key) for key in keys)]


def _ago(then: float) -> str:
    days = (time.time() - then) / _DAY
    return "today" if days < 1 else f"{days:.0f} days ago"


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201
