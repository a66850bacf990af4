"""Boxes in the format of COCO (Lin et al., ECCV 2014): one JSON file for each set."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, final

from limbeck.core.errors import LimbeckError
from limbeck.data.augmentation import Augmentation
from limbeck.data.box_store import COUNTED, CROWD
from limbeck.data.image_files import list_image_files
from limbeck.data.module import DataModule, NormalizeMode
from limbeck.data.sources.box_annotations import (
    SET_NAMES,
    AnnotatedImage,
    FlaggedBoxes,
    InvalidBoxes,
    SplitSetting,
    check_choice,
    choose_sets,
    list_annotated,
    load_annotated,
    require_one_split,
)
from limbeck.data.sources.image_settings import check_image_size
from limbeck.data.sources.lookup import DataNotFoundError, candidate_folders
from limbeck.data.sources.source_file import SourceFile
from limbeck.data.sources.unlabeled_folder import find_unlabeled_folder
from limbeck.utils.io import is_file, require_regular_file

__all__ = ["CocoDetection", "read_coco_annotations"]

_LAYOUTS = (
    ("annotations/instances_{set}.json", "{set}"), ("annotations/instances_{set}.json", "images/{set}"),
    ("{set}/_annotations.coco.json", "{set}"), ("annotations/{set}.json", "images/{set}"),
)  # fmt: skip
_TRAIN_SETS = ("train", "train2017", "train2014")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class CocoDetection:
    """Images with boxes as in COCO: ``annotations/instances_train2017.json`` with images in ``train2017/`` or
    ``images/train2017/``, or ``train/_annotations.coco.json`` beside its images; other layouts by ``annotations`` and
    ``images``.

    A box has the coordinates of the upright image (EXIF). Listed images without annotations are images without boxes.
    Boxes that reach beyond the image are clipped. Segmentations and keypoints are not read.

    Args:
        root: the folder, or its parent with ``name``; ``None``: ``$LIMBECK_DATA``.
        name: name of the data set, and of its folder.
        annotations: path of the JSON file in the folder, where ``{set}`` stands for the name of the set; without
            ``{set}`` it is of one set, which is split by fractions. ``None``: the layouts above.
        images: path of the folder of the images, in the same way.
        classes: names of the classes, by index; boxes of other classes are left out. ``None``: the categories of the
            training file, by id.
        size: height and width of the images, which are resized with their aspect ratio and padded at the right and at
            the bottom; ``None``: unchanged, and of one size.
        train_split: name of the training set; ``None``: the first of ``train``, ``train2017``, ``train2014``.
        val_split: a fraction of the training set, or the name of a set; ``None``: the set ``val`` or ``val2017`` (as
            the training set is called) if it exists, else 0.2.
        test_split: the same with the set ``test``.
        iscrowd: whether boxes marked ``iscrowd`` (many objects at once) are ignored (``ignore``: not trained on, and
            detections in them are neither right nor wrong, as in the evaluation of COCO), left out (``drop``:
            detections in them are false positives) or used as all others (``keep``).
        invalid_boxes: whether a box that is empty or outside its image is an error (``raise``), or left out (``drop``).
        unlabeled: a folder in ``root``, or a path, with further training images without annotations, in subfolders of
            any kind; resized and padded as the others.
        group_pattern: regular expression over the path of an image in the folder, whose first group (or match) names
            what is in one split only; ``None``: no groups.
        cache_mb: size in megabytes up to which the decoded images of a split are held in memory.

    Other settings as :class:`~limbeck.data.Digits`; transforms must transform boxes too.
    """

    root: str | None = None
    name: str = "coco"
    annotations: str | None = None
    images: str | None = None
    classes: tuple[str, ...] | None = None
    size: tuple[int, int] | None = None
    num_labeled: int | None = None
    num_samples: int | None = None
    train_split: str | None = None
    val_split: SplitSetting = None
    test_split: SplitSetting = None
    iscrowd: FlaggedBoxes = "ignore"
    invalid_boxes: InvalidBoxes = "raise"
    unlabeled: str | None = None
    group_pattern: str | None = None
    cache_mb: int = 1024
    augment: Augmentation = Augmentation()
    normalize: NormalizeMode = "imagenet"

    def load(self, *, seed: int = 0) -> DataModule:
        """The data; sets named by ``val_split`` and ``test_split`` are used as they are.

        Raises:
            LimbeckError: files are missing, a file cannot be read, or a box is invalid.

        Warns:
            UserWarning: of images that are in no annotation, and of boxes that are dropped or clipped.
        """
        check_image_size(self.size)
        check_choice("invalid_boxes", self.invalid_boxes, ("raise", "drop"))
        check_choice("iscrowd", self.iscrowd, ("ignore", "drop", "keep"))
        root, images, available = self._read_sets()
        return load_annotated(self, root, images, available, seed=seed)

    def list_files(self) -> list[SourceFile]:
        """Every image and annotation with its split; those of a set that is split by fraction are in training."""
        root, images, _ = self._read_sets()
        return list_annotated(images, find_unlabeled_folder(self.unlabeled, root))

    def _read_sets(self) -> tuple[Path, dict[str, list[AnnotatedImage]], list[str]]:
        """The folder, the images of each split that has a set, and the classes of the training set."""
        root, sets = self._find_sets()
        read = {split: read_coco_annotations(*paths, iscrowd=self.iscrowd) for split, paths in sets.items()}
        images = {split: members for split, (members, _) in read.items()}
        require_one_split({split: [image.path for image in members] for split, members in images.items()})
        return root, images, read["training"][1]

    def _find_sets(self) -> tuple[Path, dict[str, tuple[Path, Path]]]:
        """The folder, and the annotation file and the image folder of each split that has a set."""
        if (self.annotations is None) != (self.images is None):
            raise LimbeckError("annotations and images must be set together: set the other one, or remove both")
        layouts = _LAYOUTS if self.annotations is None or self.images is None else ((self.annotations, self.images),)
        train_names = _TRAIN_SETS if self.train_split is None else (self.train_split,)
        for root in candidate_folders(self.root, self.name):
            for layout in layouts:
                train = next((name for name in train_names if _paths(root, layout, name)), None)
                if train is not None:
                    return root, self._select_sets(root, layout, train)
        where = self.root or f"$LIMBECK_DATA, or set data.root, for {self.name}"
        expected = " or ".join(dict.fromkeys(file.replace("{set}", train_names[0]) for file, _ in layouts))
        raise DataNotFoundError(f"there must be {expected} and a folder of its images in {where}")

    def _select_sets(self, root: Path, layout: tuple[str, str], train: str) -> dict[str, tuple[Path, Path]]:
        has_sets = "{set}" in layout[0]
        year = train.removeprefix("train")

        def find(name: str) -> tuple[Path, Path] | None:
            return _paths(root, layout, name) if has_sets and name != train else None

        known = [f"{name}{suffix}" for names in SET_NAMES.values() for name in names for suffix in {"", year}]
        available = [name for name in known if find(name)]
        names = choose_sets(
            lambda name: bool(find(name) or find(f"{name}{year}")), available, val_split=self.val_split,
            test_split=self.test_split,
        )  # fmt: skip
        pairs = {split: find(name) or find(f"{name}{year}") for split, name in names.items()}
        training = _paths(root, layout, train)
        return {split: pair for split, pair in {"training": training, **pairs}.items() if pair}


def read_coco_annotations(
    path: Path, folder: Path, *, iscrowd: FlaggedBoxes = "ignore"
) -> tuple[list[AnnotatedImage], list[str]]:
    """The images with boxes in a JSON file of COCO, in its order, and the names of the categories by id.

    Args:
        path: the JSON file.
        folder: the folder of its images.
        iscrowd: see :class:`CocoDetection`.

    Raises:
        LimbeckError: the file is no JSON, an entry is missing, or an image is not in ``folder``.
    """
    try:
        content = json.loads(require_regular_file(path).read_bytes())
        images, annotations, categories = (_entries(content, key) for key in ("images", "annotations", "categories"))
        class_names = {_get(item, "id", int): str(_get(item, "name", str)) for item in categories}
        if len(class_names) < len(categories):
            raise ValueError("categories must have different ids, got equal ones")
        by_id = {_get(item, "id", int | str): _read_image(item, path, folder) for item in images}
        for item in annotations:
            _add_box(item, by_id, class_names, iscrowd)
    except RecursionError as error:
        raise LimbeckError(
            f"the annotation {path} cannot be read as JSON (it is nested too deep): correct it"
        ) from error
    except (OSError, ValueError) as error:
        raise LimbeckError(f"the annotation {path} must be of COCO ({error}): correct it") from error
    if len(by_id) < len(images):
        raise LimbeckError(f"the annotation {path} must have different ids of images, got equal ones: correct it")
    members = list(by_id.values())
    _check_files(members, path, folder)
    return members, list(dict.fromkeys(class_names[i] for i in sorted(class_names)))


def _check_files(images: Sequence[AnnotatedImage], path: Path, folder: Path) -> None:
    """Refuse images that are missing or listed twice; warn of files that are not listed."""
    files, listed = set(list_image_files(folder)), [image.path for image in images]
    if missing := [file for file in listed if file not in files and not is_file(file)]:
        raise LimbeckError(f"the images of {path} must be in {folder}, got none at {missing[0]}: add or remove it")
    if len(set(listed)) < len(listed):
        raise LimbeckError(f"the annotation {path} must list each image once, got one twice: correct it")
    if unused := files - set(listed):
        warnings.warn(
            f"{len(unused)} images in {folder} are not in {path.name} and are not used, such as {min(unused).name}",
            stacklevel=6,
        )


def _read_image(item: Mapping[str, Any], path: Path, folder: Path) -> AnnotatedImage:
    name = PurePosixPath(str(_get(item, "file_name", str)).replace("\\", "/"))
    if name.is_absolute() or ".." in name.parts:
        raise ValueError(f"file_name must be a path in the folder of the images, got {str(name)[:80]!r}")
    size = item.get("height"), item.get("width")
    stated = (int(size[0]), int(size[1])) if isinstance(size[0], int) and isinstance(size[1], int) else None
    return AnnotatedImage(folder / name, path, stated, [], [], [])


def _add_box(
    item: Mapping[str, Any], images: Mapping[Any, AnnotatedImage], class_names: Mapping[int, str],
    iscrowd: FlaggedBoxes,
) -> None:  # fmt: skip
    is_crowd = item.get("iscrowd")
    if is_crowd not in (0, 1, None):
        raise ValueError(f"iscrowd must be 0 or 1, got {str(is_crowd)[:40]!r}")
    if is_crowd and iscrowd == "drop":
        return
    image_id, category, box = _get(item, "image_id", int | str), _get(item, "category_id", int), item.get("bbox")
    if image_id not in images or category not in class_names:
        raise ValueError(f"an annotation must be of a listed image and category, got {image_id!r} and {category!r}")
    is_number = isinstance(box, list) and all(isinstance(x, int | float) and not isinstance(x, bool) for x in box)
    if not isinstance(box, list) or not is_number or len(box) != 4:
        raise ValueError(f"bbox must be x, y, width, height, got {str(box)[:60]} for image {image_id!r}")
    try:
        x, y, width, height = map(float, box)
    except OverflowError as error:
        raise ValueError(f"bbox must be finite, got {str(box)[:60]}") from error
    images[image_id].boxes.append((x, y, x + width, y + height))
    images[image_id].class_names.append(class_names[category])
    images[image_id].ignored.append(CROWD if is_crowd and iscrowd == "ignore" else COUNTED)


def _entries(content: Any, key: str) -> list[Mapping[str, Any]]:
    entries = content.get(key) if isinstance(content, Mapping) else None
    if not isinstance(entries, list) or not all(isinstance(item, Mapping) for item in entries):
        raise ValueError(f"{key!r} must be a list of mappings, got {type(entries).__name__}")
    return entries


def _get(item: Mapping[str, Any], key: str, kind: Any) -> Any:
    value = item.get(key)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(
            f"{key!r} of an entry must be {getattr(kind, '__name__', 'a number or a name')}, got {value!r}"
        )
    return value


def _paths(root: Path, layout: tuple[str, str], name: str) -> tuple[Path, Path] | None:
    """The annotation file and the image folder of the set ``name``; ``None`` where one is missing."""
    annotations, images = (root / pattern.replace("{set}", name) for pattern in layout)
    return (annotations, images) if annotations.is_file() and images.is_dir() else None
