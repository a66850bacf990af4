"""The records of a cache on disk. Rows of samples that differ in their number of rows are in further stores.

The rows of a sample are in the store ``rows-C``, whose records have room for C rows, the next power of two. Files are
sparse, so that a store takes space only for the samples in it, and rows take at most twice their size.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray

from limbeck.teachers.cache.layout import RecordLayout, Records
from limbeck.teachers.cache.store import Indices, RecordStore

__all__ = ["OutputStore"]

_MIN_CAPACITY: Final = 8


@final
class OutputStore:
    """``num_records`` records of ``layout``, each after the checksums of its input, in ``folder``.

    Its methods are those of :class:`~limbeck.teachers.cache.store.RecordStore`, with :class:`Records`.
    """

    def __init__(self, folder: Path, layout: RecordLayout, *, num_records: int) -> None:
        record_bytes = layout.checksum_bytes + layout.num_bytes
        self._main = RecordStore(folder, record_bytes=record_bytes, num_records=num_records)
        self._layout, self._num_records, self.folder = layout, num_records, folder
        self.num_shards, self.records_per_shard = self._main.num_shards, self._main.records_per_shard
        self.shard_path, self.changed_shards = self._main.shard_path, self._main.changed_shards

    @property
    def is_complete(self) -> bool:
        """Whether the index exists, so that all records were written."""
        return self._main.is_complete

    @property
    def num_bytes(self) -> int:
        """Size of all records; of rows, of those that are written."""
        files = self.folder.glob("rows-*/*.bin") if self._layout.has_rows else ()
        return self._main.num_bytes + sum(path.stat().st_blocks * 512 for path in files)

    def read(self, indices: Indices) -> tuple[Records, NDArray[np.bool_], NDArray[np.bool_]]:
        """The records at ``indices``, which are valid, and which were never written."""
        fixed, is_valid, is_empty = self._main.read(indices)
        if not self._layout.has_rows:
            return Records(fixed), is_valid, is_empty
        rows = np.empty(len(indices), np.object_)
        rows[:] = [np.empty(0, np.uint8)] * len(indices)
        lengths = self._lengths(fixed) * is_valid
        is_valid = is_valid & (lengths >= 0)
        for capacity, group in _by_capacity(lengths).items():
            raw, is_sound, _ = self._row_store(capacity).read(indices[group])
            is_valid[group] &= is_sound
            for position, record in zip(group.tolist(), raw, strict=True):
                rows[position] = record[: lengths[position] * self._layout.row_dtype.itemsize]
        return Records(fixed, rows), is_valid, is_empty

    def write(self, indices: Indices, records: Records) -> None:
        """Write ``records`` at ``indices``; other processes may read and write other records."""
        if records.rows is not None:  # before the record that refers to them
            for capacity, group in _by_capacity(self._lengths(records.fixed)).items():
                store = self._row_store(capacity)
                padded = np.zeros((len(group), store.record_bytes), np.uint8)
                for row, position in enumerate(group.tolist()):
                    padded[row, : len(records.rows[position])] = records.rows[position]
                store.write(indices[group], padded)
        self._main.write(indices, records.fixed)

    def scan_shard(self, shard: int) -> tuple[Indices, Indices]:
        """The indices of damaged records in a shard, also of those with damaged rows, and of unwritten records."""
        damaged, unwritten = self._main.scan_shard(shard)
        if not self._layout.has_rows:
            return damaged, unwritten
        start = shard * self.records_per_shard
        end = min(start + self.records_per_shard, self._num_records)
        for chunk in np.split(np.arange(start, end, dtype=np.int64), range(1024, end - start, 1024)):
            _, is_valid, is_empty = self.read(chunk)
            damaged = np.union1d(damaged, chunk[~is_valid & ~is_empty])
        return damaged, unwritten

    def written_indices(self, count: int) -> Indices:
        """At most ``count`` indices of valid records, evenly spaced among the first that are found."""
        for shard in range(self.num_shards):
            if not self.shard_path(shard).exists():
                continue
            start = shard * self.records_per_shard
            end = min(start + self.records_per_shard, self._num_records)
            for chunk in np.split(np.arange(start, end, dtype=np.int64), range(4096, end - start, 4096)):
                valid = chunk[self._main.read(chunk)[1]]
                if len(valid):
                    return valid[np.linspace(0, len(valid) - 1, min(count, len(valid))).astype(np.int64)]
        return np.empty(0, np.int64)

    def write_index(self, metadata: dict[str, Any]) -> bool:
        """Write the index unless a record is missing or damaged; whether it was written."""
        if self._layout.has_rows and any(len(self.scan_shard(shard)[0]) for shard in range(self.num_shards)):
            return False
        return self._main.write_index(metadata)

    def _row_store(self, capacity: int) -> RecordStore:
        record_bytes = capacity * self._layout.row_dtype.itemsize
        folder = self.folder / f"rows-{capacity}"
        return RecordStore(folder, record_bytes=record_bytes, num_records=self._num_records)

    def _lengths(self, fixed: NDArray[np.uint8]) -> NDArray[np.int64]:
        return self._layout.lengths(fixed[:, self._layout.checksum_bytes :])


def _by_capacity(lengths: NDArray[np.int64]) -> dict[int, NDArray[np.int64]]:
    """The positions of samples with rows, by the room that their rows take.

    >>> {capacity: group.tolist() for capacity, group in _by_capacity(np.array([0, 3, 9, 8])).items()}
    {8: [1, 3], 16: [2]}
    """
    capacities = np.array([max(_MIN_CAPACITY, 1 << max(0, int(n) - 1).bit_length()) if n > 0 else 0 for n in lengths])
    return {int(c): np.flatnonzero(capacities == c) for c in np.unique(capacities) if c}
