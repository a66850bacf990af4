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
from limbeck.teachers.cache.codec import ByteArray
from limbeck.utils.io import digest, write_atomically

__all__ = ["CRC_BYTES", "RecordStore"]

CRC_BYTES: Final = 4
_SHARD_BYTES = 32 * 2**20
# Each open shard holds a file descriptor, of which a process has 1,024 as a rule.
_MAX_OPEN_SHARDS = 256
# The system maps up to 64 kB around each page that is touched; what was touched is let go before it is this much.
_READAHEAD_BYTES, _MAX_RESIDENT_BYTES = 2**16, 16 * 2**20
_SCAN_BYTES = 4 * 2**20
_UINT32_MAX = 2**32 - 1

Indices = NDArray[np.int64]


@final
class RecordStore:
    """``num_records`` records of ``record_bytes`` bytes in ``folder``.

    Arguments:
        folder: its own folder.
        record_bytes: bytes of a record, without its check sum.
        num_records: how many records there are.
        shard_bytes: bytes of a shard, at most.
    """

    def __init__(self, folder: Path, *, record_bytes: int, num_records: int, shard_bytes: int = _SHARD_BYTES) -> None:
        self.folder, self.record_bytes, self.num_records = folder, record_bytes, num_records
        self._stride = record_bytes + CRC_BYTES
        self.records_per_shard = max(1, min(num_records, shard_bytes // self._stride))
        self.num_shards = -(-num_records // self.records_per_shard)
        self._maps: OrderedDict[int, mmap.mmap] = OrderedDict()
        self._recent: set[int] = set()
        self._touched_bytes = 0

    @property
    def num_bytes(self) -> int:
        """What all records take."""
        return self.num_records * self._stride

    @property
    def is_complete(self) -> bool:
        """Whether the index stands, and so every record was written."""
        return (self.folder / "index.json").exists()

    def shard_path(self, shard: int) -> Path:
        """The file of a shard."""
        return self.folder / f"shard-{shard:05d}.bin"

    def read(self, indices: Indices) -> tuple[ByteArray, NDArray[np.bool_], NDArray[np.bool_]]:
        """The records at ``indices``: their bytes, which are sound, and which were never written."""
        raw = np.empty((len(indices), self._stride), np.uint8)
        shards, rows = np.divmod(indices, self.records_per_shard)
        for shard in np.unique(shards).tolist():
            in_shard = shards == shard
            raw[in_shard] = self._map_shard(shard)[rows[in_shard]]
        self._release_pages(len(indices))
        is_valid = self._checksums(raw, indices) == raw[:, self.record_bytes :].copy().view(np.uint32)[:, 0]
        is_empty = np.zeros(len(indices), np.bool_)
        is_empty[~is_valid] = ~raw[~is_valid].any(axis=1)  # the sum of a sound record is never 0
        return raw[:, : self.record_bytes], is_valid, is_empty

    def write(self, indices: Indices, records: ByteArray) -> None:
        """Write ``records`` ``[n, size]`` at ``indices``; others may read and write elsewhere meanwhile."""
        rows_with_crc = np.empty((len(indices), self._stride), np.uint8)
        rows_with_crc[:, : self.record_bytes] = records
        rows_with_crc[:, self.record_bytes :] = self._checksums(rows_with_crc, indices)[:, None].view(np.uint8)
        shards, rows = np.divmod(indices, self.records_per_shard)
        for shard in np.unique(shards).tolist():
            self._ensure_shard(shard)
            file = os.open(self.shard_path(shard), os.O_WRONLY)
            try:
                for row in np.flatnonzero(shards == shard).tolist():
                    _write_all(file, rows_with_crc[row].tobytes(), int(rows[row]) * self._stride)
            except OSError as error:
                raise LimbeckError(
                    f"{self.shard_path(shard)} could not be written ({error}): free some space or choose another folder for "
                    "the cache; what was written stays good"
                ) from error
            finally:
                os.close(file)

    def scan_shard(self, shard: int) -> tuple[Indices, Indices]:
        """The places of a shard whose records are damaged, and those that were never written."""
        damaged, unwritten = [], []
        first = shard * self.records_per_shard
        for chunk in _index_chunks(
            first, min(first + self.records_per_shard, self.num_records), chunk_size=max(1, _SCAN_BYTES // self._stride)
        ):
            _, is_valid, is_empty = self.read(chunk)
            damaged.append(chunk[~is_valid & ~is_empty])
            unwritten.append(chunk[is_empty])
        return np.concatenate(damaged), np.concatenate(unwritten)

    def write_index(self, metadata: dict[str, Any]) -> bool:
        """Write the index, unless a record is missing or damaged; whether it stands."""
        if any(len(indices) for shard in range(self.num_shards) for indices in self.scan_shard(shard)):
            return False
        digests = []
        for shard in range(self.num_shards):
            with self.shard_path(shard).open("rb") as file:
                os.fsync(file.fileno())
            digests.append(digest(self.shard_path(shard)))
        text = json.dumps({**metadata, "shards": digests}, indent=1)
        write_atomically(self.folder / "index.json", lambda partial: partial.write_text(text))
        return True

    def changed_shards(self) -> list[int]:
        """The shards whose bytes are not those that the index was written for."""
        try:
            digests = json.loads((self.folder / "index.json").read_text())["shards"]
        except (OSError, ValueError, KeyError, TypeError):
            return list(range(self.num_shards))
        return [
            n
            for n in range(self.num_shards)
            if n >= len(digests) or not _digest_matches(self.shard_path(n), digests[n])
        ]

    def close(self) -> None:
        """Let go of the files."""
        while self._maps:
            self._maps.popitem()[1].close()

    def _ensure_shard(self, shard: int) -> None:
        path = self.shard_path(shard)
        rows = min(self.records_per_shard, self.num_records - shard * self.records_per_shard)
        if not path.exists() or path.stat().st_size < rows * self._stride:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Growing a file fills it with zeros, which are records that were never written; nobody's bytes are lost.
            with path.open("ab") as file:
                file.truncate(rows * self._stride)
            if (mapping := self._maps.pop(shard, None)) is not None:
                mapping.close()

    def _map_shard(self, shard: int) -> ByteArray:
        mapping = self._maps.get(shard)
        if mapping is None:
            self._ensure_shard(shard)
            while len(self._maps) >= _MAX_OPEN_SHARDS:
                self._maps.popitem(last=False)[1].close()
            with self.shard_path(shard).open("rb") as file:
                mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            if hasattr(mmap, "MADV_RANDOM"):
                mapping.madvise(mmap.MADV_RANDOM)
            self._maps[shard] = mapping
        self._maps.move_to_end(shard)
        self._recent.add(shard)
        rows = min(self.records_per_shard, self.num_records - shard * self.records_per_shard)
        return np.frombuffer(mapping, np.uint8, count=rows * self._stride).reshape(rows, self._stride)

    def _release_pages(self, num_rows: int) -> None:
        """Pages that were read count as resident until they are let go; the system keeps them in its own cache."""
        self._touched_bytes += num_rows * (_READAHEAD_BYTES + self._stride)
        if self._touched_bytes > _MAX_RESIDENT_BYTES and hasattr(mmap, "MADV_DONTNEED"):
            for shard in self._recent & self._maps.keys():
                self._maps[shard].madvise(mmap.MADV_DONTNEED)
            self._recent.clear()
            self._touched_bytes = 0

    def _checksums(self, raw: ByteArray, indices: Indices) -> NDArray[np.uint32]:
        """The check sum of each record at its place; never 0, which says that nothing was written."""
        flat, size = memoryview(raw[:, : self.record_bytes].tobytes()), self.record_bytes
        starts = range(0, len(indices) * size, size)
        checksums = [
            zlib.crc32(flat[i : i + size], index & _UINT32_MAX) or 1
            for i, index in zip(starts, indices.tolist(), strict=True)
        ]
        return np.array(checksums, np.uint32)


def _index_chunks(begin: int, end: int, *, chunk_size: int) -> Iterator[Indices]:
    for start in range(begin, end, chunk_size):
        yield np.arange(start, min(start + chunk_size, end), dtype=np.int64)


def _write_all(file: int, record: bytes, offset: int) -> None:
    while record:
        written = os.pwrite(file, record, offset)
        record, offset = record[written:], offset + written


def _digest_matches(path: Path, expected: Any) -> bool:
    try:
        return bool(digest(path) == expected)
    except OSError:
        return False
