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
from limbeck.core.protocols import Identified, Task, TeacherSource
from limbeck.data import Data
from limbeck.teachers.cache.cache_config import Format
from limbeck.teachers.cache.cache_key import key
from limbeck.teachers.cache.cache_registry import home, opened
from limbeck.teachers.cache.codec import Bytes
from limbeck.teachers.cache.indexing import Slots
from limbeck.teachers.cache.input_checksum import STAMP, inputs_of, same, stamp
from limbeck.teachers.cache.layout import Layout
from limbeck.teachers.cache.store import Places, Store
from limbeck.teachers.frozen import Frozen
from limbeck.utils.io import write_atomically

__all__ = ["Cached", "Pictures"]


class Pictures(Protocol):
    """What is shown, and how it is known again: the streams of :mod:`limbeck.data` are such."""

    @property
    def part(self) -> Any:
        """The samples, with their ``number``."""
        ...

    @property
    def views_per_sample(self) -> int:
        """How many views of each there are; 0 where each is made anew."""
        ...

    def show(self, which: Tensor, view: Tensor) -> Any:
        """The batch of the samples at places ``which`` of the part in views ``view``."""
        ...

    def identity(self) -> str:
        """A hash of all that decides the pictures."""
        ...


@final
class Cached:
    """A :class:`~limbeck.core.protocols.TeacherSource` whose answers are kept on disk.

    Arguments:
        teacher: a network, or anything that answers like a teacher and has an ``identity()``.
        data: limbeck's data, or one of its streams; its views have to be numbered (``Views(per_sample=8)``).
        root: the folder of all caches; ``None``: ``$LIMBECK_CACHE``, or ``~/.cache/limbeck/answers``.
        format: how answers are written.
        name: what the teacher is called where caches are listed.
        tell: who is told when a shard had to be mended; ``None``: standard error.

    Batches carry ``index``, the number of each sample, and ``view``. A damaged record, and one about another picture
    than the one at hand, is asked again, written again, and told.

    >>> import limbeck, tempfile
    >>> from limbeck.data import Digits, Views, affine
    >>> data = Digits(take=64, views=Views((affine(),), per_sample=2)).load()
    >>> with tempfile.TemporaryDirectory() as root:
    ...     teacher = Cached(limbeck.models.small_cnn(classes=10, channels=1, width=8), data, root=root)
    ...     batch, task = data.stream(batch=32).batch(0), limbeck.tasks.Classification(classes=10)
    ...     first, second = teacher.answer(batch, task), teacher.answer(batch, task)
    >>> torch.equal(first.rows(), second.rows()), teacher.asked, teacher.read
    (True, 32, 32)
    """

    def __init__(
        self,
        teacher: nn.Module | TeacherSource,
        data: Any,
        *,
        root: str | Path | None = None,
        format: Format = Format(),
        name: str = "teacher",
        tell: Callable[[str], None] | None = None,
    ) -> None:
        source: TeacherSource = Frozen(teacher) if isinstance(teacher, nn.Module) else teacher
        if not isinstance(source, Identified):
            raise LimbeckError(
                f"the teacher {name!r} ({source!r}) cannot say what it is, so its answers could not be told from "
                "another's: give it an identity()"
            )
        self._teacher = source
        self._pictures = _pictures(data)
        self._root, self._format, self._name, self._tell = root, format, name, tell or _to_stderr
        self._slots = Slots(self._pictures.part.number, views=self._pictures.views_per_sample)
        self._folder: Path | None = None
        self._store: Store | None = None
        self._layout: Layout | None = None
        self.asked = self.read = self.mended = 0

    @property
    def network(self) -> Any:
        """The teacher's network, or ``None`` where it is none."""
        return getattr(self._teacher, "network", None)

    @property
    def answers(self) -> int:
        """How many answers the whole cache holds: samples times views."""
        return len(self._slots)

    @property
    def subject(self) -> str:
        """Whose answers these are, and how they are written: the same for two caches with one key."""
        return f"{self._teacher.identity()} {self._format}"

    def tapped(self, places: Mapping[str, str]) -> Cached:
        """The same with hidden features read at ``places``, kept in a cache of their own."""
        teacher = self._teacher.tapped(places) if hasattr(self._teacher, "tapped") else None
        if teacher is None:
            raise LimbeckError(f"the teacher {self._name!r} is no network, so it cannot be tapped: {self._teacher!r}")
        return Cached(teacher, self._pictures, root=self._root, format=self._format, name=self._name, tell=self._tell)

    def move(self, change: Callable[[Tensor], Tensor]) -> None:
        """Take the teacher along to another device or precision."""
        if hasattr(self._teacher, "move"):
            self._teacher.move(change)

    def answer(self, batch: Any, task: Task) -> Outputs:
        """What the teacher says about ``batch``: read where it is known, else asked and written."""
        inputs, places = inputs_of(batch), self._slots.of(batch)
        stamps = stamp(inputs)
        store = self._open(task)
        if store is None:
            records = self._ask(batch, stamps, task)
            store = self._begun(task)
            store.write(places, records)
        else:
            records = self._known(store, batch, places, stamps, task)
        assert self._layout is not None
        said = self._layout.unpack(records[:, STAMP:])
        return said if inputs.is_cpu else said.to(inputs.device)

    def fill(self, task: Task, *, batch: int = 256, rank: int = 0, world: int = 1) -> Iterator[tuple[int, int]]:
        """Ask about everything that is not known yet, in order, this process its share; yields (done, of how many)."""
        starts = range(rank * batch, self.answers, batch * world)
        for turn, start in enumerate(starts):
            places = np.arange(start, min(start + batch, self.answers), dtype=np.int64)
            store = self._open(task)
            wanted = places if store is None else places[~store.read(places)[1]]
            if store is not None and store.complete and len(wanted):
                self._mend(store, wanted, task)
            else:
                self._write(wanted, task)
            yield min((turn + 1) * batch * world, self.answers), self.answers
        self.finish()

    def finish(self) -> bool:
        """Write the index, if every answer is there; whether the cache is complete."""
        if self._store is None or self._store.complete:
            return self._store is not None
        return self._store.seal(self._about())

    def figures(self) -> dict[str, Any]:
        """What is worth recording: the key, the folder, and how many answers were asked for, read and mended."""
        store = self._store
        return {
            "key": None if self._folder is None else self._folder.name,
            "folder": None if self._folder is None else str(self._folder),
            "answers": self.answers, "views": self._slots.views, "asked": self.asked, "read": self.read,
            "mended": self.mended, "bytes": None if store is None else store.bytes,
            "complete": store is not None and store.complete,
        }  # fmt: skip

    def _known(self, store: Store, batch: Any, places: Places, stamps: Bytes, task: Task) -> Bytes:
        records, sound, empty = store.read(places)
        if sound.all() and same(records[:, :STAMP], stamps).all():
            self.read += len(places)
            return records
        if not (sound | empty).all():
            records, sound, empty = store.read(places)  # another process may have been writing just there
        if (damaged := ~sound & (~empty | store.complete)).any():
            self._mend(store, places[damaged], task)
            records, sound, empty = store.read(places)
        fits = same(records[:, :STAMP], stamps)
        good = sound & fits
        self.read += int(good.sum())
        if good.all():  # now that it was mended
            return records
        if (other := sound & ~fits).any():
            self._say(
                f"{int(other.sum())} answers in {store.folder} are about other pictures than these (sample "
                f"{self._slots.number(int(places[other][0]))}): they are asked again"
            )
        records[~good] = self._ask(batch if not good.any() else _some(batch, ~good), stamps[~good], task)
        store.write(places[~good], records[~good])
        return records

    def _mend(self, store: Store, places: Places, task: Task) -> None:
        """Ask again for all that is damaged in the shards where ``places`` are."""
        whole = store.complete
        for shard in np.unique(places // store.per_shard).tolist():
            damaged, never = store.unsound(shard)
            wanted = np.concatenate([damaged, never]) if whole else damaged
            self._say(
                f"{store.path(shard)} is damaged: {len(wanted)} of its answers are asked again, the others are sound"
            )
            self._write(wanted, task)
            self.mended += len(wanted)
        if whole:
            store.seal(self._about())

    def _write(self, places: Places, task: Task) -> None:
        for some in np.split(places, range(256, len(places), 256)):
            if len(some):
                batch = self._pictures.show(*self._slots.where(some))
                records = self._ask(batch, stamp(inputs_of(batch)), task)
                self._begun(task).write(some, records)

    def _ask(self, batch: Any, stamps: Bytes, task: Task) -> Bytes:
        # In full precision whatever the run's: mixed precision is no part of the key, and another run may have none.
        with torch.autocast(inputs_of(batch).device.type, enabled=False):
            said = self._teacher.answer(batch, task)
        self.asked += len(stamps)
        if self._layout is None:
            self._layout = Layout.of(said, len(stamps), self._format)
        return np.concatenate([stamps, self._layout.pack(said, len(stamps))], axis=1)

    def _open(self, task: Task) -> Store | None:
        """The store, where this cache was begun already, by whomever."""
        if self._store is not None:
            return self._store
        if self._folder is None:
            teacher, pictures = self._teacher.identity(), self._pictures.identity()
            said = key(teacher, pictures, views=self._slots.views, task=task, format=self._format)
            self._folder = home(self._root) / said
        path = self._folder / "layout.json"
        if not path.exists():
            return None
        try:
            self._layout = Layout.read(json.loads(path.read_text())["layout"])
        except (OSError, ValueError, KeyError, TypeError, LimbeckError) as error:
            self._say(f"{path} is damaged ({error}): it is written anew by the first answer")
            return None
        return self._begun(task)

    def _begun(self, task: Task) -> Store:
        """The store, begun now where it was not."""
        if self._store is None:
            assert self._layout is not None
            assert self._folder is not None
            self._lock = opened(self._folder)
            about = json.dumps(self._about(), indent=1)
            if not (path := self._folder / "layout.json").exists() or path.read_text() != about:
                write_atomically(path, lambda partial: partial.write_text(about))
            self._store = Store(self._folder, size=STAMP + self._layout.bytes, many=self.answers)
        return self._store

    def _about(self) -> dict[str, Any]:
        assert self._layout is not None
        assert self._folder is not None
        return {
            "key": self._folder.name, "teacher": self._name, "samples": self._slots.samples, "views": self._slots.views,
            "layout": self._layout.plain(),
        }  # fmt: skip

    def _say(self, text: str) -> None:
        self._tell(f"cache of {self._name!r}: {text}")

    def __repr__(self) -> str:
        return f"Cached({self._teacher!r}, views={self._slots.views}, format={self._format})"


def _pictures(data: Any) -> Pictures:
    stream = data.stream(batch=data.views.per_decode) if isinstance(data, Data) else data
    if not all(hasattr(stream, name) for name in ("part", "views_per_sample", "show", "identity")):
        raise LimbeckError(
            f"a {type(data).__name__} cannot say which pictures it shows, so no answer about them could be kept: give "
            "limbeck.data's, such as limbeck.data.datasets(yours)"
        )
    pictures: Pictures = stream
    return pictures


def _some(batch: dict[str, Any], which: Any) -> dict[str, Any]:
    """The samples of a batch where ``which`` is true."""
    chosen, many = torch.from_numpy(which), len(which)
    return {
        name: value[chosen.to(value.device)] if isinstance(value, Tensor) and len(value) == many else value
        for name, value in batch.items()
    }


def _to_stderr(text: str) -> None:
    print(f"limbeck: {text}", file=sys.stderr)  # noqa: T201
