"""Records of one size in memory-mapped shards: written in any order, by several processes, and checked when read.

A record ends with a CRC-32 of its bytes and its place, so a torn write, a flipped byte and a record in the wrong place
are all found when it is read. Files are made sparse at their full size; a record of zeros was never written. The index,
with a SHA-256 of each shard, is written last: where it stands, every record has been written.
"""

from __future__ import annotations

import json
import mmap
import os
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray

from limbeck.core.errors import LimbeckError
from limbeck.teachers.cache.codec import Bytes
from limbeck.utils.io import digest, write_atomically

__all__ = ["CHECK", "Store"]

CHECK: Final = 4
_SHARD = 32 * 2**20
# Each open shard holds a file descriptor, of which a process has 1,024 as a rule.
_OPEN = 256
# The system maps up to 64 kB around each page that is touched; what was touched is let go before it is this much.
_AROUND, _RESIDENT = 2**16, 16 * 2**20
_AT_ONCE = 4 * 2**20
_WORD = 2**32 - 1

Places = NDArray[np.int64]


@final
class Store:
    """``many`` records of ``size`` bytes in ``folder``.

    Arguments:
        folder: its own folder.
        size: bytes of a record, without its check sum.
        many: how many records there are.
        shard: bytes of a shard, at most.
    """

    def __init__(self, folder: Path, *, size: int, many: int, shard: int = _SHARD) -> None:
        self.folder, self.size, self.many = folder, size, many
        self._whole = size + CHECK
        self.per_shard = max(1, min(many, shard // self._whole))
        self.shards = -(-many // self.per_shard)
        self._maps: OrderedDict[int, mmap.mmap] = OrderedDict()
        self._recent: set[int] = set()
        self._touched = 0

    @property
    def bytes(self) -> int:
        """What all records take."""
        return self.many * self._whole

    @property
    def complete(self) -> bool:
        """Whether the index stands, and so every record was written."""
        return (self.folder / "index.json").exists()

    def path(self, shard: int) -> Path:
        """The file of a shard."""
        return self.folder / f"shard-{shard:05d}.bin"

    def read(self, places: Places) -> tuple[Bytes, NDArray[np.bool_], NDArray[np.bool_]]:
        """The records at ``places``: their bytes, which are sound, and which were never written."""
        raw = np.empty((len(places), self._whole), np.uint8)
        shards, rows = np.divmod(places, self.per_shard)
        for shard in np.unique(shards).tolist():
            mine = shards == shard
            raw[mine] = self._view(shard)[rows[mine]]
        self._let_go(len(places))
        sound = self._sums(raw, places) == raw[:, self.size :].copy().view(np.uint32)[:, 0]
        empty = np.zeros(len(places), np.bool_)
        empty[~sound] = ~raw[~sound].any(axis=1)  # the sum of a sound record is never 0
        return raw[:, : self.size], sound, empty

    def write(self, places: Places, records: Bytes) -> None:
        """Write ``records`` ``[n, size]`` at ``places``; others may read and write elsewhere meanwhile."""
        whole = np.empty((len(places), self._whole), np.uint8)
        whole[:, : self.size] = records
        whole[:, self.size :] = self._sums(whole, places)[:, None].view(np.uint8)
        shards, rows = np.divmod(places, self.per_shard)
        for shard in np.unique(shards).tolist():
            self._make(shard)
            file = os.open(self.path(shard), os.O_WRONLY)
            try:
                for row in np.flatnonzero(shards == shard).tolist():
                    _write_all(file, whole[row].tobytes(), int(rows[row]) * self._whole)
            except OSError as error:
                raise LimbeckError(
                    f"{self.path(shard)} could not be written ({error}): free some space or choose another folder for "
                    "the cache; what was written stays good"
                ) from error
            finally:
                os.close(file)

    def unsound(self, shard: int) -> tuple[Places, Places]:
        """The places of a shard whose records are damaged, and those that were never written."""
        damaged, never = [], []
        first = shard * self.per_shard
        for some in _slices(first, min(first + self.per_shard, self.many), most=max(1, _AT_ONCE // self._whole)):
            _, sound, empty = self.read(some)
            damaged.append(some[~sound & ~empty])
            never.append(some[empty])
        return np.concatenate(damaged), np.concatenate(never)

    def seal(self, about: dict[str, Any]) -> bool:
        """Write the index, unless a record is missing or damaged; whether it stands."""
        if any(len(places) for shard in range(self.shards) for places in self.unsound(shard)):
            return False
        sums = []
        for shard in range(self.shards):
            with self.path(shard).open("rb") as file:
                os.fsync(file.fileno())
            sums.append(digest(self.path(shard)))
        text = json.dumps({**about, "shards": sums}, indent=1)
        write_atomically(self.folder / "index.json", lambda partial: partial.write_text(text))
        return True

    def changed(self) -> list[int]:
        """The shards whose bytes are not those that the index was written for."""
        try:
            sums = json.loads((self.folder / "index.json").read_text())["shards"]
        except (OSError, ValueError, KeyError, TypeError):
            return list(range(self.shards))
        return [n for n in range(self.shards) if n >= len(sums) or not _is(self.path(n), sums[n])]

    def close(self) -> None:
        """Let go of the files."""
        while self._maps:
            self._maps.popitem()[1].close()

    def _make(self, shard: int) -> None:
        path = self.path(shard)
        rows = min(self.per_shard, self.many - shard * self.per_shard)
        if not path.exists() or path.stat().st_size < rows * self._whole:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Growing a file fills it with zeros, which are records that were never written; nobody's bytes are lost.
            with path.open("ab") as file:
                file.truncate(rows * self._whole)
            if (old := self._maps.pop(shard, None)) is not None:
                old.close()

    def _view(self, shard: int) -> Bytes:
        found = self._maps.get(shard)
        if found is None:
            self._make(shard)
            while len(self._maps) >= _OPEN:
                self._maps.popitem(last=False)[1].close()
            with self.path(shard).open("rb") as file:
                found = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            if hasattr(mmap, "MADV_RANDOM"):
                found.madvise(mmap.MADV_RANDOM)
            self._maps[shard] = found
        self._maps.move_to_end(shard)
        self._recent.add(shard)
        rows = min(self.per_shard, self.many - shard * self.per_shard)
        return np.frombuffer(found, np.uint8, count=rows * self._whole).reshape(rows, self._whole)

    def _let_go(self, rows: int) -> None:
        """Pages that were read count as resident until they are let go; the system keeps them in its own cache."""
        self._touched += rows * (_AROUND + self._whole)
        if self._touched > _RESIDENT and hasattr(mmap, "MADV_DONTNEED"):
            for shard in self._recent & self._maps.keys():
                self._maps[shard].madvise(mmap.MADV_DONTNEED)
            self._recent.clear()
            self._touched = 0

    def _sums(self, raw: Bytes, places: Places) -> NDArray[np.uint32]:
        """The check sum of each record at its place; never 0, which says that nothing was written."""
        flat, size = memoryview(raw[:, : self.size].tobytes()), self.size
        starts = range(0, len(places) * size, size)
        sums = [
            zlib.crc32(flat[i : i + size], place & _WORD) or 1 for i, place in zip(starts, places.tolist(), strict=True)
        ]
        return np.array(sums, np.uint32)


def _slices(first: int, last: int, *, most: int) -> Iterator[Places]:
    for start in range(first, last, most):
        yield np.arange(start, min(start + most, last), dtype=np.int64)


def _write_all(file: int, record: bytes, offset: int) -> None:
    while record:
        done = os.pwrite(file, record, offset)
        record, offset = record[done:], offset + done


def _is(path: Path, expected: Any) -> bool:
    try:
        return bool(digest(path) == expected)
    except OSError:
        return False
