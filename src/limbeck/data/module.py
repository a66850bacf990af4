"""A data set ready for training: three splits, augmentation, normalization; and constructors for user data."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, final

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.data.augmentation import Augmentation
from limbeck.data.batch_sampler import Batch, BatchSampler, BatchStream, LoaderAdapter
from limbeck.data.held_out import HeldOutTest
from limbeck.data.normalization import Normalization
from limbeck.data.split import UNLABELED, DatasetAdapter, InMemory, Split
from limbeck.data.splits import hide_labels, stratified_split, stratified_subsample

__all__ = ["DataModule", "from_datasets", "from_loaders", "from_tensors", "iterate_batches", "make_splits"]

LabelSubset = Literal["all", "labeled"]
NormalizeMode = Literal["data", "imagenet", "none"]
_VALIDATION, _TEST = 5, 6


@final
@dataclass(frozen=True, slots=True)
class DataModule:
    """A data set with its splits.

    Attributes:
        name: name of the data set.
        class_names: names of the classes, by index.
        train: training split; samples without a label have the target −100.
        validation: split for model selection.
        test: the held-out test split.
        augmentation: applied to training images.
        normalization: applied to every image.
        seed: of the views, and of the order where ``order_seed`` is ``None``.
        order_seed: seed of the order; runs that differ only in it use the same views of the same samples.
    """

    name: str
    class_names: tuple[str, ...]
    train: Split
    validation: Split
    test: HeldOutTest
    augmentation: Augmentation
    normalization: Normalization
    seed: int = 0
    order_seed: int | None = None

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one input, such as (3, 32, 32)."""
        return tuple(self.train.read(torch.tensor([0])).shape[1:])

    @property
    def num_labeled(self) -> int:
        """Number of labeled training samples."""
        return len(self.train.select_labeled())

    def batches(
        self, *, batch_size: int, subset: LabelSubset = "all", rank: int = 0, world_size: int = 1
    ) -> BatchSampler:
        """Training batches by number: of all images, or of the labeled ones only."""
        if subset not in ("all", "labeled"):
            raise LimbeckError(f"`subset` is all or labeled, not {subset!r}")
        split = self.train if subset == "all" else self.train.select_labeled()
        return BatchSampler(
            split, self.augmentation, self.normalization, batch_size=batch_size, seed=self.seed,
            order_seed=self.order_seed,
            classes=len(self.class_names), rank=rank, world_size=world_size,
        )  # fmt: skip

    def validation_batches(self, *, batch_size: int = 512, rank: int = 0, world_size: int = 1) -> Iterator[Batch]:
        """The validation split in order, without augmentation; with several processes, every ``world_size``-th
        batch.
        """
        return iterate_batches(
            self.validation, self.normalization, batch_size=batch_size, rank=rank, world_size=world_size
        )

    def fingerprint(self) -> str:
        """A hash that changes when the data or its split does."""
        text = [self.name, *self.class_names, self.train.images.fingerprint(), self.test.fingerprint()]
        if self.validation.images is not self.train.images:
            text.append(self.validation.images.fingerprint())
        for split in (self.train, self.validation):
            text += [str(split.sample_ids.tolist()), str(split.target.tolist())]
        return hashlib.sha256("\n".join(text).encode()).hexdigest()


def iterate_batches(
    split: Split, normalization: Normalization, *, batch_size: int = 512, rank: int = 0, world_size: int = 1
) -> Iterator[Batch]:
    """``split`` in order, without views: all of its batches, or every ``world_size``-th beginning with number
    ``rank``.
    """
    for indices in torch.split(torch.arange(len(split)), batch_size)[rank::world_size]:
        yield {
            "input": normalization.apply(split.read(indices)),
            "target": split.target[indices],
            "sample_id": split.sample_ids[indices],
        }


def make_splits(
    name: str, class_names: Sequence[str], train: Split, *, seed: int,
    validation: Split | float, test: Split | float, num_labeled: int | None, num_samples: int | None,
    augment: Augmentation, normalize: NormalizeMode,
) -> DataModule:  # fmt: skip
    """Split off what a source does not provide, hide labels, and compute the normalization.

    The test split is made first, so that it does not depend on the validation split.
    """
    if normalize not in _NORMALIZE:
        raise LimbeckError(f"`normalize` is one of {', '.join(_NORMALIZE)}, not {normalize!r}")
    for dataset in (train, validation, test):
        if isinstance(dataset, Split):
            _require_valid_labels(dataset.target, class_names, name)
    if isinstance(test, float | int):
        train, test = stratified_split(train, test, seed=seed, purpose=_TEST)
    if isinstance(validation, float | int):
        train, validation = stratified_split(train, validation, seed=seed, purpose=_VALIDATION)
    if num_samples is not None:
        train = stratified_subsample(train, num_samples, seed=seed)
    if num_labeled is not None:
        train = hide_labels(train, num_labeled, seed=seed)
    for split, split_name in ((train, "training"), (validation, "validation"), (test, "test")):
        if not len(split):
            raise LimbeckError(f"the {split_name} split of {name} is empty: {len(train)} samples are left for training")
    return DataModule(
        name, tuple(class_names), train, validation, HeldOutTest(test), augment, _NORMALIZE[normalize](train), seed
    )


