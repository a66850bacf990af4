"""The folder of all caches: list, verify and remove them."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, final

from limbeck.core.errors import LimbeckError
from limbeck.teachers.cache.layout import RecordLayout
from limbeck.teachers.cache.output_store import OutputStore
from limbeck.utils.io import open_no_link, parse_json, require_regular_file

__all__ = ["CacheEntry", "cache_dir", "list_caches", "lock_cache", "remove_cache", "verify_cache"]

_LOCK_FILE: Final = ".lock"
_SHARD_FILE: Final = re.compile(r"shard-\d{5,}\.bin")
_ROW_FOLDER: Final = re.compile(r"rows-\d+")
_CACHE_FILE: Final = re.compile(rf"{_SHARD_FILE.pattern}|\.lock|(index|layout)\.json|\..+\.\d+\.partial")


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
    file = _open_lock(folder)
    os.utime(file.fileno() if os.utime in os.supports_fd else file.name)
    try:
        import fcntl
    except ImportError:  # Windows has no shared locks
        return file
    fcntl.flock(file, fcntl.LOCK_SH)
    return file


def list_caches(root: str | Path | None = None) -> list[CacheEntry]:
    """All caches, the last used first; linked folders are left out, since their caches are those of another folder."""
    folders = [path.parent for path in cache_dir(root).glob("*/layout.json") if not path.parent.is_symlink()]
    return sorted(filter(None, map(_read_entry, folders)), key=lambda entry: -entry.last_used)


def verify_cache(entry: CacheEntry) -> Iterator[tuple[Path, int, int, bool]]:
    """For each shard: its file, the numbers of damaged and missing records, and whether it matches the index."""
    store = entry.open_store()
    changed = set(store.changed_shards()) if entry.complete else set()
    for shard in range(store.num_shards):
        damaged, unwritten = store.scan_shard(shard)
        yield store.shard_path(shard), len(damaged), len(unwritten), shard not in changed


def remove_cache(entry: CacheEntry) -> None:
    """Remove a cache that is not in use; its index first, so that a partial one is not taken for complete.

    Files that limbeck did not write, and linked folders, stay.
    """
    try:
        import fcntl

        with _open_lock(entry.folder) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:
        pass
    except OSError:
        raise LimbeckError(f"{entry.folder} is in use by another process: remove it after that has ended") from None
    for name in ("index.json", "layout.json"):
        (entry.folder / name).unlink(missing_ok=True)
    for path in [*_own_files(entry.folder)]:
        path.unlink(missing_ok=True)
    for folder in [*entry.folder.glob("rows-*"), entry.folder]:
        with suppress(OSError):  # it holds a file that limbeck did not write, or is a link
            folder.rmdir()


def _own_files(folder: Path) -> Iterator[Path]:
    """The files that limbeck writes in the folder of a cache, by their names; no linked folder is followed."""
    for path in folder.iterdir():
        if _ROW_FOLDER.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            yield from (file for file in path.iterdir() if _SHARD_FILE.fullmatch(file.name) and _is_file(file))
        elif _CACHE_FILE.fullmatch(path.name) and _is_file(path):
            yield path


def _is_file(path: Path) -> bool:
    return path.is_file() or path.is_symlink()


def _open_lock(folder: Path) -> IO[str]:
    """The file of the lock; a link is refused, since it may lead outside.

    Raises:
        LimbeckError: it is a link, or cannot be written.
    """
    path = folder / _LOCK_FILE
    try:
        return open(path, "a", opener=open_no_link)  # closed by the caller
    except OSError as error:
        kind = "a link" if path.is_symlink() else error.strerror
        raise LimbeckError(f"{path} must be a file that this user may write, got {kind}: remove it") from error


def _read_entry(folder: Path) -> CacheEntry | None:
    try:
        metadata = parse_json(require_regular_file(folder / "layout.json").read_text())
        RecordLayout.from_dict(metadata["layout"])
        if not all(isinstance(metadata[name], int) for name in ("num_samples", "num_views")):
            return None
        num_bytes = sum(path.lstat().st_blocks * 512 for path in _own_files(folder))
        lock = folder / _LOCK_FILE
        last_used = lock.lstat().st_mtime if lock.exists() else time.time()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, LimbeckError):
        return None
    return CacheEntry(folder, metadata, num_bytes, (folder / "index.json").exists(), last_used)
