"""Images with annotated boxes, whatever file format they come from: class names, checks of boxes, splits."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError, suggest_names
from limbeck.data.box_store import COUNTED, BoxStore, clip_boxes_to_image
from limbeck.data.groups import groups_of_paths
from limbeck.data.image_files import letterbox_size, read_image_size
from limbeck.data.module import DataModule, make_splits
from limbeck.data.sources.image_settings import ImageSettings
from limbeck.data.sources.source_file import SourceFile
from limbeck.data.sources.unlabeled_folder import find_unlabeled_folder, list_unlabeled, read_unlabeled
from limbeck.data.split import ImageFiles, InMemory, Split

__all__ = [
    "SET_NAMES",
    "AnnotatedImage",
    "BoxSettings",
    "FlaggedBoxes",
    "InvalidBoxes",
    "SplitSetting",
    "check_choice",
    "choose_sets",
    "list_annotated",
    "load_annotated",
    "require_one_split",
]

InvalidBoxes = Literal["raise", "drop"]
FlaggedBoxes = Literal["ignore", "drop", "keep"]
SplitSetting = float | str | None
SET_NAMES = {"validation": ("val", "valid", "validation"), "test": ("test",)}
_DEFAULT_FRACTION = 0.2
_NO_BOX = (
    "the training annotations must have a box, got none: annotate images of the training set (ignored boxes do not "
    "count)"
)
_MAX_OVERHANG = 1.0
"""Pixels by which a box may reach beyond its image without a warning: tools differ in the index of the first pixel."""


class AnnotatedImage(NamedTuple):
    """One image with its boxes.

    Attributes:
        path: the image file.
        annotation: the file with its boxes.
        size: height and width that the annotation states; ``None``: it states none.
        boxes: left, top, right, bottom in pixels of the upright image.
        class_names: the class of each box.
        ignored: for each box 0, or that it is ignored: 1, or 2 as a crowd; see :class:`~limbeck.data.BoxStore`.
    """

    path: Path
    annotation: Path
    size: tuple[int, int] | None
    boxes: list[tuple[float, float, float, float]]
    class_names: list[str]
    ignored: list[int]


class BoxSettings(ImageSettings, Protocol):
    """The settings that the data sources of detection share."""

    @property
    def name(self) -> str: ...
    @property
    def classes(self) -> tuple[str, ...] | None: ...
    @property
    def val_split(self) -> SplitSetting: ...
    @property
    def test_split(self) -> SplitSetting: ...
    @property
    def invalid_boxes(self) -> InvalidBoxes: ...


def load_annotated(
    source: BoxSettings, root: Path, images: Mapping[str, Sequence[AnnotatedImage]], available: Sequence[str], *,
    seed: int,
) -> DataModule:  # fmt: skip
    """The data of ``source``.

    Args:
        source: its settings.
        root: the folder, which paths are relative to in ``group_pattern``.
        images: those of ``training``, and of ``validation`` and ``test`` where they are not split off by fraction.
        available: the classes of the training split.
        seed: seed of the splits.

    Raises:
        LimbeckError: as :func:`_select_class_names` and :func:`_make_split`, or all boxes of the training images are
            ignored.

    Warns:
        UserWarning: of boxes that are dropped or clipped.
    """
    classes = _select_class_names(images, source.classes, available)
    _require_counted_box(images["training"], classes)
    unlabeled = find_unlabeled_folder(source.unlabeled, root)
    splits, first_id = dict[str, Split](), 0
    for split, members in images.items():
        splits[split] = _make_split(source, members, classes, first_id=first_id, root=root)
        first_id += len(members)
    return make_splits(
        Path(source.name).name, classes, splits["training"], seed=seed,
        validation=splits.get("validation", _fraction_or_default(source.val_split)),
        test=splits.get("test", _fraction_or_default(source.test_split)), num_labeled=source.num_labeled,
        num_samples=source.num_samples, augment=source.augment, normalize=source.normalize,
        unlabeled=read_unlabeled(
            unlabeled, splits["training"], labeled=list_annotated(images), cache_mb=source.cache_mb, resize="letterbox"
        ),
    )  # fmt: skip


def check_choice(name: str, value: object, choices: Sequence[object]) -> None:
    """Refuse a setting of another value than ``choices``."""
    if value not in choices:
        *others, last = map(str, choices)
        raise LimbeckError(f"{name} must be {', '.join(others)} or {last}, got {value!r}: correct it")


def choose_sets(
    has_set: Callable[[str], bool], available: Sequence[str], *, val_split: SplitSetting, test_split: SplitSetting
) -> dict[str, str]:
    """The name of the set of each evaluation split that has one; the others are fractions of the training split.

    Args:
        has_set: whether there is a set of this name.
        available: names for an error.
        val_split: the name of a set, a fraction, or ``None`` for the usual name.
        test_split: the same.
    """
    sets = dict[str, str]()
    for split, key, setting in (("validation", "val_split", val_split), ("test", "test_split", test_split)):
        if isinstance(setting, str):
            if not has_set(setting):
                raise LimbeckError(
                    f"{key}: there is no set {setting!r}; available: {suggest_names(setting, available)}"
                )
            sets[split] = setting
    for split, setting in (("validation", val_split), ("test", test_split)):
        default = next((name for name in SET_NAMES[split] if has_set(name) and name not in sets.values()), None)
        if setting is None and default is not None:
            sets[split] = default
    return sets


def require_one_split(paths: Mapping[str, Iterable[Path]]) -> None:
    """Raise an error where an image is in two of the splits."""
    users = dict[Path, str]()
    for split, members in paths.items():
        for path in members:
            if (user := users.setdefault(path, split)) != split:
                raise LimbeckError(
                    f"an image must be in one split, got {path} in {user} and {split}: choose other sets"
                )


def list_annotated(images: Mapping[str, Sequence[AnnotatedImage]], unlabeled: Path | None = None) -> list[SourceFile]:
    """Every image, and every annotation once, with its split; and the images in the folder ``unlabeled``."""
    files = [SourceFile(image.path, split, None) for split, members in images.items() for image in members]
    annotations = {image.annotation: split for split, members in images.items() for image in members}
    files += [SourceFile(path, split, None, "annotation") for path, split in annotations.items()]
    return files + list_unlabeled(unlabeled)


def _fraction_or_default(setting: SplitSetting) -> float:
    """The fraction of a split that has no set of its own."""
    return _DEFAULT_FRACTION if setting is None or isinstance(setting, str) else float(setting)


def _select_class_names(
    images: Mapping[str, Sequence[AnnotatedImage]], classes: Sequence[str] | None, available: Sequence[str]
) -> list[str]:
    """The names of the classes by index.

    Args:
        images: by split.
        classes: the names to use, in this order; boxes of other classes are left out. ``None``: all ``available``.
        available: the classes of the training split.

    Raises:
        LimbeckError: there is no class, one is unknown, or a split has a class that the training split does not have.
    """
    if not available:
        raise LimbeckError(_NO_BOX)
    if classes is not None:
        if unknown := [name for name in classes if name not in available]:
            raise LimbeckError(
                f"classes: the training annotations have no class {unknown[0]!r}; they have: "
                f"{suggest_names(unknown[0], available)}"
            )
        if len(set(classes)) < len(classes) or not classes:
            raise LimbeckError(f"classes must be different names, got {', '.join(classes) or 'none'}")
        return list(classes)
    known = set(available)
    for split, members in images.items():
        for image in members:
            if unknown := [name for name in image.class_names if name not in known]:
                raise LimbeckError(
                    f"the {split} split must have the classes of the training split, got {unknown[0]!r} in "
                    f"{image.annotation}: correct it, or list those to use in `classes`"
                )
    return list(available)


def _require_counted_box(images: Sequence[AnnotatedImage], class_names: Sequence[str]) -> None:
    """Refuse training images without a box to train on."""
    boxes = (box for image in images for box in zip(image.class_names, image.ignored, strict=True))
    if not any(name in class_names and ignored == COUNTED for name, ignored in boxes):
        raise LimbeckError(_NO_BOX)


def _make_split(
    source: BoxSettings, images: Sequence[AnnotatedImage], class_names: Sequence[str], *, first_id: int, root: Path
) -> Split:
    """A split of ``images``, letterboxed to the size of ``source`` together with their boxes.

    Raises:
        LimbeckError: there is no image, one cannot be read or has another size than its annotation states, or a box is
            invalid and ``invalid_boxes`` is ``raise``.
    """
    if not images:
        raise LimbeckError(f"a set must have images, got none in {root}: add some, or set a fraction for this split")
    boxes = _read_boxes(images, class_names, size=source.size, invalid_boxes=source.invalid_boxes)
    paths = tuple(image.path for image in images)
    files = ImageFiles(paths, source.size, 3, "letterbox" if source.size is not None else "stretch")
    fits_memory = files.read_uint8([0]).numel() * len(files) <= source.cache_mb * 2**20
    store = InMemory(files.read_uint8(range(len(files))), paths) if fits_memory else files
    groups = groups_of_paths(paths, source.group_pattern, root)
    return Split.from_boxes(store, boxes, first_id=first_id, groups=groups)


def _read_boxes(
    images: Sequence[AnnotatedImage], class_names: Sequence[str], *, size: tuple[int, int] | None,
    invalid_boxes: InvalidBoxes,
) -> BoxStore:  # fmt: skip
    """The boxes of each image, in pixels after resizing."""
    index = {name: label for label, name in enumerate(class_names)}
    all_boxes, all_labels, all_ignored = list[Tensor](), list[Tensor](), list[Tensor]()
    invalid, clipped = list[str](), list[Path]()
    for image in images:
        image_size = _require_annotated_size(image)
        keep = [i for i, name in enumerate(image.class_names) if name in index]
        boxes = torch.tensor([image.boxes[i] for i in keep], dtype=torch.float64).reshape(-1, 4)
        labels, ignored = torch.tensor(
            [[index[image.class_names[i]], image.ignored[i]] for i in keep], dtype=torch.long
        ).reshape(-1, 2).unbind(1)  # fmt: skip
        is_valid = _is_valid(boxes, image_size)
        invalid += [_describe_box(boxes[i].tolist(), image, image_size) for i in (~is_valid).nonzero().flatten()]
        boxes = boxes[is_valid]
        inside = clip_boxes_to_image(boxes, image_size)
        if bool(((boxes - inside).abs() > _MAX_OVERHANG).any()):
            clipped.append(image.annotation)
        all_boxes.append(_resize_boxes(inside, image_size, size).float())
        all_labels.append(labels[is_valid])
        all_ignored.append(ignored[is_valid])
    _report(invalid, clipped, invalid_boxes)
    return BoxStore(all_boxes, all_labels, all_ignored)


def _report(invalid: Sequence[str], clipped: Sequence[Path], invalid_boxes: InvalidBoxes) -> None:
    more = f" and {len(invalid) - 1} more" if len(invalid) > 1 else ""
    if invalid and invalid_boxes == "raise":
        raise LimbeckError(
            f"a box must have left < right and top < bottom and lie in its image, got {invalid[0]}{more}: correct it, "
            "or set invalid_boxes to drop"
        )
    if invalid:
        count = "1 invalid box is" if len(invalid) == 1 else f"{len(invalid)} invalid boxes are"
        warnings.warn(f"{count} dropped: {invalid[0]}{more}", stacklevel=5)
    if clipped:
        warnings.warn(
            f"boxes of {len(clipped)} image{'s' if len(clipped) > 1 else ''} reach beyond the image and are clipped, "
            f"such as in {clipped[0]}",
            stacklevel=5,
        )


def _require_annotated_size(image: AnnotatedImage) -> tuple[int, int]:
    """Height and width of the upright image; an error where the annotation states others."""
    height, width = read_image_size(image.path)
    if image.size not in (None, (0, 0), (height, width)):
        assert image.size is not None
        is_rotated = image.size == (width, height)
        remedy = "remove the EXIF orientation of the file" if is_rotated else "annotate this image again"
        raise LimbeckError(
            f"the annotation {image.annotation} must state the size of the upright image {image.path}, {width}x{height}"
            f", got {image.size[1]}x{image.size[0]}: {remedy}, or correct the annotation"
        )
    return height, width


def _is_valid(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """``[k]`` booleans: finite, not empty, and at least partly in an image of ``size``."""
    left, top, right, bottom = boxes.unbind(1)
    is_within = (left < size[1]) & (top < size[0]) & (right > 0) & (bottom > 0)
    return boxes.isfinite().all(dim=1) & (left < right) & (top < bottom) & is_within


def _describe_box(box: Sequence[float], image: AnnotatedImage, size: tuple[int, int]) -> str:
    return f"[{', '.join(f'{x:g}' for x in box)}] in {image.annotation} ({image.path.name}, {size[1]}x{size[0]})"


def _resize_boxes(boxes: Tensor, size: tuple[int, int], new_size: tuple[int, int] | None) -> Tensor:
    if new_size is None:
        return boxes
    height, width = letterbox_size(size, new_size)
    scale_x, scale_y = width / size[1], height / size[0]
    return boxes * boxes.new_tensor([scale_x, scale_y, scale_x, scale_y])