def from_tensors(
    inputs: Tensor, target: Tensor, *, class_names: Sequence[str] | None = None, name: str = "arrays", seed: int = 0,
    val_split: float = 0.2, test_split: float = 0.2, num_labeled: int | None = None,
    augment: Augmentation = Augmentation(),
    normalize: NormalizeMode = "data",
) -> DataModule:  # fmt: skip
    """Your own tensors as data: ``inputs`` ``[n, channels, height, width]`` (uint8, or float 0..1), ``target`` ``[n]``.

    >>> data = from_tensors(torch.rand(100, 1, 8, 8), torch.arange(100) % 4)
    >>> len(data.train), len(data.validation), len(data.test), data.class_names
    (64, 16, 20, ('0', '1', '2', '3'))
    """
    if augment.transforms and inputs.dtype != torch.uint8 and len(inputs):
        low, high = float(inputs.min()), float(inputs.max())
        if not 0 <= low <= high <= 1:
            raise LimbeckError(
                f"views change images in 0..1, and these inputs ({inputs.dtype}) go from {low:g} to {high:g}: give "
                "uint8, or divide them first"
            )
    split = Split.from_images(InMemory(inputs), target)
    return make_splits(
        name, class_names or _default_class_names(target), split, seed=seed, validation=val_split, test=test_split,
        num_labeled=num_labeled, num_samples=None,
        augment=augment, normalize=normalize,
    )  # fmt: skip


def from_datasets(
    train: Any, validation: Any = None, test: Any = None, *, class_names: Sequence[str] | None = None,
    name: str = "datasets", seed: int = 0,
) -> DataModule:  # fmt: skip
    """Your own map-style torch data sets of ``(input, class)``; splits that are not given are taken from ``train``
    (20 % each).

    Their own transforms are kept as they are: teacher and student still see one image, since both get one batch.
    """
    train_split, splits = Split.from_images(DatasetAdapter(train), _read_targets(train)), dict[str, Split]()
    for split_name, dataset in (("validation", validation), ("test", test)):
        if dataset is not None:  # ids continue across splits, since an id identifies one sample
            first_id = len(train_split) + sum(map(len, splits.values()))
            splits[split_name] = Split.from_images(DatasetAdapter(dataset), _read_targets(dataset), first_id=first_id)
    return make_splits(
        name, class_names or _default_class_names(train_split.target), train_split, seed=seed,
        validation=splits.get("validation", 0.2),
        test=splits.get("test", 0.2), num_labeled=None, num_samples=None, augment=Augmentation(), normalize="none",
    )  # fmt: skip


@final
@dataclass(frozen=True, slots=True)
class LoaderDataModule:
    """A user's own loaders, see :func:`from_loaders`."""

    train: Iterable[Any]
    validation: Iterable[Any]

    def batches(
        self, *, batch_size: int, subset: LabelSubset = "all", rank: int = 0, world_size: int = 1
    ) -> BatchStream:
        """The training loader, begun again each epoch; its batches are what they are."""
        if subset != "all":
            raise LimbeckError(
                f"`subset` must be 'all' with your own loader, got {subset!r}: pass a loader with those samples only"
            )
        return LoaderAdapter(self.train)

    def validation_batches(self, *, batch_size: int = 512, rank: int = 0, world_size: int = 1) -> Iterator[Any]:
        """The validation loader: all of it with a ``DistributedSampler``, else every ``world_size``-th batch."""
        is_distributed = isinstance(getattr(self.validation, "sampler", None), torch.utils.data.DistributedSampler)
        return iter(self.validation) if is_distributed else islice(self.validation, rank, None, world_size)


def from_loaders(train: Iterable[Any], validation: Iterable[Any] = ()) -> LoaderDataModule:
    """Your own ``DataLoader`` s for :func:`limbeck.fit`, when their batches are what the task can read.

    Their batch size and order are theirs. With Fabric on several processes, give them a ``DistributedSampler``.
    """
    return LoaderDataModule(train, validation)


def _read_targets(dataset: Any) -> Tensor:
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise LimbeckError(
            f"a {type(dataset).__name__} has no length or no items by number: give a map-style data set, or your own "
            "loaders to limbeck.data.from_loaders"
        )
    targets, target_transform = getattr(dataset, "targets", None), getattr(dataset, "target_transform", None)
    if targets is None:
        targets = [int(dataset[i][1]) for i in range(len(dataset))]
    elif target_transform is not None:
        targets = [int(target_transform(label)) for label in targets]
    return torch.as_tensor(targets)


def _default_class_names(target: Tensor) -> tuple[str, ...]:
    if not len(target):
        raise LimbeckError("the data set is empty: give at least one sample for each split")
    return tuple(str(i) for i in range(int(target.max()) + 1))


def _require_valid_labels(target: Tensor, class_names: Sequence[str], name: str) -> None:
    invalid = target[(target != UNLABELED) & ((target < 0) | (target >= len(class_names)))]
    if len(invalid):
        raise LimbeckError(
            f"{name} has a label {int(invalid[0])}, and with {len(class_names)} classes a label is from 0 to "
            f"{len(class_names) - 1}, or {UNLABELED} where there is none"
        )


def _num_channels(split: Split) -> int:
    return split.read(torch.tensor([0])).shape[1]


_NORMALIZE: dict[str, Callable[[Split], Normalization]] = {
    "data": Normalization.from_split,
    "imagenet": lambda split: Normalization.imagenet(_num_channels(split)),
    "none": lambda split: Normalization.none(_num_channels(split)),
}
