"""A data set with splits, augmentation and normalization, and constructors for a user's data."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal, final

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.data.augmentation import Augmentation
from limbeck.data.batch_sampler import Batch, BatchSampler, BatchStream
from limbeck.data.groups import require_disjoint_groups
from limbeck.data.held_out import HeldOutTest
from limbeck.data.labels import to_class_indices
from limbeck.data.loader_adapter import LoaderAdapter
from limbeck.data.normalization import InputNormalization, NoNormalization, Normalization
from limbeck.data.split import (
    UNLABELED,
    DatasetAdapter,
    InMemory,
    Split,
    hide_labels,
    stratified_split,
    stratified_subsample,
)

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
        seed: seed of the views, and of the order where ``order_seed`` is ``None``.
        order_seed: seed of the order; runs that differ only in it use the same views of the same samples.
        facts: further values that tasks, networks and losses take by name, such as ``mels`` or ``vocabulary``; plain
            data. A source lists their names in the class attribute ``provides``.
    """

    name: str
    class_names: tuple[str, ...]
    train: Split
    validation: Split
    test: HeldOutTest
    augmentation: Augmentation
    normalization: InputNormalization
    seed: int = 0
    order_seed: int | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of an input, such as (3, 32, 32)."""
        return tuple(self.train.read(torch.tensor([0])).shape[1:])

    @property
    def num_labeled(self) -> int:
        """Number of labeled training samples."""
        return len(self.train.select_labeled())

    def batches(
        self, *, batch_size: int, batch_tokens: int | None = None, subset: LabelSubset = "all", rank: int = 0,
        world_size: int = 1,
    ) -> BatchSampler:  # fmt: skip
        """Training batches of all samples, or of the labeled ones; see :class:`BatchSampler`."""
        if subset not in ("all", "labeled"):
            raise LimbeckError(f"`subset` must be all or labeled, got {subset!r}")
        split = self.train if subset == "all" else self.train.select_labeled()
        return BatchSampler(
            split, self.augmentation, self.normalization, batch_size=batch_size, seed=self.seed,
            order_seed=self.order_seed, classes=len(self.class_names), rank=rank, world_size=world_size,
            batch_tokens=batch_tokens,
        )  # fmt: skip

    def validation_batches(self, *, batch_size: int = 512, rank: int = 0, world_size: int = 1) -> Iterator[Batch]:
        """See :func:`iterate_batches`."""
        return iterate_batches(
            self.validation, self.normalization, batch_size=batch_size, rank=rank, world_size=world_size
        )

    def fingerprint(self) -> str:
        """A hash that changes when the data or its split does."""
        text = [self.name, *self.class_names, self.train.images.fingerprint(), self.test.fingerprint()]
        if self.validation.images is not self.train.images:
            text.append(self.validation.images.fingerprint())
        for split in (self.train, self.validation):
            text += split.fingerprint()[1:]
        return hashlib.sha256("\n".join(text).encode()).hexdigest()


def iterate_batches(
    split: Split, normalization: InputNormalization | None, *, batch_size: int = 512, rank: int = 0, world_size: int = 1
) -> Iterator[Batch]:
    """Batches of ``split`` in order, without augmentation: every ``world_size``-th, from ``rank`` on.

    With ``normalization=None`` inputs are as the split holds them.
    """
    for indices in torch.split(torch.arange(len(split)), batch_size)[rank::world_size]:
        fields = split.read_fields(indices)
        name = "input" if split.sequences is None else split.sequences.input_name
        if normalization is not None:
            fields[name] = normalization.apply(fields[name])
        yield {**fields, "sample_id": split.sample_ids[indices]}


def make_splits(
    name: str, class_names: Sequence[str], train: Split, *, seed: int, validation: Split | float, test: Split | float,
    num_labeled: int | None = None, num_samples: int | None = None, augment: Augmentation = Augmentation(),
    normalize: NormalizeMode | InputNormalization = "data", facts: Mapping[str, Any] | None = None,
) -> DataModule:  # fmt: skip
    """A data module: missing splits are split off ``train``, labels hidden, the normalization computed.

    The test split is split off first, so that it does not depend on the validation split. Sequences and values have no
    normalization but an object.
    """
    if isinstance(normalize, str) and normalize not in _NORMALIZE:
        raise LimbeckError(f"`normalize` must be {', '.join(_NORMALIZE)}, got {normalize!r}")
    if train.masks is not None:
        augment.require_masks()
    if train.sequences is not None:
        augment.require_sequences()
    if train.values is not None and augment.mix_transforms:
        raise LimbeckError(f"{augment.mix_transforms[0]!r} mixes classes, and the targets are values: remove it")
    for split in (train, validation, test):
        if isinstance(split, Split) and split.has_class_targets:
            _check_labels(split.target, len(class_names), name)
    if not isinstance(test, Split):
        train, test = stratified_split(train, test, seed=seed, purpose=_TEST)
    if not isinstance(validation, Split):
        train, validation = stratified_split(train, validation, seed=seed, purpose=_VALIDATION)
    if num_samples is not None:
        train = stratified_subsample(train, num_samples, seed=seed)
    if num_labeled is not None:
        train = hide_labels(train, num_labeled, seed=seed)
    for split_name, split in (("training", train), ("validation", validation), ("test", test)):
        if not len(split):
            raise LimbeckError(f"the {split_name} split of {name} must have samples, got none: change the fractions")
    require_disjoint_groups({"training": train, "validation": validation, "test": test})
    if not isinstance(normalize, str):
        normalization = normalize
    else:
        normalization = NoNormalization() if train.sequences is not None else _NORMALIZE[normalize](train)
    return DataModule(
        name, tuple(class_names), train, validation, HeldOutTest(test), augment, normalization, seed,
        facts=facts or {},
    )  # fmt: skip


def from_tensors(
    inputs: Tensor, target: Any, *, class_names: Sequence[str] | None = None, name: str = "arrays", seed: int = 0,
    val_split: float = 0.2, test_split: float = 0.2, num_labeled: int | None = None,
    augment: Augmentation = Augmentation(), normalize: NormalizeMode = "data", groups: Any = None,
) -> DataModule:  # fmt: skip
    """Data from tensors: ``inputs`` ``[n, channels, height, width]`` (uint8, or float 0..1), ``target`` ``[n]``.

    Labels are class indices (−100: no label), names, or one-hot rows; see
    :func:`~limbeck.data.labels.to_class_indices`. Samples of one of ``groups`` ``[n]`` (integers or names: a speaker,
    an identity) are in one split only.

    >>> data = from_tensors(torch.rand(100, 1, 8, 8), torch.arange(100) % 4)
    >>> len(data.train), len(data.validation), len(data.test), data.class_names
    (64, 16, 20, ('0', '1', '2', '3'))
    """
    if augment.transforms and inputs.dtype != torch.uint8 and len(inputs):
        low, high = float(inputs.min()), float(inputs.max())
        if not 0 <= low <= high <= 1:
            raise LimbeckError(
                f"inputs must be uint8 or in 0..1 for augmentation, got {inputs.dtype} from {low:g} to {high:g}"
            )
    inputs = torch.as_tensor(inputs)
    target, class_names = to_class_indices(target, class_names)
    return make_splits(
        name, class_names or _default_class_names(target), Split.from_images(InMemory(inputs), target, groups=groups),
        seed=seed, validation=val_split, test=test_split, num_labeled=num_labeled, augment=augment, normalize=normalize,
    )  # fmt: skip


def from_datasets(
    train: Any, validation: Any = None, test: Any = None, *, class_names: Sequence[str] | None = None,
    name: str = "datasets", seed: int = 0, groups: Any = None,
) -> DataModule:  # fmt: skip
    """Data from map-style torch data sets of ``(input, class index)``, with their own transforms.

    A split that is not given is 20 % of ``train``; it shares none of ``groups`` (of each item of ``train``) with the
    rest.

    Raises:
        LimbeckError: a split is split off ``train``, whose items are random, since it would be evaluated through the
            random transform.
    """
    train_target, class_names = to_class_indices(_read_targets(train), class_names)
    if (validation is None or test is None) and not DatasetAdapter(train).is_deterministic():
        raise LimbeckError(
            "items of `train` change each time they are read, so splits of it cannot be evaluated: give `validation` "
            "and `test` with a fixed transform, or move the random transforms into an Augmentation"
        )
    train_split = Split.from_images(DatasetAdapter(train), train_target, groups=groups)
    splits = dict[str, Split]()
    first_id = len(train_split)  # ids continue across splits, since an id identifies one sample
    for split_name, dataset in (("validation", validation), ("test", test)):
        if dataset is not None:
            target, _ = to_class_indices(_read_targets(dataset), class_names)
            split = Split.from_images(DatasetAdapter(dataset), target, first_id=first_id)
            splits[split_name], first_id = split, first_id + len(split)
    return make_splits(
        name, class_names or _default_class_names(train_split.target), train_split, seed=seed,
        validation=splits.get("validation", 0.2), test=splits.get("test", 0.2), normalize="none",
    )  # fmt: skip


@final
@dataclass(frozen=True, slots=True)
class LoaderDataModule:
    """A user's loaders, see :func:`from_loaders`."""

    train: Iterable[Any]
    validation: Iterable[Any]

    def batches(
        self, *, batch_size: int, subset: LabelSubset = "all", rank: int = 0, world_size: int = 1
    ) -> BatchStream:
        """The batches of the training loader, whatever the arguments."""
        if subset != "all":
            raise LimbeckError(
                f"`subset` must be 'all' with your own loader, got {subset!r}: pass a loader of these samples"
            )
        return LoaderAdapter(self.train)

    def validation_batches(self, *, batch_size: int = 512, rank: int = 0, world_size: int = 1) -> Iterator[Any]:
        """The validation loader: all of it with a ``DistributedSampler``, else every ``world_size``-th batch."""
        is_distributed = isinstance(getattr(self.validation, "sampler", None), torch.utils.data.DistributedSampler)
        return iter(self.validation) if is_distributed else islice(self.validation, rank, None, world_size)


