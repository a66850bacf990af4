"""Constructors of data for a user's tensors, map-style data sets and loaders."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, final

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.data.augmentation import Augmentation
from limbeck.data.batch_sampler import BatchStream
from limbeck.data.box_store import CROWD, BoxStore
from limbeck.data.collated_dataset import CollatedDataset
from limbeck.data.image_store import evenly_spaced_indices, preserve_rng_state
from limbeck.data.input_checks import read_item, require_finite, require_image_values, require_input_type
from limbeck.data.labels import to_class_indices
from limbeck.data.loader_adapter import LoaderAdapter, checked_batches
from limbeck.data.mask_store import MasksInMemory, is_mask
from limbeck.data.module import DataModule, LabelSubset, NormalizeMode, make_splits
from limbeck.data.split import DatasetAdapter, InMemory, Split
from limbeck.utils.batch_fields import get_target

__all__ = ["LoaderDataModule", "from_datasets", "from_loaders", "from_tensors"]


def from_tensors(
    inputs: Tensor, target: Any, *, class_names: Sequence[str] | None = None, name: str = "arrays", seed: int = 0,
    val_split: float = 0.2, test_split: float = 0.2, num_labeled: int | None = None,
    augment: Augmentation = Augmentation(), normalize: NormalizeMode = "data", groups: Any = None,
) -> DataModule:  # fmt: skip
    """Data from tensors: ``inputs`` ``[n, channels, height, width]`` (uint8, or float 0..1), ``target`` ``[n]``.

    Labels are class indices (−100: no label, in training only), names, or one-hot rows; see
    :func:`~limbeck.data.labels.to_class_indices`. Samples of one of ``groups`` ``[n]`` (integers or names: a speaker,
    an identity) are in one split only.

    Raises:
        LimbeckError: inputs are integers, images in another layout or of 0..255 as floats, or not finite; or labels are
            no classes.

    >>> data = from_tensors(torch.rand(100, 1, 8, 8), torch.arange(100) % 4)
    >>> len(data.train), len(data.validation), len(data.test), data.class_names
    (64, 16, 20, ('0', '1', '2', '3'))
    """
    inputs = torch.as_tensor(inputs)
    require_input_type(inputs.dtype)
    if len(inputs):
        require_image_values(inputs)
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

    An item is ``(input, target)``, or a mapping with both (``pixel_values`` and ``label``). A target is a class; a
    ``torchvision.tv_tensors.Mask``; or boxes, a mapping with ``boxes`` and ``labels`` (as torchvision's
    ``wrap_dataset_for_transforms_v2`` gives) and, where there is one, ``iscrowd``, of boxes that are ignored. Items of
    any other kind need ``collate_fn``.

    Args:
        train: the training samples.
        validation: ``None``: 20 % of ``train``.
        test: ``None``: 20 % of ``train``.
        class_names: names of the classes by index; ``None``: ``train.classes``, as torchvision's data sets have them,
            or the indices.
        name: name of the data set.
        seed: seed of the splits and of the order.
        groups: the group of each item of ``train``, see :func:`from_tensors`.
        augment: transforms of training inputs, which are in 0..1.
        collate_fn: maps a list of items to a batch, a mapping, as of ``torch.utils.data.DataLoader``; limbeck adds
            ``sample_id`` and ``view``.

    Raises:
        LimbeckError: validation or test items are random, or training items with masks or boxes are; an item cannot be
            read; or the data sets differ in their classes.
    """
    if class_names is None:
        class_names = _class_names({"train": train, "validation": validation, "test": test})
    train_split, names = _read_dataset(train, "train", class_names, collate_fn, groups=groups)
    if (validation is None or test is None) and not train_split.images.is_deterministic():
        raise LimbeckError(
            "items of `train` change each time they are read, so splits of it cannot be evaluated: give `validation` "
            "and `test` with a fixed transform, or move the random transforms into an Augmentation"
        )
    if isinstance(train_split.images, DatasetAdapter):
        with preserve_rng_state():
            require_image_values(train_split.images.read(torch.tensor([0])))
        if augment.transforms:
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
        batches = iter(self.validation)
        batches = batches if is_distributed else islice(batches, rank, None, world_size)
        return checked_batches(self.validation, batches)


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
    if targets is None or _are_mask_files(targets, dataset):
        targets = [get_target(read_item(dataset, i)) for i in range(len(dataset))]
        if any(target is None for target in targets):
            raise LimbeckError("an item of a data set must be (input, target), got no target: give collate_fn")
    elif target_transform is not None:
        targets = [target_transform(label) for label in targets]
    if isinstance(targets, list) and targets and isinstance(targets[0], Tensor) and not is_mask(targets):
        return torch.stack([torch.as_tensor(target) for target in targets])
    return targets


