"""A data set ready to train on: three parts, views, normalisation; and the doors for a user's own data."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, final

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.data.augmentation import Views
from limbeck.data.batch_sampler import Batch, Looped, Shuffled, Stream
from limbeck.data.held_out import Sealed
from limbeck.data.normalization import Normalization
from limbeck.data.split import UNLABELLED, Part, Stored, Wrapped
from limbeck.data.splits import cut, hide_labels, take

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
        seed: of the views, and of the order where ``order`` is ``None``.
        order: seed of the order; runs that differ in it alone show the same views of the same samples.
    """

    name: str
    classes: tuple[str, ...]
    train: Part
    validation: Part
    sealed: Sealed
    views: Views
    normalization: Normalization
    seed: int = 0
    order: int | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one input, such as (3, 32, 32)."""
        return tuple(self.train.read(torch.tensor([0])).shape[1:])

    @property
    def labelled(self) -> int:
        """How many training samples have a label."""
        return len(self.train.labelled())

    def stream(self, *, batch: int, pictures: Pictures = "all", rank: int = 0, world: int = 1) -> Shuffled:
        """Training batches by number: of all pictures, or of the labelled ones only."""
        if pictures not in ("all", "labelled"):
            raise LimbeckError(f"`pictures` is all or labelled, not {pictures!r}")
        part = self.train if pictures == "all" else self.train.labelled()
        return Shuffled(
            part, self.views, self.normalization, batch=batch, seed=self.seed, order=self.order,
            classes=len(self.classes), rank=rank, world=world,
        )  # fmt: skip

    def validation_batches(self, *, batch: int = 512, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """The validation part in order, without views; of several processes each gets every ``world``-th batch."""
        return batches(self.validation, self.normalization, batch=batch, rank=rank, world=world)

    def fingerprint(self) -> str:
        """A hash that changes when the data or its split does."""
        text = [self.name, *self.classes, self.train.images.fingerprint(), self.sealed.fingerprint()]
        if self.validation.images is not self.train.images:
            text.append(self.validation.images.fingerprint())
        for part in (self.train, self.validation):
            text += [str(part.number.tolist()), str(part.target.tolist())]
        return hashlib.sha256("\n".join(text).encode()).hexdigest()


def batches(
    part: Part, normalization: Normalization, *, batch: int = 512, rank: int = 0, world: int = 1
) -> Iterator[Batch]:
    """``part`` in order, without views: all of its batches, or every ``world``-th beginning with number ``rank``."""
    for which in torch.split(torch.arange(len(part)), batch)[rank::world]:
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
    if normalize not in _NORMALIZE:
        raise LimbeckError(f"`normalize` is one of {', '.join(_NORMALIZE)}, not {normalize!r}")
    for given in (train, validation, test):
        if isinstance(given, Part):
            _require_known_classes(given.target, classes, name)
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
    if views.transforms and inputs.dtype != torch.uint8 and len(inputs):
        low, high = float(inputs.min()), float(inputs.max())
        if not 0 <= low <= high <= 1:
            raise LimbeckError(
                f"views change pictures in 0..1, and these inputs ({inputs.dtype}) go from {low:g} to {high:g}: give "
                "uint8, or divide them first"
            )
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
    whole, cuts = Part.whole(Wrapped(train), _targets(train)), dict[str, Part]()
    for what, dataset in (("validation", validation), ("test", test)):
        if dataset is not None:  # numbered on from the parts before, since a number is one sample's name
            first = len(whole) + sum(map(len, cuts.values()))
            cuts[what] = Part.whole(Wrapped(dataset), _targets(dataset), first=first)
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
        if pictures != "all":
            raise LimbeckError(
                f"a loader of your own gives the pictures it gives, and {pictures!r} ones were asked for: give a "
                "loader of those"
            )
        return Looped(self.train)

    def validation_batches(self, *, batch: int = 512, rank: int = 0, world: int = 1) -> Iterator[Any]:
        """The validation loader: all of it where its sampler deals it out itself, else every ``world``-th batch."""
        deals = isinstance(getattr(self.validation, "sampler", None), torch.utils.data.DistributedSampler)
        return iter(self.validation) if deals else islice(self.validation, rank, None, world)


def loaders(train: Iterable[Any], validation: Iterable[Any] = ()) -> Loaders:
    """Your own ``DataLoader`` s for :func:`limbeck.fit`, when their batches are what the task can read.

    Their batch size and order are theirs. With Fabric on several processes, give them a ``DistributedSampler``.
    """
    return Loaders(train, validation)


def _targets(dataset: Any) -> Tensor:
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise LimbeckError(
            f"a {type(dataset).__name__} has no length or no items by number: give a map-style data set, or your own "
            "loaders to limbeck.data.loaders"
        )
    known, change = getattr(dataset, "targets", None), getattr(dataset, "target_transform", None)
    if known is None:
        known = [int(dataset[i][1]) for i in range(len(dataset))]
    elif change is not None:
        known = [int(change(label)) for label in known]
    return torch.as_tensor(known)


def _numbered(target: Tensor) -> tuple[str, ...]:
    if not len(target):
        raise LimbeckError("there is no sample at all: give at least one for each part")
    return tuple(str(i) for i in range(int(target.max()) + 1))


def _require_known_classes(target: Tensor, classes: Sequence[str], name: str) -> None:
    strange = target[(target != UNLABELLED) & ((target < 0) | (target >= len(classes)))]
    if len(strange):
        raise LimbeckError(
            f"{name} has a label {int(strange[0])}, and with {len(classes)} classes a label is from 0 to "
            f"{len(classes) - 1}, or {UNLABELLED} where there is none"
        )


def _channels(part: Part) -> int:
    return part.read(torch.tensor([0])).shape[1]


_NORMALIZE: dict[str, Callable[[Part], Normalization]] = {
    "data": Normalization.measured,
    "imagenet": lambda part: Normalization.imagenet(_channels(part)),
    "none": lambda part: Normalization.none(_channels(part)),
}
