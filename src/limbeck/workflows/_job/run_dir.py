"""Run folders: which folder a run gets, and a lock so that one process works in it."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from filelock import FileLock, Timeout

from limbeck.core.errors import LimbeckError
from limbeck.utils.io import remove_leftovers

RUNS_DIR = Path("runs")
_LEFTOVERS = re.compile(r"\.lock|\..+\.\d+\.partial")


def choose_run_dir(name: str, run_dir: str | Path | None, *, resume: bool) -> Path:
    """The folder for a run called ``name``.

    ``run_dir`` as given; else ``runs/NAME``, numbered where that is taken, or with ``resume`` the newest of them. A
    folder that holds a run is not overwritten.

    Raises:
        LimbeckError: there is no run to resume, or the folder is a file, is not empty or cannot be written.
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
        run_dir = next(folder for folder in candidates if folder not in run_dirs and not folder.is_file())
    run_dir = Path(run_dir)
    with _named_errors(run_dir, "--out"):
        if run_dir.is_symlink() and not run_dir.exists():
            raise LimbeckError(f"{run_dir} is a link to nothing: remove it, or give another --out")
        if run_dir.exists() and not run_dir.is_dir():
            raise LimbeckError(f"{run_dir} is a file, and --out is a folder: give another --out")
        if resume and not (run_dir / "recipe.yaml").is_file():
            raise LimbeckError(f"{run_dir} holds no run to go on with: remove --resume, or give another --out")
        if not resume and not is_unused(run_dir):
            raise LimbeckError(f"{run_dir} is not empty: go on with --resume, or give another --out")
        _probe_folder(run_dir)
    return run_dir


def is_unused(folder: Path) -> bool:
    """Whether ``folder`` has no file, but for those that a process leaves which is killed while it begins."""
    return not folder.exists() or all(_LEFTOVERS.fullmatch(path.name) for path in folder.iterdir())


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


def require_writable(folder: Path, setting: str) -> None:
    """Raise ``LimbeckError`` where ``folder`` cannot be made or written; ``setting`` is what names another one."""
    with _named_errors(folder, setting):
        _probe_folder(folder)


@contextmanager
def _named_errors(folder: Path, setting: str) -> Iterator[None]:
    """Raise an error of the operating system with the folder and what to do."""
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: a null character
        reason = getattr(error, "strerror", None) or error
        raise LimbeckError(
            f"{folder} cannot be used ({reason}): change its permissions, or give another {setting}"
        ) from error


def _probe_folder(folder: Path) -> None:
    """Make the missing folders of ``folder`` and remove them again, so that a mistake is an error before training."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        for path in reversed(missing):
            path.mkdir()
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "Permission denied", str(folder))
    finally:
        for path in missing:
            with suppress(OSError):
                path.rmdir()


@contextmanager
def lock_folder(folder: Path, *, timeout: float = 0.0, setting: str = "--out") -> Iterator[None]:
    """Keep other processes out of ``folder``; the operating system releases the lock of a process that ends.

    Args:
        folder: is made if it does not exist. Files that a killed process was writing are removed from it and its
            ``checkpoint`` folder.
        timeout: seconds to wait for a process that holds the lock; negative: no limit.
        setting: what names another folder, for errors.

    Raises:
        LimbeckError: another process holds the lock; or the folder cannot be written, or its lock or another file or
            folder that is written to is a link.
    """
    with _named_errors(folder, setting):
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("checkpoint", "trials", "tensorboard", "mlflow.db"):
            if (folder / name).is_symlink():
                raise LimbeckError(f"{folder / name} is a link, and files are not written through it: remove the link")
        path = folder / ".lock"
        lock = FileLock(path, timeout=timeout)
        try:
            lock.acquire()
        except Timeout:
            raise LimbeckError(
                f"another process is working in {folder}: wait for it, or give another {setting}"
            ) from None
        except OSError as error:
            if path.is_symlink():
                raise LimbeckError(f"{path} must be a file, got a link: remove it") from error
            raise
    try:
        for written in (folder, folder / "checkpoint"):
            remove_leftovers(written)
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
