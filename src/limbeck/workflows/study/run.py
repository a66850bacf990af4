"""Arms × seeds from one recipe: matched controls, the recipe, its variants; what is finished is never done again.

Every cell is a run folder of its own under ``cells/ARM/SEED``. Workers take cells from one queue, in this process, in
others, and on other machines that share the folder and name the same database.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from limbeck.core.errors import LimbeckError
from limbeck.recipe import Recipe, find, load, resolved, show
from limbeck.recipe.schema import plain, validated
from limbeck.recipe.study_schema import Study
from limbeck.report.compare import compare_page, compare_table
from limbeck.training.callbacks import Watcher
from limbeck.training.checkpoint import Stopped
from limbeck.utils.io import write_atomically
from limbeck.workflows._job.data_cache import Loaded
from limbeck.workflows._job.job import Job
from limbeck.workflows._job.run_dir import HOME
from limbeck.workflows.compare.run import comparison
from limbeck.workflows.study.equal_time import pace
from limbeck.workflows.study.queue import Queue
from limbeck.workflows.study.study_state import cells, done, summed
from limbeck.workflows.study.variants import Arm, Shared, arms, cell_recipe
from limbeck.workflows.study.worker import work

__all__ = ["study"]

_LARGEST = 4 * 2**30
"""Bytes up to which a cache that the recipe does not ask for is made, so that its arms share the answers."""


def study(
    recipe: Recipe | str | Path,
    settings: Sequence[str] = (),
    *,
    seeds: int | Sequence[int] | None = None,
    jobs: int = 1,
    out: Path | None = None,
    resume: bool = False,
    storage: str | None = None,
    watchers: Sequence[Watcher] | None = None,
) -> dict[str, Any]:
    """Run what is missing of a study, and give what ``study.json`` holds.

    Arguments:
        recipe: a recipe, its file, or the name of one that comes with limbeck; its ``study`` names seeds and variants.
        settings: ``key=value`` settings laid over a file.
        seeds: in place of the recipe's: how many, or which.
        jobs: processes on this machine.
        out: the folder; ``None``: ``runs/NAME-study``, numbered where that is taken.
        resume: go on with the study in that folder; new seeds and new arms join it.
        storage: a database URL that several machines name alike; ``None``: a file in the folder.
        watchers: who is told how training goes; ``None``: a progress bar where there is one job.

    Raises:
        LimbeckError: a cell failed (all others are finished first), or anything that stops a run.
    """
    if jobs < 1:
        raise LimbeckError(f"--jobs is a number of processes from 1, not {jobs}")
    if int(os.environ.get("WORLD_SIZE") or 1) > 1:
        raise LimbeckError("a study spreads its cells over processes by itself: start it without torchrun, with --jobs")
    recipe = _asked(recipe, settings, seeds)
    every = arms(recipe)
    folder = _folder(recipe, out, resume=resume)
    loaded = Loaded()
    _rehearse(recipe, every, folder, loaded)
    _write(folder / "recipe.yaml", show(recipe))
    queue = Queue.of(recipe, folder, storage)
    shared = _shared(recipe, every, folder, queue, loaded)
    queue.fill([cell for cell in cells(recipe) if not done(folder, cell)])
    _say(f"{recipe.name}: {len(every)} arms x {len((recipe.study or Study()).seeds)} seeds, {queue.waiting()} to run")
    summed(recipe, queue, shared)  # so that whoever looks sees a study before its first cell has ended
    try:
        work(recipe, shared, storage, jobs, watchers, loaded)
    except Stopped as stopped:
        stopped.args = (f"stopped: the work is saved; limbeck study … --resume --out {folder} goes on from there",)
        raise
    finally:
        found = summed(recipe, queue, shared)
    told = comparison([folder])
    _write(folder / "compare.html", compare_page(told))
    _say("\n".join([compare_table(told), told.rule, str((folder / "compare.html").resolve())]))
    failed = [cell for cell in found["cells"] if cell["state"] == "failed"]
    if failed:
        first = failed[0]
        raise LimbeckError(
            f"{len(failed)} of {len(found['cells'])} cells failed, the first {first['arm']} with seed {first['seed']}: "
            f"{first['error']}; --resume --out {folder} tries them again"
        )
    return found


def _asked(recipe: Recipe | str | Path, settings: Sequence[str], seeds: int | Sequence[int] | None) -> Recipe:
    """The recipe, with its study, and with other seeds where some are given."""
    if not isinstance(recipe, Recipe):
        recipe = load(find(recipe), settings)
    whole = plain(recipe)
    said = whole["study"] or plain(Study())
    if seeds is not None:
        said = {**said, "seeds": seeds if isinstance(seeds, int) else list(seeds)}
    return validated(Recipe, whole | {"study": said})


def _folder(recipe: Recipe, out: Path | None, *, resume: bool) -> Path:
    """Where the study lives; one that is there is gone on with only when asked to, and only if it is the same."""
    usual = HOME / f"{recipe.name}-study"
    if out is None and not resume:
        number = 1
        while (out := usual if number == 1 else usual.with_name(f"{usual.name}-{number}")).exists():
            number += 1
    folder = out or usual
    before = folder / "recipe.yaml"
    if resume and not before.exists():
        raise LimbeckError(f"{folder} holds no study to go on with: leave --resume away, or give its --out")
    if not resume and folder.exists() and any(folder.iterdir()):
        raise LimbeckError(f"{folder} is not empty: go on with --resume, or give another --out")
    if resume:
        old, new = (plain(resolved(one)) | {"study": None} for one in (load(before), recipe))
        if changed := [key for key in new if old.get(key) != new[key]]:
            raise LimbeckError(
                f"{folder} was begun with another recipe ({', '.join(changed)} changed): only arms and seeds can "
                "join a study, so resume with the settings it was begun with, or give another --out"
            )
        _require_same_arms(load(before), recipe, folder)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _require_same_arms(old: Recipe, new: Recipe, folder: Path) -> None:
    """Refuse an arm that has finished cells and now means something else: its old figures would bear the new name."""
    untimed = Shared(folder, [1] * len(new.stages), 1.0, 0)
    before, now = arms(old), arms(new)
    for name in before.keys() & now.keys():
        if any((folder / "cells" / name).glob("*/record.json")):
            asked = ((old, before[name]), (new, now[name]))
            one, other = (plain(resolved(cell_recipe(recipe, arm, 0, untimed))) for recipe, arm in asked)
            if one != other:
                raise LimbeckError(
                    f"the arm {name!r} has finished cells and is another now: give it another name, or remove "
                    f"{folder / 'cells' / name} to train it anew"
                )


def _rehearse(recipe: Recipe, every: Mapping[str, Arm], folder: Path, loaded: Loaded) -> None:
    """What is wrong with any arm shows before an hour is spent on another one."""
    untimed = Shared(folder, [1] * len(recipe.stages), 1.0, 0)
    for arm in every.values():
        try:
            own = cell_recipe(recipe, arm, recipe.seed, untimed)
            Job.of(own, folder / "rehearsal", loaded=loaded).rehearse()
        except LimbeckError as error:
            raise LimbeckError(f"the arm {arm.name!r}: {error}") from error


def _shared(recipe: Recipe, every: Mapping[str, Arm], folder: Path, queue: Queue, loaded: Loaded) -> Shared:
    """What all cells have alike; the first worker of all finds it out."""
    job = Job.of(validated(Recipe, plain(recipe) | {"study": None}), folder / "rehearsal", loaded=loaded)
    ratio = queue.shared("pace", lambda: pace(job) if recipe.teachers else 1.0)
    views = queue.shared("views", lambda: _views(recipe, every, job, loaded))
    return Shared(folder, job.lengths(), float(ratio), int(views))


def _views(recipe: Recipe, every: Mapping[str, Arm], job: Job, loaded: Loaded) -> int:
    """How many views of a picture the longest arm shows, if a cache of them all is no burden.

    With as many views as showings, each is fresh, so the pictures are those that the recipe shows without a cache.
    """
    changing, many = job.data.views, 0
    if recipe.cache is not None or not recipe.teachers or changing.per_sample or not changing.transforms:
        return 0
    for arm in every.values():
        if arm.listens:
            own = cell_recipe(recipe, arm, recipe.seed, Shared(job.folder, [], 1.0, 0))
            mine = Job.of(own, job.folder, loaded=loaded)
            shown = sum(
                length * own.training_of(stage).batch for length, stage in zip(mine.lengths(), own.stages, strict=True)
            )
            many = max(many, -(-shown // len(job.data.train)) + len(own.stages))
    each = 4 * len(job.data.classes) + 12
    return many if many * each * len(job.data.train) * len(recipe.teachers) <= _LARGEST else 0


def _write(path: Path, text: str) -> None:
    write_atomically(path, lambda partial: partial.write_text(text))


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201
