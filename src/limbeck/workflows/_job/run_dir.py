"""Run folders: where a run lives, and that only one process works in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from limbeck.core.errors import LimbeckError

__all__ = ["RUNS_DIR", "choose_run_dir", "is_unlocked", "lock_folder"]

RUNS_DIR = Path("runs")


def choose_run_dir(name: str, run_dir: Path | None, *, resume: bool) -> Path:
    """The folder for a run called ``name``.

    ``run_dir`` as given; else ``runs/NAME``, numbered where that is taken, or with ``resume`` the newest of them. A
    folder that holds a run already is not written over.
    """
    if run_dir is None:
        recipe_files = sorted(RUNS_DIR.glob(f"{name}*/recipe.yaml"), key=lambda path: path.stat().st_mtime_ns)
        run_dirs = [path.parent for path in recipe_files if _is_numbered_name(path.parent.name, name)]
        if resume:
            if not run_dirs:
                raise LimbeckError(
                    f"there is no run {name!r} in {RUNS_DIR.resolve()} to go on with: leave --resume away"
                )
            return run_dirs[-1]
        names = {path.name for path in run_dirs}
        return next(RUNS_DIR / candidate for candidate in _numbered_names(name) if candidate not in names)
    if resume and not (run_dir / "recipe.yaml").exists():
        raise LimbeckError(f"{run_dir} holds no run to go on with: leave --resume away, or give another --out")
    if not resume and run_dir.exists() and any(run_dir.iterdir()):
        raise LimbeckError(f"{run_dir} is not empty: go on with --resume, or give another --out")
    return run_dir


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


def _is_numbered_name(folder: str, name: str) -> bool:
    return folder == name or (folder.startswith(f"{name}-") and folder.removeprefix(f"{name}-").isdigit())


def _numbered_names(name: str) -> Iterator[str]:
    yield name
    suffix = 1
    while True:
        suffix += 1
        yield f"{name}-{suffix}"