def _are_mask_files(targets: Any, dataset: Any) -> bool:
    """Whether ``targets`` are paths of masks, as of torchvision's ``VOCSegmentation`` and ``Cityscapes``."""
    if not isinstance(targets, list) or not targets or not isinstance(targets[0], str | list):
        return False
    with preserve_rng_state():
        return is_mask([get_target(read_item(dataset, 0))])


def _read_boxes(targets: Sequence[Mapping[str, Any]]) -> BoxStore:
    if incomplete := [i for i, target in enumerate(targets) if not target.keys() >= {"boxes", "labels"}]:
        keys = ", ".join(map(str, targets[incomplete[0]]))
        raise LimbeckError(
            f"a target that is a mapping must have boxes and labels, got {keys}: "
            "use torchvision's wrap_dataset_for_transforms_v2, or give collate_fn"
        )
    boxes, labels = ([target[key] for target in targets] for key in ("boxes", "labels"))
    has_crowds = any("iscrowd" in target for target in targets)
    crowds = [torch.as_tensor(target.get("iscrowd", torch.zeros(len(target["labels"])))).bool() for target in targets]
    return BoxStore(boxes, labels, [CROWD * flags.long() for flags in crowds] if has_crowds else None)


def _require_unit_range(inputs: Tensor) -> None:
    require_finite(inputs, lambda i: f"sample {i}")
    low, high = float(inputs.min()), float(inputs.max())
    if not 0 <= low <= high <= 1:
        raise LimbeckError(
            f"inputs must be uint8 or in 0..1 for augmentation, got floats from {low:g} to {high:g}: scale them, or "
            "remove `augment`"
        )


def _class_names(datasets: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The attribute ``classes`` of the data sets, as torchvision's have it, by index; ``None`` where it is missing."""
    by_split = {name: classes for name, dataset in datasets.items() if (classes := _find_classes(dataset))}
    for split_name, classes in by_split.items():
        if "train" in by_split and classes != by_split["train"]:
            raise LimbeckError(
                f"`{split_name}` must have the classes of `train`, got {', '.join(classes[:5])} and "
                f"{', '.join(by_split['train'][:5])}: an index would name different classes"
            )
    return by_split.get("train")


def _find_classes(dataset: Any) -> tuple[str, ...] | None:
    """``dataset.classes``, also of the data set of a ``Subset``; of several names of a class the first."""
    while dataset is not None and getattr(dataset, "target_transform", None) is None:
        classes = getattr(dataset, "classes", None)
        if isinstance(classes, list | tuple) and classes:
            names = tuple(item[0] if isinstance(item, tuple) and item else item for item in classes)
            return names if all(isinstance(name, str) for name in names) and len(set(names)) == len(names) else None
        dataset = getattr(dataset, "dataset", None)
    return None


def _default_class_names(target: Tensor) -> tuple[str, ...]:
    if not len(target):
        raise LimbeckError("a data set must have samples, got none")
    return tuple(str(i) for i in range(int(target.max()) + 1))
