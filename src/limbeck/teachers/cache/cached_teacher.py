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
from typing import Any, Final, Protocol, final, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from limbeck.core.errors import LimbeckError
from limbeck.core.outputs import Outputs
from limbeck.core.protocols import Teacher
from limbeck.core.task import Task
from limbeck.data.module import DataModule
from limbeck.teachers.cache.cache_checks import (
    NUM_CHECKED_RECORDS,
    require_independent_samples,
    require_same_outputs,
    select_sample,
    select_samples,
)
from limbeck.teachers.cache.cache_config import CacheConfig
from limbeck.teachers.cache.cache_registry import cache_dir, lock_cache
from limbeck.teachers.cache.cache_size import describe_size, estimate_bytes, is_large
from limbeck.teachers.cache.codec import TaskWithCodec, decode_outputs, encode_outputs, require_codec
from limbeck.teachers.cache.indexing import InputChecksums, RecordIndex
from limbeck.teachers.cache.layout import RecordLayout, Records
from limbeck.teachers.cache.output_store import OutputStore
from limbeck.teachers.cache.store import Indices
from limbeck.teachers.frozen import FrozenTeacher
from limbeck.teachers.identity import describe_network
from limbeck.utils.console import print_text
from limbeck.utils.io import parse_json, require_regular_file, write_text

__all__ = ["CACHE_VERSION", "CachedTeacher", "IndexedBatches"]

CACHE_VERSION: Final = 2


@runtime_checkable
class IndexedBatches(Protocol):
    """Batches whose samples can be loaded again, such as :class:`limbeck.data.batch_sampler.BatchSampler`.

    ``split.sample_ids`` are the ids of the samples, ``[samples]``.
    """

    @property
    def split(self) -> Any: ...

    @property
    def num_views(self) -> int: ...

    def fingerprint(self) -> str:
        """Text that changes whenever an input does."""

    def load(self, sample_indices: Tensor, views: Tensor) -> Any:
        """The batch of samples at ``sample_indices`` of the split in ``views``, with ``sample_id`` and ``view``."""


