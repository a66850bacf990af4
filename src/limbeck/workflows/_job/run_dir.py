"""Run folders: where a run lives, and that only one process works in it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from limbeck.core.errors import LimbeckError

__all__ = ["HOME", "choose", "free", "locked"]

HOME = Path("runs")


def choose(name: str, out: Path | None, *, resume: bool) -> Path:
    """The folder for a run called ``name``.

    ``out`` as given; else ``runs/NAME``, numbered where that is taken, or with ``resume`` the newest of them. A folder
    that holds a run already is not written over.
    """
    if out is None:
        taken = sorted(HOME.glob(f"{name}*/recipe.yaml"), key=lambda path: path.stat().st_mtime_ns)
        mine = [path.parent for path in taken if _numbered(path.parent.name, name)]
        if resume:
            if not mine:
                raise LimbeckError(f"there is no run {name!r} in {HOME.resolve()} to go on with: leave --resume away")
            return mine[-1]
        names = {path.name for path in mine}
        return next(HOME / free for free in _names(name) if free not in names)
    if resume and not (out / "recipe.yaml").exists():
        raise LimbeckError(f"{out} holds no run to go on with: leave --resume away, or give another --out")
    if not resume and out.exists() and any(out.iterdir()):
        raise LimbeckError(f"{out} is not empty: go on with --resume, or give another --out")
    return out


@contextmanager
def locked(folder: Path, *, patience: float = 0.0) -> Iterator[None]:
    """Keep other processes out of ``folder``; a killed process leaves no lock behind.

    Where another is in there, it is waited for, so many seconds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # Windows has no such lock; a second run there is the user's own care.
        yield
        return
    end = time.monotonic() + patience
    with (folder / ".lock").open("w") as file:
        try:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except OSError:
                    if time.monotonic() >= end:
                        raise
                    time.sleep(0.05)
        except OSError:
            raise LimbeckError(f"another process is working in {folder}: wait for it, or give another --out") from None
        yield


def free(folder: Path) -> bool:
    """Whether no process works in ``folder``; one that is not there is free."""
    if not folder.exists():
        return True
    try:
        with locked(folder):
            return True
    except LimbeckError:
        return False


def _numbered(folder: str, name: str) -> bool:
    return folder == name or (folder.startswith(f"{name}-") and folder.removeprefix(f"{name}-").isdigit())


def _names(name: str) -> Iterator[str]:
    yield name
    number = 1
    while True:
        number += 1
        yield f"{name}-{number}"
