"""A data set with splits, augmentation and normalization."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, final

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.data.augmentation import Augmentation
from limbeck.data.batch_sampler import Batch, BatchSampler
from limbeck.data.collated_dataset import CollatedDataset
from limbeck.data.groups import require_disjoint_groups
from limbeck.data.held_out import HeldOutTest
from limbeck.data.image_store import ImageStore, InMemory
from limbeck.data.input_checks import require_finite
from limbeck.data.normalization import InputNormalization, NoNormalization, Normalization
from limbeck.data.split import UNLABELED, Split, hide_labels, stratified_split, stratified_subsample
from limbeck.data.unlabeled_images import add_unlabeled

__all__ = ["DataModule", "DataSource", "iterate_batches", "make_splits"]

LabelSubset = Literal["all", "labeled"]
NormalizeMode = Literal["data", "imagenet", "none"]
_VALIDATION, _TEST = 5, 6
_MIN_LABELS = 10
"""Labels of a split from which on those of one class are a warning."""


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

    def __repr__(self) -> str:
        sizes = f"train={len(self.train)}, validation={len(self.validation)}, test={len(self.test)}"
        return f"DataModule({self.name}: {sizes}, classes={len(self.class_names)}, input_shape={self.input_shape})"

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
    unlabeled: ImageStore | None = None,
) -> DataModule:  # fmt: skip
    """A data module: missing splits are split off ``train``, labels hidden, the normalization computed.

    The test split is split off first, so that it does not depend on the validation split. Samples without a label stay
    in ``train``. Sequences and values have no normalization but an object.

    Args:
        name: name of the data set.
        class_names: names of the classes, by index.
        train: the training samples.
        seed: seed of the splits.
        validation: the validation split, or a fraction of ``train``.
        test: the test split, or a fraction of ``train``.
        num_labeled: number of training samples that keep their label; ``None``: all.
        num_samples: number of training samples; ``None``: all.
        augment: transforms of training inputs.
        normalize: ``data`` (statistics of ``train``), ``imagenet``, ``none``, or an object.
        facts: see :class:`DataModule`.
        unlabeled: further training images without a label, of the size of those of ``train``; not in ``num_samples``.

    Raises:
        LimbeckError: a label is no class, an input is not finite, a split has no sample or no label, or the
            augmentation does not support the samples.
    """
    if isinstance(normalize, str) and normalize not in _NORMALIZE:
        raise LimbeckError(f"`normalize` must be {', '.join(_NORMALIZE)}, got {normalize!r}")
    _check_augmentation(train, augment)
    for split_name, given in (("training", train), ("validation", validation), ("test", test)):
        if isinstance(given, Split):
            _check_samples(given, split_name, len(class_names), name)
    if not isinstance(test, Split):
        train, test = stratified_split(train, test, seed=seed, purpose=_TEST)
    if not isinstance(validation, Split):
        train, validation = stratified_split(train, validation, seed=seed, purpose=_VALIDATION)
    if num_samples is not None:
        train = stratified_subsample(train, num_samples, seed=seed)
    if num_labeled is not None:
        train = hide_labels(train, num_labeled, seed=seed)
    splits = {"training": train, "validation": validation, "test": test}
    _check_splits(splits, class_names, name)
    require_disjoint_groups(splits)
    if not isinstance(normalize, str):
        normalization = normalize
    else:
        has_images = train.sequences is None and not isinstance(train.images, CollatedDataset)
        normalization = _NORMALIZE[normalize](train) if has_images else NoNormalization()
    if unlabeled is not None:
        first_id = 1 + max(int(split.sample_ids.max()) for split in splits.values())
        train = add_unlabeled(train, unlabeled, first_id=first_id)
    return DataModule(
        name, tuple(class_names), train, validation, HeldOutTest(test), augment, normalization, seed,
        facts=facts or {},
    )  # fmt: skip


def _check_augmentation(train: Split, augment: Augmentation) -> None:
    """Refuse transforms that do not support the samples."""
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


def _check_samples(split: Split, split_name: str, classes: int, name: str) -> None:
    """Refuse labels that are no class, and inputs in memory that are not finite."""
    if split.has_class_targets:
        _check_labels(split.target, classes, name)
    if isinstance(split.images, InMemory):
        ids = torch.arange(len(split.images)).index_copy(0, split.indices, split.sample_ids)
        require_finite(split.images.tensor, lambda i: f"sample {int(ids[i])} ({split_name} split of {name})")


def _check_splits(splits: Mapping[str, Split], class_names: Sequence[str], name: str) -> None:
    """Refuse splits without a sample or (but for training) without a label; warn where all labels are one class."""
    for split_name, split in splits.items():
        if not len(split):
            raise LimbeckError(f"the {split_name} split of {name} must have samples, got none: change the fractions")
        labels = split.target[split.target != UNLABELED]
        if not len(labels) and split_name != "training":
            raise LimbeckError(
                f"the {split_name} split of {name} must have labeled samples, got {len(split)} without a label: label "
                "some, or change the fractions"
            )
        if (
            split.has_class_targets
            and len(class_names) > 1
            and len(labels) >= _MIN_LABELS
            and bool((labels == labels[0]).all())
        ):
            warnings.warn(
                f"all {len(labels)} labels of the {split_name} split of {name} are of one class "
                f"({class_names[int(labels[0])]}): metrics have no meaning there; check the labels",
                stacklevel=4,
            )


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
