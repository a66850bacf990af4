"""A teacher with outputs cached on disk by sample and view.

Outputs are computed and written when a view is first used, and read later. So the first epochs of a run fill the cache,
an interrupted run continues, and several processes may fill one cache. Outputs are always decoded from the written
bytes, so filling and reading runs are equal.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, final

import numpy as np
import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.core.outputs import Outputs
from limbeck.core.protocols import Task, Teacher
from limbeck.data import DataModule
from limbeck.data.batch_sampler import BatchSampler
from limbeck.teachers.cache.cache_config import CacheConfig
from limbeck.teachers.cache.cache_registry import cache_dir, lock_cache
from limbeck.teachers.cache.indexing import CHECKSUM_BYTES, RecordIndex, checksums_match, get_inputs, input_checksum
from limbeck.teachers.cache.layout import RecordLayout
from limbeck.teachers.cache.store import ByteArray, Indices, RecordStore
from limbeck.teachers.frozen import FrozenTeacher
from limbeck.utils.io import write_text

__all__ = ["CACHE_VERSION", "CachedTeacher"]

CACHE_VERSION: Final = 2


@final
class CachedTeacher(Teacher):
    """Caches the outputs of a teacher on disk.

    Args:
        teacher: a network, or a teacher with :meth:`~limbeck.core.protocols.Teacher.fingerprint`.
        data: a data module, or one of its batch samplers, with numbered views (``Augmentation(num_views=8)``).
        root: folder of all caches; ``None``: ``$LIMBECK_CACHE``, or ``~/.cache/limbeck/teacher_outputs``.
        config: how outputs are stored.
        name: name of the teacher in lists of caches.
        log: called with a message when records are repaired; ``None``: print to standard error.

    Batches need ``sample_id`` and ``view``. The cache is found by a hash of teacher, data, task and config. A damaged
    record, and one for another input, is computed again.

    Attributes:
        misses: outputs computed.
        hits: outputs read.
        repaired: damaged outputs computed again.

    >>> import limbeck, tempfile
    >>> from limbeck.data import Digits, Augmentation, affine
    >>> data = Digits(num_samples=64, augment=Augmentation((affine(),), num_views=2)).load()
    >>> with tempfile.TemporaryDirectory() as root:
    ...     teacher = CachedTeacher(limbeck.models.small_cnn(classes=10, channels=1, width=8), data, root=root)
    ...     batch, task = data.batches(batch_size=32).batch(0), limbeck.tasks.Classification(classes=10)
    ...     first, second = teacher.predict(batch, task), teacher.predict(batch, task)
    >>> torch.equal(first.require_logits(), second.require_logits()), teacher.misses, teacher.hits
    (True, 32, 32)
    """

    def __init__(
        self, teacher: nn.Module | Teacher, data: Any, *, root: str | Path | None = None,
        config: CacheConfig = CacheConfig(), name: str = "teacher", log: Callable[[str], None] | None = None,
    ) -> None:  # fmt: skip
        self._teacher: Teacher = FrozenTeacher(teacher) if isinstance(teacher, nn.Module) else teacher
        if type(self._teacher).fingerprint is Teacher.fingerprint:
            raise LimbeckError(f"a cached teacher needs a fingerprint, and {name!r} has none: define fingerprint()")
        stream = data.batches(batch_size=data.augmentation.repeats) if isinstance(data, DataModule) else data
        if not isinstance(stream, BatchSampler):
            raise LimbeckError(
                f"cached data must have a fingerprint and numbered views, got a {type(data).__name__}: use "
                "limbeck.data, such as limbeck.data.from_datasets"
            )
        self._data = stream
        self._root, self._config, self._name, self._log = root, config, name, log or _print_to_stderr
        self._record_index = RecordIndex(stream.split.sample_ids, num_views=stream.num_views)
        self._folder: Path | None = None
        self._store: RecordStore | None = None
        self._layout: RecordLayout | None = None
        self.misses = self.hits = self.repaired = 0

    @property
    def network(self) -> nn.Module | None:
        """The module of the wrapped teacher."""
        return self._teacher.network

    @property
    def num_entries(self) -> int:
        """Number of outputs in the complete cache: samples times views."""
        return len(self._record_index)

    @property
    def entry_fingerprint(self) -> str:
        """Fingerprint of teacher and config, equal for caches of the same outputs."""
        return f"{self._teacher.fingerprint()} {self._config}"

    def with_features(self, feature_layers: Mapping[str, str]) -> CachedTeacher:
        """The same with the features at ``feature_layers``, in another cache."""
        teacher = self._teacher.with_features(feature_layers)
        return CachedTeacher(teacher, self._data, root=self._root, config=self._config, name=self._name, log=self._log)

    def to(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Move the wrapped teacher."""
        self._teacher.to(fn)

    def predict(self, batch: Any, task: Task) -> Outputs:
        """Outputs for ``batch``, read where they are stored, else computed and written."""
        inputs, indices = get_inputs(batch), self._record_index.record_indices(batch)
        checksums = input_checksum(inputs)
        store = self._open_store(task)
        if store is None:
            records = self._predict_records(batch, checksums, task)
            self._create_store().write(indices, records)
        else:
            records = self._read_or_predict(store, batch, indices, checksums, task)
        assert self._layout is not None
        outputs = self._layout.unpack(records[:, CHECKSUM_BYTES:])
        return outputs if inputs.is_cpu else outputs.to(inputs.device)

    def populate(
        self, task: Task, *, batch_size: int = 256, rank: int = 0, world_size: int = 1
    ) -> Iterator[tuple[int, int]]:
        """Compute all missing outputs, or the share of process ``rank``; yields (number done, total)."""
        starts = range(rank * batch_size, self.num_entries, batch_size * world_size)
        for step, start in enumerate(starts):
            indices = np.arange(start, min(start + batch_size, self.num_entries), dtype=np.int64)
            store = self._open_store(task)
            missing = indices if store is None else indices[~store.read(indices)[1]]
            if store is not None and store.is_complete and len(missing):
                self._repair(store, missing, task)
            else:
                self._predict_and_write(missing, task)
            yield min((step + 1) * batch_size * world_size, self.num_entries), self.num_entries
        self.close()

    def close(self) -> None:
        """Write the index if all outputs are stored."""
        if self._store is not None and not self._store.is_complete:
            self._store.write_index(self._metadata())

    def stats(self) -> dict[str, Any]:
        """Key, folder and counts for ``record.json``."""
        return {
            "key": None if self._folder is None else self._folder.name,
            "folder": None if self._folder is None else str(self._folder),
            "num_outputs": self.num_entries, "num_views": self._record_index.num_views, "misses": self.misses,
            "hits": self.hits, "repaired": self.repaired,
            "bytes": None if self._store is None else self._store.num_bytes,
            "is_complete": self._store is not None and self._store.is_complete,
        }  # fmt: skip

    def _read_or_predict(
        self, store: RecordStore, batch: Any, indices: Indices, checksums: ByteArray, task: Task
    ) -> ByteArray:
        records, is_valid, is_empty = store.read(indices)
        if not (is_valid | is_empty).all():
            records, is_valid, is_empty = store.read(indices)  # another process may have been writing
        if (is_damaged := ~is_valid & (~is_empty | store.is_complete)).any():
            self._repair(store, indices[is_damaged], task)
            records, is_valid, is_empty = store.read(indices)
        matches_input = checksums_match(records[:, :CHECKSUM_BYTES], checksums)
        usable = is_valid & matches_input
        self.hits += int(usable.sum())
        if usable.all():
            return records
        if (mismatched := is_valid & ~matches_input).any():
            sample_id = self._record_index.sample_id(int(indices[mismatched][0]))
            self._log_message(
                f"{int(mismatched.sum())} outputs in {store.folder} are for other inputs (sample {sample_id}) and are "
                "computed again"
            )
        missing_batch = _index_batch(batch, ~usable) if usable.any() else batch
        records[~usable] = self._predict_records(missing_batch, checksums[~usable], task)
        store.write(indices[~usable], records[~usable])
        return records

    def _repair(self, store: RecordStore, indices: Indices, task: Task) -> None:
        """Compute all damaged outputs again in the shards of ``indices``."""
        was_complete = store.is_complete
        for shard in np.unique(indices // store.records_per_shard).tolist():
            damaged, unwritten = store.scan_shard(shard)
            to_repair = np.concatenate([damaged, unwritten]) if was_complete else damaged
            self._log_message(f"{store.shard_path(shard)} is damaged: {len(to_repair)} outputs are computed again")
            self._predict_and_write(to_repair, task)
            self.repaired += len(to_repair)
        if was_complete:
            store.write_index(self._metadata())

    def _predict_and_write(self, indices: Indices, task: Task) -> None:
        for chunk in np.split(indices, range(256, len(indices), 256)):
            if len(chunk):
                batch = self._data.load(*self._record_index.sample_views(chunk))
                records = self._predict_records(batch, input_checksum(get_inputs(batch)), task)
                self._create_store().write(chunk, records)

    def _predict_records(self, batch: Any, checksums: ByteArray, task: Task) -> ByteArray:
        # Without autocast: the precision of the run is not in the key.
        with torch.autocast(get_inputs(batch).device.type, enabled=False):
            outputs = self._teacher.predict(batch, task)
        self.misses += len(checksums)
        if self._layout is None:
            self._layout = RecordLayout.from_outputs(outputs, len(checksums), self._config)
        return np.concatenate([checksums, self._layout.pack(outputs, len(checksums))], axis=1)

    def _open_store(self, task: Task) -> RecordStore | None:
        """The store, where any process has created it."""
        if self._store is not None:
            return self._store
        if self._folder is None:
            self._folder = cache_dir(self._root) / self._key(task)
        path = self._folder / "layout.json"
        if not path.exists():
            return None
        try:
            self._layout = RecordLayout.from_dict(json.loads(path.read_text())["layout"])
        except (OSError, ValueError, KeyError, TypeError, LimbeckError) as error:
            self._log_message(f"{path} is damaged ({error}) and is written again with the first output")
            return None
        return self._create_store()

    def _create_store(self) -> RecordStore:
        if self._store is None:
            assert self._layout is not None
            assert self._folder is not None
            self._lock = lock_cache(self._folder)
            metadata = json.dumps(self._metadata(), indent=1)
            if not (path := self._folder / "layout.json").exists() or path.read_text() != metadata:
                write_text(path, metadata)
            record_bytes = CHECKSUM_BYTES + self._layout.num_bytes
            self._store = RecordStore(self._folder, record_bytes=record_bytes, num_records=self.num_entries)
        return self._store

    def _key(self, task: Task) -> str:
        """32 hex digits that depend on everything that changes the outputs."""
        components = {
            "version": CACHE_VERSION, "teacher": self._teacher.fingerprint(), "data": self._data.fingerprint(),
            "num_views": self._record_index.num_views, "task": repr(task), "config": self._config.model_dump(),
        }  # fmt: skip
        return hashlib.sha256(json.dumps(components, sort_keys=True).encode()).hexdigest()[:32]

    def _metadata(self) -> dict[str, Any]:
        assert self._layout is not None
        assert self._folder is not None
        return {
            "key": self._folder.name, "teacher": self._name, "num_samples": self._record_index.num_samples,
            "num_views": self._record_index.num_views, "layout": self._layout.to_dict(),
        }  # fmt: skip

    def _log_message(self, text: str) -> None:
        self._log(f"cache of {self._name!r}: {text}")

    def __repr__(self) -> str:
        return f"CachedTeacher({self._teacher!r}, num_views={self._record_index.num_views}, config={self._config})"


def _index_batch(batch: dict[str, Any], mask: Any) -> dict[str, Any]:
    """The samples of a batch where ``mask`` is true."""
    index, batch_size = torch.from_numpy(mask), len(mask)
    return {
        name: value[index.to(value.device)] if isinstance(value, Tensor) and len(value) == batch_size else value
        for name, value in batch.items()
    }


def _print_to_stderr(text: str) -> None:
    print(f"limbeck: {text}", file=sys.stderr)  # noqa: T201
