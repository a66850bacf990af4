"""A data set ready to train on: three parts, views, normalisation; and the doors for a user's own data."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, final

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.data.normalization import Normalization
from limbeck.data.part import Part, Stored, Wrapped
from limbeck.data.sealed import Sealed
from limbeck.data.splits import cut, hide_labels, take
from limbeck.data.stream import Batch, Looped, Shuffled, Stream
from limbeck.data.views import Views

__all__ = ["Data", "arrange", "arrays", "batches", "datasets", "loaders"]

Pictures = Literal["all", "labelled"]
Normalize = Literal["data", "imagenet", "none"]
_VALIDATION, _TEST = 5, 6


@final
@dataclass(frozen=True, slots=True)
class Data:
    """A data set cut into parts.

    Attributes:
        name: what to call it.
        classes: their names, in the order of their numbers.
        train: what is learned from; samples without a label have the target −100.
        validation: what choices are made on.
        sealed: the test part, which opens once.
        views: how training pictures are changed.
        normalization: what is taken off every picture.
        seed: of the order and the views.
    """

    name: str
    classes: tuple[str, ...]
    train: Part
    validation: Part
    sealed: Sealed
    views: Views
    normalization: Normalization
    seed: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one input, such as (3, 32, 32)."""
        return tuple(self.train.read(torch.tensor([0])).shape[1:])

    @property
    def labelled(self) -> int:
        """How many training samples have a label."""
        return len(self.train.labelled())

    def stream(self, *, batch: int, pictures: Pictures = "all", rank: int = 0, world: int = 1) -> Stream:
        """Training batches by number: of all pictures, or of the labelled ones only."""
        part = self.train if pictures == "all" else self.train.labelled()
        return Shuffled(part, self.views, self.normalization, batch=batch, seed=self.seed, rank=rank, world=world)

    def validation_batches(self, *, batch: int = 512) -> Iterator[Batch]:
        """The validation part in order, without views."""
        return batches(self.validation, self.normalization, batch=batch)

    def fingerprint(self) -> str:
        """A hash that changes when the data or its split does."""
        text = [self.name, *self.classes, str(self.train.target.tolist()), str(self.train.number.tolist())]
        text += [str(self.validation.number.tolist()), self.train.images.fingerprint()]
        return hashlib.sha256("\n".join(text).encode()).hexdigest()


def batches(part: Part, normalization: Normalization, *, batch: int = 512) -> Iterator[Batch]:
    """``part`` in order, without views."""
    for which in torch.split(torch.arange(len(part)), batch):
        yield {
            "input": normalization.apply(part.read(which)),
            "target": part.target[which],
            "index": part.number[which],
        }


def arrange(
    name: str, classes: Sequence[str], train: Part, *, seed: int,
    validation: Part | float, test: Part | float, labels: int | None, keep: int | None,
    views: Views, normalize: Normalize,
) -> Data:  # fmt: skip
    """Cut the parts that a source does not bring, hide labels, and measure the normalisation.

    The test part is cut first, so that it is the same whatever the validation part.
    """
    if isinstance(test, float | int):
        train, test = cut(train, test, seed=seed, purpose=_TEST)
    if isinstance(validation, float | int):
        train, validation = cut(train, validation, seed=seed, purpose=_VALIDATION)
    if keep is not None:
        train = take(train, keep, seed=seed)
    if labels is not None:
        train = hide_labels(train, labels, seed=seed)
    for part, what in ((train, "training"), (validation, "validation"), (test, "test")):
        if not len(part):
            raise LimbeckError(f"the {what} part of {name} is empty: {len(train)} samples are left to train on")
    return Data(name, tuple(classes), train, validation, Sealed(test), views, _NORMALIZE[normalize](train), seed)


def arrays(
    inputs: Tensor, target: Tensor, *, classes: Sequence[str] | None = None, name: str = "arrays", seed: int = 0,
    validation: float = 0.2, test: float = 0.2, labels: int | None = None, views: Views = Views(),
    normalize: Normalize = "data",
) -> Data:  # fmt: skip
    """Your own tensors as data: ``inputs`` ``[n, channels, height, width]`` (uint8, or float 0..1), ``target`` ``[n]``.

    >>> data = arrays(torch.rand(100, 1, 8, 8), torch.arange(100) % 4)
    >>> len(data.train), len(data.validation), len(data.sealed), data.classes
    (64, 16, 20, ('0', '1', '2', '3'))
    """
    part = Part.whole(Stored(inputs), target)
    return arrange(
        name, classes or _numbered(target), part, seed=seed, validation=validation, test=test, labels=labels, keep=None,
        views=views, normalize=normalize,
    )  # fmt: skip


def datasets(
    train: Any, validation: Any = None, test: Any = None, *, classes: Sequence[str] | None = None,
    name: str = "datasets", seed: int = 0,
) -> Data:  # fmt: skip
    """Your own map-style torch data sets of ``(input, class)``; parts not given are cut off ``train`` (20 % each).

    Their own transforms are kept as they are: teacher and student still see one picture, since both get one batch.
    """
    parts = {what: part for what, part in (("validation", validation), ("test", test)) if part is not None}
    cuts = {what: Part.whole(Wrapped(part), _targets(part)) for what, part in parts.items()}
    whole = Part.whole(Wrapped(train), _targets(train))
    return arrange(
        name, classes or _numbered(whole.target), whole, seed=seed, validation=cuts.get("validation", 0.2),
        test=cuts.get("test", 0.2), labels=None, keep=None, views=Views(), normalize="none",
    )  # fmt: skip


@final
@dataclass(frozen=True, slots=True)
class Loaders:
    """A user's own loaders, see :func:`loaders`."""

    train: Iterable[Any]
    validation: Iterable[Any]

    def stream(self, *, batch: int, pictures: Pictures = "all", rank: int = 0, world: int = 1) -> Stream:
        """The training loader, begun again each epoch; its batches are what they are."""
        return Looped(self.train)

    def validation_batches(self, *, batch: int = 512) -> Iterator[Any]:
        """The validation loader."""
        return iter(self.validation)


def loaders(train: Iterable[Any], validation: Iterable[Any] = ()) -> Loaders:
    """Your own ``DataLoader`` s for :func:`limbeck.fit`, when their batches are what the task can read.

    Their batch size and order are theirs. With Fabric on several processes, give them a ``DistributedSampler``.
    """
    return Loaders(train, validation)


def _targets(dataset: Any) -> Tensor:
    known = getattr(dataset, "targets", None)
    return torch.as_tensor(known if known is not None else [int(dataset[i][1]) for i in range(len(dataset))])


def _numbered(target: Tensor) -> tuple[str, ...]:
    return tuple(str(i) for i in range(int(target.max()) + 1))


def _channels(part: Part) -> int:
    return part.read(torch.tensor([0])).shape[1]


_NORMALIZE: dict[str, Callable[[Part], Normalization]] = {
    "data": Normalization.measured,
    "imagenet": lambda part: Normalization.imagenet(_channels(part)),
    "none": lambda part: Normalization.none(_channels(part)),
}
