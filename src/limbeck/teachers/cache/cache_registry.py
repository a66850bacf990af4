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
from limbeck.teachers.cache.input_checksum import CHECKSUM_BYTES
from limbeck.teachers.cache.layout import RecordLayout
from limbeck.teachers.cache.store import RecordStore

__all__ = ["CacheEntry", "cache_dir", "list_caches", "lock_cache", "remove_cache", "verify_cache"]

_LOCK_FILE = ".lock"


@final
@dataclass(frozen=True, slots=True)
class CacheEntry:
    """One cache on the shelf.

    Attributes:
        folder: where it stands; its name is the key.
        metadata: what its ``layout.json`` says: ``teacher``, ``num_samples``, ``num_views``, ``layout``.
        num_bytes: what it takes on the disk (holes in half-filled shards do not count).
        complete: whether every answer is there.
        last_used: seconds since 1970 when it was last opened.
    """

    folder: Path
    metadata: dict[str, Any]
    num_bytes: int
    complete: bool
    last_used: float

    def open_store(self) -> RecordStore:
        """Its records."""
        layout = RecordLayout.from_dict(self.metadata["layout"])
        return RecordStore(
            self.folder,
            record_bytes=CHECKSUM_BYTES + layout.num_bytes,
            num_records=self.metadata["num_samples"] * self.metadata["num_views"],
        )


def cache_dir(root: str | Path | None = None) -> Path:
    """The folder of all caches: ``root``, ``$LIMBECK_CACHE``, or ``~/.cache/limbeck/teacher_outputs``."""
    return Path(
        root or os.environ.get("LIMBECK_CACHE") or Path.home() / ".cache" / "limbeck" / "teacher_outputs"
    ).expanduser()


def lock_cache(folder: Path) -> Any:
    """Say that this process uses the cache in ``folder``, for as long as what is given back lives."""
    folder.mkdir(parents=True, exist_ok=True)
    file = (folder / _LOCK_FILE).open("a")
    os.utime(folder / _LOCK_FILE)
    try:
        import fcntl
    except ImportError:  # Windows: pruning a cache in use is then the user's own care
        return file
    fcntl.flock(file, fcntl.LOCK_SH)
    return file


def list_caches(root: str | Path | None = None) -> list[CacheEntry]:
    """Every cache on the shelf, the one used last first."""
    folders = [path.parent for path in cache_dir(root).glob("*/layout.json")]
    return sorted(filter(None, map(_read_entry, folders)), key=lambda entry: -entry.last_used)


def verify_cache(entry: CacheEntry) -> Iterator[tuple[Path, int, int, bool]]:
    """For each shard: its file, how many records are damaged, how many missing, whether it is as its index says."""
    store = entry.open_store()
    changed = set(store.changed_shards()) if entry.complete else set()
    for shard in range(store.num_shards):
        if not store.shard_path(shard).exists():
            yield (
                store.shard_path(shard),
                0,
                min(store.records_per_shard, store.num_records - shard * store.records_per_shard),
                not entry.complete,
            )
            continue
        damaged, unwritten = store.scan_shard(shard)
        yield store.shard_path(shard), len(damaged), len(unwritten), shard not in changed
    store.close()


def remove_cache(entry: CacheEntry) -> None:
    """Remove a cache that nobody uses; the index goes first, so that half of one is never taken for whole."""
    try:
        import fcntl

        with (entry.folder / _LOCK_FILE).open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:
        pass
    except OSError:
        raise LimbeckError(f"{entry.folder} is in use by another process: wait for it, and prune again") from None
    for name in ("index.json", "layout.json"):
        (entry.folder / name).unlink(missing_ok=True)
    shutil.rmtree(entry.folder, ignore_errors=True)


def _read_entry(folder: Path) -> CacheEntry | None:
    try:
        metadata = json.loads((folder / "layout.json").read_text())
        RecordLayout.from_dict(metadata["layout"])
        num_bytes = sum(path.stat().st_blocks * 512 for path in folder.iterdir())
        lock = folder / _LOCK_FILE
        last_used = lock.stat().st_mtime if lock.exists() else time.time()
    except (OSError, ValueError, KeyError, TypeError, LimbeckError):
        return None
    return CacheEntry(folder, metadata, num_bytes, (folder / "index.json").exists(), last_used)