def from_loaders(train: Iterable[Any], validation: Iterable[Any] = ()) -> LoaderDataModule:
    """Data from ``DataLoader`` s, for :func:`limbeck.fit`, with batches that the task can read.

    With several processes, they need a ``DistributedSampler``. A resumed training repeats the order of a ``DataLoader``
    that draws it from a generator or from the random state of torch; a loader with a random state of its own begins it
    again.

    Raises:
        LimbeckError: ``validation`` is an iterator, which is empty after the first epoch.
    """
    if isinstance(validation, Iterator):
        raise LimbeckError(
            f"validation must be a DataLoader or a list of batches, got a {type(validation).__name__}, which is empty "
            "after the first epoch: pass list(validation)"
        )
    return LoaderDataModule(train, validation)


def _read_targets(dataset: Any) -> Any:
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise LimbeckError(
            f"a data set must be map-style (__len__ and __getitem__), got a {type(dataset).__name__}: use "
            "limbeck.data.from_loaders"
        )
    targets, target_transform = getattr(dataset, "targets", None), getattr(dataset, "target_transform", None)
    if targets is None:
        targets = [dataset[i][1] for i in range(len(dataset))]
    elif target_transform is not None:
        targets = [target_transform(label) for label in targets]
    if isinstance(targets, list) and targets and isinstance(targets[0], Tensor):
        return torch.stack([torch.as_tensor(target) for target in targets])
    return targets


def _default_class_names(target: Tensor) -> tuple[str, ...]:
    if not len(target):
        raise LimbeckError("a data set must have samples, got none")
    return tuple(str(i) for i in range(int(target.max()) + 1))


def _check_labels(target: Tensor, classes: int, name: str) -> None:
    invalid = target[(target != UNLABELED) & ((target < 0) | (target >= classes))]
    if len(invalid):
        raise LimbeckError(
            f"labels of {name} must be from 0 to {classes - 1}, or {UNLABELED} for none, got {int(invalid[0])}"
        )


def _num_channels(split: Split) -> int:
    return split.read(torch.tensor([0])).shape[1]


_NORMALIZE: dict[str, Callable[[Split], Normalization]] = {
    "data": Normalization.from_split,
    "imagenet": lambda split: Normalization.imagenet(_num_channels(split)),
    "none": lambda split: Normalization.none(_num_channels(split)),
}
