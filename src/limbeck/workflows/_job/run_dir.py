"""Run folders: which folder a run gets, and a lock so that one process works in it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from filelock import FileLock, Timeout

from limbeck.core.errors import LimbeckError

RUNS_DIR = Path("runs")


def choose_run_dir(name: str, run_dir: Path | None, *, resume: bool) -> Path:
    """The folder for a run called ``name``.

    ``run_dir`` as given; else ``runs/NAME``, numbered where that is taken, or with ``resume`` the newest of them. A
    folder that holds a run is not overwritten.
    """
    if run_dir is None:
        recipe_files = sorted(RUNS_DIR.glob(f"{name}*/recipe.yaml"), key=lambda path: path.stat().st_mtime_ns)
        pattern = re.compile(re.escape(name) + r"(-\d+)?")
        run_dirs = [path.parent for path in recipe_files if pattern.fullmatch(path.parent.name)]
        if resume:
            if not run_dirs:
                raise LimbeckError(f"there is no run {name!r} in {RUNS_DIR.resolve()} to go on with: remove --resume")
            return run_dirs[-1]
        candidates = (RUNS_DIR / (name if number == 1 else f"{name}-{number}") for number in count(1))
        return next(folder for folder in candidates if folder not in run_dirs)
    if resume and not (run_dir / "recipe.yaml").exists():
        raise LimbeckError(f"{run_dir} holds no run to go on with: remove --resume, or give another --out")
    if not resume and run_dir.exists() and any(run_dir.iterdir()):
        raise LimbeckError(f"{run_dir} is not empty: go on with --resume, or give another --out")
    return run_dir


def newest_run_dir() -> Path:
    """The newest unfinished run in ``runs/``, or the newest finished one.

    Raises:
        LimbeckError: there is no run.
    """
    recipe_files = sorted(RUNS_DIR.glob("*/recipe.yaml"), key=lambda path: path.stat().st_mtime_ns)
    run_dirs = [path.parent for path in recipe_files if not (path.parent / "study.json").exists()]
    if not run_dirs:
        raise LimbeckError(f"there is no run in {RUNS_DIR.resolve()} to go on with: give its folder as --out")
    unfinished = [folder for folder in run_dirs if not (folder / "record.json").exists()]
    return (unfinished or run_dirs)[-1]


@contextmanager
def lock_folder(folder: Path, *, timeout: float = 0.0) -> Iterator[None]:
    """Keep other processes out of ``folder``; the operating system releases the lock of a process that ends.

    Args:
        folder: is made if it does not exist.
        timeout: seconds to wait for a process that holds the lock; negative: no limit.

    Raises:
        LimbeckError: another process holds the lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock", timeout=timeout)
    try:
        lock.acquire()
    except Timeout:
        raise LimbeckError(f"another process is working in {folder}: wait for it, or give another --out") from None
    try:
        yield
    finally:
        lock.release()


def is_unlocked(folder: Path) -> bool:
    """Whether no process holds the lock of ``folder``."""
    if not folder.exists():
        return True
    try:
        with lock_folder(folder):
            return True
    except LimbeckError:
        return False
