"""The folder where all caches stand: finding, listing, checking and removing them."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from limbeck.core.errors import LimbeckError
from limbeck.teachers.cache.input_checksum import STAMP
from limbeck.teachers.cache.layout import Layout
from limbeck.teachers.cache.store import Store

__all__ = ["Entry", "check", "home", "listing", "opened", "remove"]

_LOCK = ".lock"


@final
@dataclass(frozen=True, slots=True)
class Entry:
    """One cache on the shelf.

    Attributes:
        folder: where it stands; its name is the key.
        about: what its ``layout.json`` says: ``teacher``, ``samples``, ``views``, ``layout``.
        bytes: what it takes on the disk (holes in half-filled shards do not count).
        complete: whether every answer is there.
        used: seconds since 1970 when it was last opened.
    """

    folder: Path
    about: dict[str, Any]
    bytes: int
    complete: bool
    used: float

    def store(self) -> Store:
        """Its records."""
        layout = Layout.read(self.about["layout"])
        return Store(self.folder, size=STAMP + layout.bytes, many=self.about["samples"] * self.about["views"])


def home(root: str | Path | None = None) -> Path:
    """The folder of all caches: ``root``, ``$LIMBECK_CACHE``, or ``~/.cache/limbeck/answers``."""
    return Path(root or os.environ.get("LIMBECK_CACHE") or Path.home() / ".cache" / "limbeck" / "answers").expanduser()


def opened(folder: Path) -> Any:
    """Say that this process uses the cache in ``folder``, for as long as what is given back lives."""
    folder.mkdir(parents=True, exist_ok=True)
    file = (folder / _LOCK).open("a")
    os.utime(folder / _LOCK)
    try:
        import fcntl
    except ImportError:  # Windows: pruning a cache in use is then the user's own care
        return file
    fcntl.flock(file, fcntl.LOCK_SH)
    return file


def listing(root: str | Path | None = None) -> list[Entry]:
    """Every cache on the shelf, the one used last first."""
    folders = [path.parent for path in home(root).glob("*/layout.json")]
    return sorted(filter(None, map(_entry, folders)), key=lambda entry: -entry.used)


def check(entry: Entry) -> Iterator[tuple[Path, int, int, bool]]:
    """For each shard: its file, how many records are damaged, how many missing, whether it is as its index says."""
    store = entry.store()
    changed = set(store.changed()) if entry.complete else set()
    for shard in range(store.shards):
        if not store.path(shard).exists():
            yield store.path(shard), 0, min(store.per_shard, store.many - shard * store.per_shard), not entry.complete
            continue
        damaged, never = store.unsound(shard)
        yield store.path(shard), len(damaged), len(never), shard not in changed
    store.close()


def remove(entry: Entry) -> None:
    """Remove a cache that nobody uses; the index goes first, so that half of one is never taken for whole."""
    try:
        import fcntl

        with (entry.folder / _LOCK).open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:
        pass
    except OSError:
        raise LimbeckError(f"{entry.folder} is in use by another process: wait for it, and prune again") from None
    for name in ("index.json", "layout.json"):
        (entry.folder / name).unlink(missing_ok=True)
    shutil.rmtree(entry.folder, ignore_errors=True)


def _entry(folder: Path) -> Entry | None:
    try:
        about = json.loads((folder / "layout.json").read_text())
        Layout.read(about["layout"])
        taken = sum(path.stat().st_blocks * 512 for path in folder.iterdir())
        lock = folder / _LOCK
        used = lock.stat().st_mtime if lock.exists() else time.time()
    except (OSError, ValueError, KeyError, TypeError, LimbeckError):
        return None
    return Entry(folder, about, taken, (folder / "index.json").exists(), used)
