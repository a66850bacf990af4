"""A data set with splits, augmentation and normalization, and constructors for a user's data."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal, Protocol, final

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.data.augmentation import Augmentation
from limbeck.data.batch_sampler import Batch, BatchSampler, BatchStream
from limbeck.data.box_store import BoxStore
from limbeck.data.collated_dataset import CollatedDataset
from limbeck.data.groups import require_disjoint_groups
from limbeck.data.held_out import HeldOutTest
from limbeck.data.image_store import evenly_spaced_indices
from limbeck.data.labels import to_class_indices
from limbeck.data.loader_adapter import LoaderAdapter
from limbeck.data.mask_store import MasksInMemory, is_mask
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

__all__ = [
    "DataModule",
    "DataSource",
    "from_datasets",
    "from_loaders",
    "from_tensors",
    "iterate_batches",
    "make_splits",
]

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


class DataSource(Protocol):
    """What ``data:`` of a recipe builds: a frozen dataclass, see :func:`limbeck.testing.check_data_source`."""

    def load(self, *, seed: int) -> DataModule:
        """The data, split by ``seed``."""
        ...


def iterate_batches(
    split: Split, normalization: InputNormalization | None, *, batch_size: int = 512, rank: int = 0, world_size: int = 1
) -> Iterator[Batch]:
    """Batches of ``split`` in order, without augmentation: every ``world_size``-th, from ``rank`` on.

    With ``normalization=None`` inputs are as the split holds them.
    """
    for indices in torch.split(torch.arange(len(split)), batch_size)[rank::world_size]:
        fields = split.read_fields(indices)
        name = "input" if split.sequences is None else split.sequences.input_name
        if normalization is not None and not isinstance(split.images, CollatedDataset):
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
    if train.boxes is not None:
        augment.require_boxes()
    if train.sequences is not None:
        augment.require_sequences()
    if isinstance(train.images, CollatedDataset) and augment.transforms:
        raise LimbeckError("augment must be empty with collate_fn: put transforms into the data set")
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
        has_images = train.sequences is None and not isinstance(train.images, CollatedDataset)
        normalization = _NORMALIZE[normalize](train) if has_images else NoNormalization()
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
    inputs = torch.as_tensor(inputs)
    if augment.transforms and inputs.dtype != torch.uint8 and len(inputs):
        _require_unit_range(inputs)
    target, class_names = to_class_indices(target, class_names)
    return make_splits(
        name, class_names or _default_class_names(target), Split.from_images(InMemory(inputs), target, groups=groups),
        seed=seed, validation=val_split, test=test_split, num_labeled=num_labeled, augment=augment, normalize=normalize,
    )  # fmt: skip


def from_datasets(
    train: Any, validation: Any = None, test: Any = None, *, class_names: Sequence[str] | None = None,
    name: str = "datasets", seed: int = 0, groups: Any = None, augment: Augmentation = Augmentation(),
    collate_fn: Callable[[list[Any]], Any] | None = None,
) -> DataModule:  # fmt: skip
    """Data from map-style torch data sets, with their own transforms.

    An item is ``(input, target)``: a class; a ``torchvision.tv_tensors.Mask``; or boxes, a mapping with ``boxes`` and
    ``labels`` (as torchvision's ``wrap_dataset_for_transforms_v2`` gives). Items of any other kind need ``collate_fn``.

    Args:
        train: the training samples.
        validation: ``None``: 20 % of ``train``.
        test: ``None``: 20 % of ``train``.
        class_names: names of the classes by index.
        name: name of the data set.
        seed: seed of the splits and of the order.
        groups: the group of each item of ``train``, see :func:`from_tensors`.
        augment: transforms of training inputs, which are in 0..1.
        collate_fn: maps a list of items to a batch, a mapping, as of ``torch.utils.data.DataLoader``; limbeck adds
            ``sample_id`` and ``view``.

    Raises:
        LimbeckError: validation or test items are random, or training items with masks or boxes are.
    """
    train_split, names = _read_dataset(train, "train", class_names, collate_fn, groups=groups)
    if (validation is None or test is None) and not train_split.images.is_deterministic():
        raise LimbeckError(
            "items of `train` change each time they are read, so splits of it cannot be evaluated: give `validation` "
            "and `test` with a fixed transform, or move the random transforms into an Augmentation"
        )
    if augment.transforms and isinstance(train_split.images, DatasetAdapter):
        _require_unit_range(train_split.images.read(torch.tensor(evenly_spaced_indices(len(train_split)))))
    splits, first_id = dict[str, Split](), len(train_split)
    # Ids continue across splits, since an id identifies one sample.
    for split_name, dataset in (("validation", validation), ("test", test)):
        if dataset is not None:
            split, _ = _read_dataset(dataset, split_name, names, collate_fn, first_id=first_id)
            splits[split_name], first_id = split, first_id + len(split)
            if not split.images.is_deterministic():
                raise LimbeckError(
                    f"items of `{split_name}` must be the same each time, and they change: use a fixed transform"
                )
    return make_splits(
        name, names, train_split, seed=seed, validation=splits.get("validation", 0.2), test=splits.get("test", 0.2),
        augment=augment, normalize="none",
    )  # fmt: skip


def _read_dataset(
    dataset: Any, split_name: str, class_names: Sequence[str] | None,
    collate_fn: Callable[[list[Any]], Any] | None, *, first_id: int = 0, groups: Any = None,
) -> tuple[Split, Sequence[str]]:  # fmt: skip
    """A user's data set as a split, and the names of the classes."""
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise LimbeckError(
            f"a data set must be map-style (__len__ and __getitem__), got a {type(dataset).__name__}: use "
            "limbeck.data.from_loaders"
        )
    position: dict[str, Any] = {"first_id": first_id, "groups": groups}
    if collate_fn is not None:
        store = CollatedDataset(dataset, collate_fn)
        return Split.from_images(store, torch.zeros(len(store), dtype=torch.long), **position), class_names or ()
    images, targets = DatasetAdapter(dataset), _read_targets(dataset)
    is_mapping = isinstance(targets, list) and bool(targets) and isinstance(targets[0], Mapping)
    if (is_mapping or is_mask(targets)) and not images.is_deterministic():
        raise LimbeckError(
            f"items of `{split_name}` change each time they are read, so masks and boxes that were read before do not "
            "fit: move the random transforms into `augment`, or give collate_fn"
        )
    if is_mask(targets):
        masks = MasksInMemory(torch.stack([torch.as_tensor(mask).squeeze() for mask in targets]))
        names = class_names or _default_class_names(masks.read(torch.arange(len(masks))).flatten())
        return Split.from_masks(images, masks, **position), names
    if is_mapping:
        boxes = _read_boxes(targets)
        return Split.from_boxes(images, boxes, **position), class_names or _default_class_names(
            torch.cat([*boxes.labels])
        )
    target, label_names = to_class_indices(targets, class_names)
    return Split.from_images(images, target, **position), label_names or _default_class_names(target)


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
    targets, target_transform = getattr(dataset, "targets", None), getattr(dataset, "target_transform", None)
    if targets is None:
        targets = [dataset[i][1] for i in range(len(dataset))]
    elif target_transform is not None:
        targets = [target_transform(label) for label in targets]
    if isinstance(targets, list) and targets and isinstance(targets[0], Tensor) and not is_mask(targets):
        return torch.stack([torch.as_tensor(target) for target in targets])
    return targets


def _read_boxes(targets: Sequence[Mapping[str, Any]]) -> BoxStore:
    if incomplete := [i for i, target in enumerate(targets) if not target.keys() >= {"boxes", "labels"}]:
        keys = ", ".join(map(str, targets[incomplete[0]]))
        raise LimbeckError(
            f"a target that is a mapping must have boxes and labels, got {keys}: "
            "use torchvision's wrap_dataset_for_transforms_v2, or give collate_fn"
        )
    return BoxStore([target["boxes"] for target in targets], [target["labels"] for target in targets])


def _require_unit_range(inputs: Tensor) -> None:
    low, high = float(inputs.min()), float(inputs.max())
    if not 0 <= low <= high <= 1:
        raise LimbeckError(
            f"inputs must be uint8 or in 0..1 for augmentation, got {inputs.dtype} from {low:g} to {high:g}"
        )


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