@final
class CachedTeacher(Teacher):
    """Caches the outputs of a teacher on disk.

    Args:
        teacher: a network, or a teacher with :meth:`~limbeck.core.protocols.Teacher.fingerprint`.
        data: a data module, or batches that load samples by position (:class:`IndexedBatches`), with numbered views
            (``Augmentation(num_views=8)``).
        root: folder of all caches; ``None``: ``$LIMBECK_CACHE``, or ``~/.cache/limbeck/teacher_outputs``.
        config: how outputs are stored.
        name: name of the teacher in lists of caches.
        log: called with a message when records are repaired; ``None``: print to standard error.

    Batches need ``sample_id`` and ``view``. The cache is found by a hash of teacher, data, task and config. A damaged
    record, and one for another input, is computed again. At the first batch, a few stored outputs are compared with the
    teacher, and a teacher whose outputs for a sample depend on its batch is refused.

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
        if not isinstance(stream, IndexedBatches):
            raise LimbeckError(
                f"cached data must have a fingerprint and numbered views, got a {type(data).__name__}: use "
                "limbeck.data, such as limbeck.data.from_datasets"
            )
        self._data: IndexedBatches = stream
        self._root, self._config, self._name, self._log = root, config, name, log or _print_to_stderr
        self._record_index = RecordIndex(stream.split.sample_ids, num_views=stream.num_views)
        self._folder: Path | None = None
        self._store: OutputStore | None = None
        self._layout: RecordLayout | None = None
        self._num_bytes: int | None = None
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
        codec, indices = require_codec(task), self._record_index.record_indices(batch)
        checksums = InputChecksums(codec.model_inputs(batch), batch)
        store = self._open_store(codec)
        if store is None:
            records = self._predict_records(batch, checksums, codec)
            self._create_store().write(indices, records)
        else:
            records = self._read_or_predict(store, batch, indices, checksums, codec)
        assert self._layout is not None
        tensors = self._layout.unpack(records._replace(fixed=records.fixed[:, self._layout.checksum_bytes :]))
        return decode_outputs({name: t.to(checksums.device) for name, t in tensors.items()}, batch, codec)

    def check(self, task: Task) -> None:
        """Check the teacher and stored outputs before training, and log the size of a large cache; nothing is written.

        Raises:
            LimbeckError: the task has no codec; outputs depend on the batch; or stored outputs are not those of the
                teacher.
        """
        self._open_store(require_codec(task))
        if self._num_bytes is not None and is_large(self._num_bytes, cache_dir(self._root)):
            self._log_size()

    def populate(
        self, task: Task, *, batch_size: int = 256, rank: int = 0, world_size: int = 1
    ) -> Iterator[tuple[int, int]]:
        """Compute all missing outputs, or the share of process ``rank``; yields (number done, total).

        The size of the complete cache is logged first.
        """
        codec = require_codec(task)
        self._open_store(codec)
        if rank == 0:
            self._log_size()
        starts = range(rank * batch_size, self.num_entries, batch_size * world_size)
        for step, start in enumerate(starts):
            indices = np.arange(start, min(start + batch_size, self.num_entries), dtype=np.int64)
            store = self._open_store(codec)
            missing = indices if store is None else indices[~store.read(indices)[1]]
            if store is not None and store.is_complete and len(missing):
                self._repair(store, missing, codec)
            else:
                self._predict_and_write(missing, codec)
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
        self, store: OutputStore, batch: Any, indices: Indices, checksums: InputChecksums, task: TaskWithCodec
    ) -> Records:
        records, is_valid, is_empty = store.read(indices)
        if not (is_valid | is_empty).all():
            records, is_valid, is_empty = store.read(indices)  # another process may have been writing
        if (is_damaged := ~is_valid & (~is_empty | store.is_complete)).any():
            self._repair(store, indices[is_damaged], task)
            records, is_valid, is_empty = store.read(indices)
        matches_input = checksums.match(records.fixed)
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
        computed = self._predict_records(select_samples(batch, ~usable), checksums.select(~usable), task)
        store.write(indices[~usable], computed)
        records.fixed[~usable] = computed.fixed
        if records.rows is not None and computed.rows is not None:
            records.rows[~usable] = computed.rows
        return records

    def _repair(self, store: OutputStore, indices: Indices, task: TaskWithCodec) -> None:
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

    def _predict_and_write(self, indices: Indices, task: TaskWithCodec) -> None:
        for chunk in np.split(indices, range(256, len(indices), 256)):
            if len(chunk):
                batch = self._load_batch(chunk)
                records = self._predict_records(batch, InputChecksums(task.model_inputs(batch), batch), task)
                self._create_store().write(chunk, records)

    def _load_batch(self, indices: Indices) -> Any:
        """The samples and views of records, on the device and in the precision of the teacher."""
        batch = self._data.load(*self._record_index.sample_views(indices))
        parameters = () if self.network is None else self.network.parameters()
        parameter = next((parameter for parameter in parameters if parameter.is_floating_point()), None)
        if parameter is None or (parameter.is_cpu and parameter.dtype == torch.float32):
            return batch
        device, dtype = parameter.device, parameter.dtype

        def move(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return leaf
            return leaf.to(device, dtype) if leaf.is_floating_point() else leaf.to(device)

        return tree_map(move, batch)

    def _encode(self, teacher: Teacher, batch: Any, task: TaskWithCodec) -> dict[str, Tensor]:
        # Without autocast: the precision of the run is not in the key.
        device = InputChecksums.device_of(task.model_inputs(batch))
        with torch.autocast(device.type, enabled=False):
            outputs = teacher.predict(batch, task)
        return encode_outputs(outputs, batch, task, batch_size=len(batch["sample_id"]))

    def _predict_records(self, batch: Any, checksums: InputChecksums, task: TaskWithCodec) -> Records:
        tensors = self._encode(self._teacher, batch, task)
        self.misses += len(checksums.values)
        if self._layout is None:
            self._layout = RecordLayout.from_tensors(tensors, self._config, checksums=checksums.kinds)
        records = self._layout.pack(tensors)
        return records._replace(fixed=np.concatenate([checksums.values, records.fixed], axis=1))

    def _open_store(self, task: TaskWithCodec) -> OutputStore | None:
        """The store, where any process has created it."""
        if self._store is not None:
            return self._store
        if self._folder is None:
            kinds = self._check_independence(task)
            self._folder = cache_dir(self._root) / self._key(task, kinds)
        path = self._folder / "layout.json"
        if not path.exists():
            return None
        try:
            self._layout = RecordLayout.from_dict(parse_json(require_regular_file(path).read_text())["layout"])
        except (OSError, ValueError, KeyError, TypeError, LimbeckError) as error:
            self._log_message(f"{path} is damaged ({error}) and is written again with the first output")
            return None
        self._check_stored(OutputStore(self._folder, self._layout, num_records=self.num_entries), task)
        return self._create_store()

    def _create_store(self) -> OutputStore:
        if self._store is None:
            assert self._layout is not None
            assert self._folder is not None
            self._lock = lock_cache(self._folder)
            metadata = json.dumps(self._metadata(), indent=1)
            if not (path := self._folder / "layout.json").exists() or path.read_text() != metadata:
                write_text(path, metadata)
            self._store = OutputStore(self._folder, self._layout, num_records=self.num_entries)
        return self._store

    def _check_independence(self, task: TaskWithCodec) -> tuple[str, ...]:
        """Compare the outputs for one sample in two batches; returns the kinds of checksums of the inputs.

        Attributes that the second call changes, such as a counter, are no part of the identity of the teacher.
        """
        num_samples, num_views = self._record_index.num_samples, self._record_index.num_views
        batches = [
            self._load_batch(np.array([i % num_samples for i in samples], np.int64) * num_views)
            for samples in ((0, 1), (0, 2, 3))
        ]
        if not self._teacher.can_predict:
            return InputChecksums(task.model_inputs(batches[0]), batches[0]).kinds
        teacher, network = self._checked_teacher(), self.network
        first = self._encode(teacher, batches[0], task)
        before = {} if network is None else describe_network(network)
        second = self._encode(teacher, batches[1], task)
        after = {} if network is None else describe_network(network)
        if isinstance(self._teacher, FrozenTeacher):
            changed = (path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
            self._teacher.ignored_attributes = frozenset(changed)
        require_independent_samples(first, second, name=self._name)
        kinds = InputChecksums(task.model_inputs(batches[0]), batches[0]).kinds
        layout = RecordLayout.from_tensors(first, self._config, checksums=kinds)
        self._num_bytes = estimate_bytes(layout, first, self.num_entries)
        return kinds

    def _check_stored(self, store: OutputStore, task: TaskWithCodec) -> None:
        """Compare a few stored outputs, for inputs that have not changed, with those of the teacher."""
        assert self._layout is not None
        indices = store.written_indices(NUM_CHECKED_RECORDS)
        if not len(indices) or not self._teacher.can_predict:
            return
        batch, (records, is_valid, _) = self._load_batch(indices), store.read(indices)
        comparable = is_valid & InputChecksums(task.model_inputs(batch), batch).match(records.fixed)
        live = self._encode(self._checked_teacher(), batch, task)
        stored = records._replace(fixed=records.fixed[:, self._layout.checksum_bytes :])
        for position in np.flatnonzero(comparable).tolist():
            sample_id = self._record_index.sample_id(int(indices[position]))
            require_same_outputs(
                self._layout, stored.select(slice(position, position + 1)), select_sample(live, position),
                name=self._name, sample_id=sample_id, folder=store.folder,
            )  # fmt: skip

    def _checked_teacher(self) -> Teacher:
        """The teacher for checks: in eager mode, since a backend is selected by the first training batch."""
        if isinstance(self._teacher, FrozenTeacher):
            return FrozenTeacher(self._teacher.network, self._teacher.feature_layers)
        return self._teacher

    def _key(self, task: Task, checksums: tuple[str, ...]) -> str:
        """32 hex digits that depend on everything that changes the outputs."""
        components: dict[str, Any] = {
            "version": CACHE_VERSION, "teacher": self._teacher.fingerprint(), "data": self._data.fingerprint(),
            "num_views": self._record_index.num_views, "task": repr(task), "config": self._config.model_dump(),
        }  # fmt: skip
        if checksums != ("float",):
            components["checksums"] = checksums
        return hashlib.sha256(json.dumps(components, sort_keys=True).encode()).hexdigest()[:32]

    def _metadata(self) -> dict[str, Any]:
        assert self._layout is not None
        assert self._folder is not None
        return {
            "key": self._folder.name, "teacher": self._name, "num_samples": self._record_index.num_samples,
            "num_views": self._record_index.num_views, "layout": self._layout.to_dict(),
        }  # fmt: skip

    def _log_size(self) -> None:
        if self._num_bytes is not None:
            self._log_message(describe_size(self._num_bytes, self.num_entries, cache_dir(self._root)))

    def _log_message(self, text: str) -> None:
        self._log(f"cache of {self._name!r}: {text}")

    def __repr__(self) -> str:
        return f"CachedTeacher({self._teacher!r}, num_views={self._record_index.num_views}, config={self._config})"


def _print_to_stderr(text: str) -> None:
    print_text(f"limbeck: {text}", file=sys.stderr)
