"""Records of fixed size in shard files: written in any order by several processes, and verified when read.

A record ends with a CRC-32 of its bytes and its index, which detects torn writes, flipped bytes and misplaced
records. A record of zeros was never written. The index file, with a SHA-256 of each shard, is written when all
records are.
"""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray

from limbeck.core.errors import LimbeckError
from limbeck.utils.io import digest, open_no_link, parse_json, require_regular_file, write_text

__all__ = ["CRC_BYTES", "ByteArray", "Indices", "RecordStore"]

CRC_BYTES: Final = 4
_SHARD_BYTES = 32 * 2**20
_SCAN_BYTES = 4 * 2**20
_UINT32_MAX = 2**32 - 1

ByteArray = NDArray[np.uint8]
Indices = NDArray[np.int64]


@final
class RecordStore:
    """``num_records`` records of ``record_bytes`` bytes in ``folder``.

    Args:
        folder: folder of this store only.
        record_bytes: size of a record without its CRC.
        num_records: number of records.
        shard_bytes: largest size of a shard.
    """

    def __init__(self, folder: Path, *, record_bytes: int, num_records: int, shard_bytes: int = _SHARD_BYTES) -> None:
        self.folder, self.record_bytes, self.num_records = folder, record_bytes, num_records
        self._stride = record_bytes + CRC_BYTES
        self.records_per_shard = max(1, min(num_records, shard_bytes // self._stride))
        self.num_shards = -(-num_records // self.records_per_shard)

    @property
    def num_bytes(self) -> int:
        """Size of all records."""
        return self.num_records * self._stride

    @property
    def is_complete(self) -> bool:
        """Whether the index exists, so that all records were written."""
        return (self.folder / "index.json").exists()

    def shard_path(self, shard: int) -> Path:
        """The file of a shard."""
        return self.folder / f"shard-{shard:05d}.bin"

    def read(self, indices: Indices) -> tuple[ByteArray, NDArray[np.bool_], NDArray[np.bool_]]:
        """The records at ``indices``: their bytes, which are valid, and which were never written."""
        raw = np.zeros((len(indices), self._stride), np.uint8)
        shards, rows = np.divmod(indices, self.records_per_shard)
        for shard in np.unique(shards).tolist():
            in_shard = shards == shard
            raw[in_shard] = self._read_shard(shard, rows[in_shard])
        is_valid = self._checksums(raw, indices) == raw[:, self.record_bytes :].copy().view(np.uint32)[:, 0]
        is_empty = ~is_valid
        is_empty[~is_valid] = ~raw[~is_valid].any(axis=1)  # the CRC of a valid record is never 0
        return raw[:, : self.record_bytes], is_valid, is_empty

    def write(self, indices: Indices, records: ByteArray) -> None:
        """Write ``records`` ``[n, record_bytes]`` at ``indices``; other processes may read and write other records."""
        raw = np.concatenate([records, self._checksums(records, indices)[:, None].view(np.uint8)], axis=1)
        shards, rows = np.divmod(indices, self.records_per_shard)
        self.folder.mkdir(parents=True, exist_ok=True)
        for shard in np.unique(shards).tolist():
            path = self.shard_path(shard)
            try:
                with open(path, "r+b", buffering=0, opener=open_no_link) as file:
                    for i in np.flatnonzero(shards == shard).tolist():
                        record, offset = raw[i].tobytes(), int(rows[i]) * self._stride
                        while record:
                            num_written = os.pwrite(file.fileno(), record, offset)
                            record, offset = record[num_written:], offset + num_written
            except OSError as error:
                raise LimbeckError(
                    f"{path} could not be written ({error}): free some space or set another folder for the cache; "
                    "records written before stay valid"
                ) from error

    def scan_shard(self, shard: int) -> tuple[Indices, Indices]:
        """The indices of damaged records in a shard, and of those that were never written."""
        damaged, unwritten = [], []
        start = shard * self.records_per_shard
        end, chunk_size = min(start + self.records_per_shard, self.num_records), max(1, _SCAN_BYTES // self._stride)
        for chunk_start in range(start, end, chunk_size):
            indices = np.arange(chunk_start, min(chunk_start + chunk_size, end), dtype=np.int64)
            _, is_valid, is_empty = self.read(indices)
            damaged.append(indices[~is_valid & ~is_empty])
            unwritten.append(indices[is_empty])
        return np.concatenate(damaged), np.concatenate(unwritten)

    def write_index(self, metadata: dict[str, Any]) -> bool:
        """Write the index unless a record is missing or damaged; whether it was written."""
        if any(len(indices) for shard in range(self.num_shards) for indices in self.scan_shard(shard)):
            return False
        digests = []
        for path in map(self.shard_path, range(self.num_shards)):
            with path.open("rb") as file:
                os.fsync(file.fileno())
            digests.append(digest(path))
        text = json.dumps({**metadata, "shards": digests}, indent=1)
        write_text(self.folder / "index.json", text)
        return True

    def changed_shards(self) -> list[int]:
        """The shards whose bytes differ from those at the time of the index."""
        try:
            digests = list(parse_json(require_regular_file(self.folder / "index.json").read_text())["shards"])
        except (OSError, ValueError, KeyError, TypeError):
            digests = []
        paths = map(self.shard_path, range(self.num_shards))
        current = [digest(path) if path.exists() else None for path in paths]
        return [shard for shard in range(self.num_shards) if digests[shard : shard + 1] != [current[shard]]]

    def _read_shard(self, shard: int, rows: Indices) -> ByteArray:
        """The records at ``rows`` of a shard, zeros where it ends before; runs of successive rows are read at once."""
        if not self.shard_path(shard).exists():
            return np.zeros((len(rows), self._stride), np.uint8)
        run_starts = np.flatnonzero(np.diff(rows, prepend=-2) != 1)
        run_lengths = np.diff(run_starts, append=len(rows))
        with require_regular_file(self.shard_path(shard)).open("rb", buffering=0) as file:
            runs = [
                os.pread(file.fileno(), length * self._stride, row * self._stride).ljust(length * self._stride, b"\0")
                for row, length in zip(rows[run_starts].tolist(), run_lengths.tolist(), strict=True)
            ]
        return np.frombuffer(b"".join(runs), np.uint8).reshape(-1, self._stride)

    def _checksums(self, raw: ByteArray, indices: Indices) -> NDArray[np.uint32]:
        """The CRC-32 of each record, started with its index; never 0, which means an empty record."""
        records = (row.tobytes() for row in raw[:, : self.record_bytes])
        checksums = [zlib.crc32(r, i & _UINT32_MAX) or 1 for r, i in zip(records, indices.tolist(), strict=True)]
        return np.array(checksums, np.uint32)
