"""A teacher that is asked once: its answers are kept on disk, by sample and view, and later runs read them.

The first time a view is shown, the teacher is asked and its answer written; from then on it is read. So the first
epochs of a run fill the cache while they train, a run that was killed goes on where it was, several processes may fill
one cache together, and every later run, study or search pays for the student only. What is handed out is always what
was written and read back, so a run that fills a cache and one that reads it are the same run.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, final

import numpy as np
import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.core.outputs import Outputs
from limbeck.core.protocols import FingerprintedTeacher, Task, Teacher
from limbeck.data import DataModule
from limbeck.teachers.cache.cache_config import CacheConfig
from limbeck.teachers.cache.cache_key import cache_key
from limbeck.teachers.cache.cache_registry import cache_dir, lock_cache
from limbeck.teachers.cache.codec import ByteArray
from limbeck.teachers.cache.indexing import RecordIndex
from limbeck.teachers.cache.input_checksum import CHECKSUM_BYTES, checksums_match, get_inputs, input_checksum
from limbeck.teachers.cache.layout import RecordLayout
from limbeck.teachers.cache.store import Indices, RecordStore
from limbeck.teachers.frozen import FrozenTeacher
from limbeck.utils.io import write_atomically

__all__ = ["CacheableData", "CachedTeacher"]


class CacheableData(Protocol):
    """What is shown, and how it is known again: the streams of :mod:`limbeck.data` are such."""

    @property
    def split(self) -> Any:
        """The samples, with their ``sample_ids``."""
        ...

    @property
    def num_views(self) -> int:
        """How many views of each there are; 0 where each is made anew."""
        ...

    def load(self, sample_indices: Tensor, views: Tensor) -> Any:
        """The batch of the samples at places ``sample_indices`` of the part in views ``views``."""
        ...

    def fingerprint(self) -> str:
        """A hash of all that decides the pictures."""
        ...


@final
class CachedTeacher:
    """A :class:`~limbeck.core.protocols.Teacher` whose answers are kept on disk.

    Arguments:
        teacher: a network, or anything that answers like a teacher and has a ``fingerprint()``.
        data: limbeck's data, or one of its streams; its views have to be numbered (``Augmentation(num_views=8)``).
        root: the folder of all caches; ``None``: ``$LIMBECK_CACHE``, or ``~/.cache/limbeck/teacher_outputs``.
        config: how answers are written.
        name: what the teacher is called where caches are listed.
        log: who is told when a shard had to be mended; ``None``: standard error.

    Batches carry ``index``, the number of each sample, and ``view``. A damaged record, and one about another picture
    than the one at hand, is asked again, written again, and told.

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
        self,
        teacher: nn.Module | Teacher,
        data: Any,
        *,
        root: str | Path | None = None,
        config: CacheConfig = CacheConfig(),
        name: str = "teacher",
        log: Callable[[str], None] | None = None,
    ) -> None:
        teacher_source: Teacher = FrozenTeacher(teacher) if isinstance(teacher, nn.Module) else teacher
        if not isinstance(teacher_source, FingerprintedTeacher):
            raise LimbeckError(
                f"the teacher {name!r} ({teacher_source!r}) cannot say what it is, so its answers could not be told from "
                "another's: give it a fingerprint()"
            )
        self._teacher = teacher_source
        self._data = _require_cacheable(data)
        self._root, self._config, self._name, self._log = root, config, name, log or _print_to_stderr
        self._record_index = RecordIndex(self._data.split.sample_ids, num_views=self._data.num_views)
        self._folder: Path | None = None
        self._store: RecordStore | None = None
        self._layout: RecordLayout | None = None
        self.misses = self.hits = self.repaired = 0

    @property
    def network(self) -> Any:
        """The teacher's network, or ``None`` where it is none."""
        return getattr(self._teacher, "network", None)

    @property
    def num_entries(self) -> int:
        """How many answers the whole cache holds: samples times views."""
        return len(self._record_index)

    @property
    def entry_fingerprint(self) -> str:
        """Whose answers these are, and how they are written: the same for two caches with one key."""
        return f"{self._teacher.fingerprint()} {self._config}"

    def with_features(self, feature_layers: Mapping[str, str]) -> CachedTeacher:
        """The same with hidden features read at ``feature_layers``, kept in a cache of their own."""
        teacher = self._teacher.with_features(feature_layers) if hasattr(self._teacher, "with_features") else None
        if teacher is None:
            raise LimbeckError(f"the teacher {self._name!r} is no network, so it cannot be tapped: {self._teacher!r}")
        return CachedTeacher(teacher, self._data, root=self._root, config=self._config, name=self._name, log=self._log)

    def to(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Take the teacher along to another device or precision."""
        if hasattr(self._teacher, "to"):
            self._teacher.to(fn)

    def predict(self, batch: Any, task: Task) -> Outputs:
        """What the teacher says about ``batch``: read where it is known, else asked and written."""
        inputs, indices = get_inputs(batch), self._record_index.record_indices(batch)
        checksums = input_checksum(inputs)
        store = self._open_store(task)
        if store is None:
            records = self._predict_records(batch, checksums, task)
            store = self._create_store(task)
            store.write(indices, records)
        else:
            records = self._read_or_predict(store, batch, indices, checksums, task)
        assert self._layout is not None
        outputs = self._layout.unpack(records[:, CHECKSUM_BYTES:])
        return outputs if inputs.is_cpu else outputs.to(inputs.device)

    def populate(
        self, task: Task, *, batch_size: int = 256, rank: int = 0, world_size: int = 1
    ) -> Iterator[tuple[int, int]]:
        """Ask about everything that is not known yet, in order, this process its share; yields (done, of how many)."""
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

    def close(self) -> bool:
        """Write the index, if every answer is there; whether the cache is complete."""
        if self._store is None or self._store.is_complete:
            return self._store is not None
        return self._store.write_index(self._metadata())

    def stats(self) -> dict[str, Any]:
        """What is worth recording: the key, the folder, and how many answers were asked for, read and mended."""
        store = self._store
        return {
            "key": None if self._folder is None else self._folder.name,
            "folder": None if self._folder is None else str(self._folder),
            "num_outputs": self.num_entries, "num_views": self._record_index.num_views, "misses": self.misses,
            "hits": self.hits, "repaired": self.repaired, "bytes": None if store is None else store.num_bytes,
            "is_complete": store is not None and store.is_complete,
        }  # fmt: skip

    def _read_or_predict(
        self, store: RecordStore, batch: Any, indices: Indices, checksums: ByteArray, task: Task
    ) -> ByteArray:
        records, is_valid, is_empty = store.read(indices)
        if is_valid.all() and checksums_match(records[:, :CHECKSUM_BYTES], checksums).all():
            self.hits += len(indices)
            return records
        if not (is_valid | is_empty).all():
            records, is_valid, is_empty = store.read(indices)  # another process may have been writing just there
        if (is_damaged := ~is_valid & (~is_empty | store.is_complete)).any():
            self._repair(store, indices[is_damaged], task)
            records, is_valid, is_empty = store.read(indices)
        matches_input = checksums_match(records[:, :CHECKSUM_BYTES], checksums)
        usable = is_valid & matches_input
        self.hits += int(usable.sum())
        if usable.all():  # now that it was mended
            return records
        if (mismatched := is_valid & ~matches_input).any():
            self._log_message(
                f"{int(mismatched.sum())} answers in {store.folder} are about other pictures than these (sample "
                f"{self._record_index.sample_id(int(indices[mismatched][0]))}): they are asked again"
            )
        records[~usable] = self._predict_records(
            batch if not usable.any() else _index_batch(batch, ~usable), checksums[~usable], task
        )
        store.write(indices[~usable], records[~usable])
        return records

    def _repair(self, store: RecordStore, indices: Indices, task: Task) -> None:
        """Ask again for all that is damaged in the shards where ``indices`` are."""
        was_complete = store.is_complete
        for shard in np.unique(indices // store.records_per_shard).tolist():
            damaged, unwritten = store.scan_shard(shard)
            to_repair = np.concatenate([damaged, unwritten]) if was_complete else damaged
            self._log_message(
                f"{store.shard_path(shard)} is damaged: {len(to_repair)} of its answers are asked again, the others are sound"
            )
            self._predict_and_write(to_repair, task)
            self.repaired += len(to_repair)
        if was_complete:
            store.write_index(self._metadata())

    def _predict_and_write(self, indices: Indices, task: Task) -> None:
        for chunk in np.split(indices, range(256, len(indices), 256)):
            if len(chunk):
                batch = self._data.load(*self._record_index.sample_views(chunk))
                records = self._predict_records(batch, input_checksum(get_inputs(batch)), task)
                self._create_store(task).write(chunk, records)

    def _predict_records(self, batch: Any, checksums: ByteArray, task: Task) -> ByteArray:
        # In full precision whatever the run's: mixed precision is no part of the key, and another run may have none.
        with torch.autocast(get_inputs(batch).device.type, enabled=False):
            outputs = self._teacher.predict(batch, task)
        self.misses += len(checksums)
        if self._layout is None:
            self._layout = RecordLayout.from_outputs(outputs, len(checksums), self._config)
        return np.concatenate([checksums, self._layout.pack(outputs, len(checksums))], axis=1)

    def _open_store(self, task: Task) -> RecordStore | None:
        """The store, where this cache was begun already, by whomever."""
        if self._store is not None:
            return self._store
        if self._folder is None:
            teacher, data = self._teacher.fingerprint(), self._data.fingerprint()
            cache_name = cache_key(
                teacher, data, num_views=self._record_index.num_views, task=task, config=self._config
            )
            self._folder = cache_dir(self._root) / cache_name
        path = self._folder / "layout.json"
        if not path.exists():
            return None
        try:
            self._layout = RecordLayout.from_dict(json.loads(path.read_text())["layout"])
        except (OSError, ValueError, KeyError, TypeError, LimbeckError) as error:
            self._log_message(f"{path} is damaged ({error}): it is written anew by the first answer")
            return None
        return self._create_store(task)

    def _create_store(self, task: Task) -> RecordStore:
        """The store, begun now where it was not."""
        if self._store is None:
            assert self._layout is not None
            assert self._folder is not None
            self._lock = lock_cache(self._folder)
            metadata = json.dumps(self._metadata(), indent=1)
            if not (path := self._folder / "layout.json").exists() or path.read_text() != metadata:
                write_atomically(path, lambda partial: partial.write_text(metadata))
            self._store = RecordStore(
                self._folder, record_bytes=CHECKSUM_BYTES + self._layout.num_bytes, num_records=self.num_entries
            )
        return self._store

    def _metadata(self) -> dict[str, Any]:
        assert self._layout is not None
        assert self._folder is not None
        return {
            "key": self._folder.name, "teacher": self._name, "num_samples": self._record_index.num_samples, "num_views": self._record_index.num_views,
            "layout": self._layout.to_dict(),
        }  # fmt: skip

    def _log_message(self, text: str) -> None:
        self._log(f"cache of {self._name!r}: {text}")

    def __repr__(self) -> str:
        return f"CachedTeacher({self._teacher!r}, num_views={self._record_index.num_views}, config={self._config})"


def _require_cacheable(data: Any) -> CacheableData:
    stream = data.batches(batch_size=data.augmentation.repeats) if isinstance(data, DataModule) else data
    if not all(hasattr(stream, name) for name in ("split", "num_views", "load", "fingerprint")):
        raise LimbeckError(
            f"a {type(data).__name__} cannot say which pictures it shows, so no answer about them could be kept: give "
            "limbeck.data's, such as limbeck.data.from_datasets(yours)"
        )
    cacheable: CacheableData = stream
    return cacheable


def _index_batch(batch: dict[str, Any], mask: Any) -> dict[str, Any]:
    """The samples of a batch where ``mask`` is true."""
    index, batch_size = torch.from_numpy(mask), len(mask)
    return {
        name: value[index.to(value.device)] if isinstance(value, Tensor) and len(value) == batch_size else value
        for name, value in batch.items()
    }


def _print_to_stderr(text: str) -> None:
    print(f"limbeck: {text}", file=sys.stderr)  # noqa: T201
