"""The folder of all caches: list, verify and remove them."""

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
from limbeck.teachers.cache.layout import RecordLayout
from limbeck.teachers.cache.output_store import OutputStore

__all__ = ["CacheEntry", "cache_dir", "list_caches", "lock_cache", "remove_cache", "verify_cache"]

_LOCK_FILE = ".lock"


@final
@dataclass(frozen=True, slots=True)
class CacheEntry:
    """One cache.

    Attributes:
        folder: its folder, named by the key.
        metadata: contents of ``layout.json``: ``teacher``, ``num_samples``, ``num_views``, ``layout``.
        num_bytes: disk usage.
        complete: whether all outputs are stored.
        last_used: seconds since 1970 of the last use.
    """

    folder: Path
    metadata: dict[str, Any]
    num_bytes: int
    complete: bool
    last_used: float

    def open_store(self) -> OutputStore:
        """The records."""
        layout = RecordLayout.from_dict(self.metadata["layout"])
        return OutputStore(self.folder, layout, num_records=self.metadata["num_samples"] * self.metadata["num_views"])


def cache_dir(root: str | Path | None = None) -> Path:
    """The folder of all caches: ``root``, ``$LIMBECK_CACHE``, or ``~/.cache/limbeck/teacher_outputs``."""
    return Path(root or os.environ.get("LIMBECK_CACHE") or "~/.cache/limbeck/teacher_outputs").expanduser()


def lock_cache(folder: Path) -> Any:
    """Lock the cache in ``folder`` against removal while the returned object lives."""
    folder.mkdir(parents=True, exist_ok=True)
    file = (folder / _LOCK_FILE).open("a")
    os.utime(folder / _LOCK_FILE)
    try:
        import fcntl
    except ImportError:  # Windows has no shared locks
        return file
    fcntl.flock(file, fcntl.LOCK_SH)
    return file


def list_caches(root: str | Path | None = None) -> list[CacheEntry]:
    """All caches, the last used first."""
    folders = [path.parent for path in cache_dir(root).glob("*/layout.json")]
    return sorted(filter(None, map(_read_entry, folders)), key=lambda entry: -entry.last_used)


def verify_cache(entry: CacheEntry) -> Iterator[tuple[Path, int, int, bool]]:
    """For each shard: its file, the numbers of damaged and missing records, and whether it matches the index."""
    store = entry.open_store()
    changed = set(store.changed_shards()) if entry.complete else set()
    for shard in range(store.num_shards):
        damaged, unwritten = store.scan_shard(shard)
        yield store.shard_path(shard), len(damaged), len(unwritten), shard not in changed


def remove_cache(entry: CacheEntry) -> None:
    """Remove a cache that is not in use; its index first, so that a partial one is not taken for complete."""
    try:
        import fcntl

        with (entry.folder / _LOCK_FILE).open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:
        pass
    except OSError:
        raise LimbeckError(f"{entry.folder} is in use by another process: remove it after that has ended") from None
    for name in ("index.json", "layout.json"):
        (entry.folder / name).unlink(missing_ok=True)
    shutil.rmtree(entry.folder, ignore_errors=True)


def _read_entry(folder: Path) -> CacheEntry | None:
    try:
        metadata = json.loads((folder / "layout.json").read_text())
        RecordLayout.from_dict(metadata["layout"])
        num_bytes = sum(path.stat().st_blocks * 512 for path in folder.rglob("*"))
        lock = folder / _LOCK_FILE
        last_used = lock.stat().st_mtime if lock.exists() else time.time()
    except (OSError, ValueError, KeyError, TypeError, LimbeckError):
        return None
    return CacheEntry(folder, metadata, num_bytes, (folder / "index.json").exists(), last_used)
