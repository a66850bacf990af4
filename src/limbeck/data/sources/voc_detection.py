"""Boxes in the format of Pascal VOC (Everingham et al., IJCV 2010): one XML file for each image."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal, final
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from limbeck.core.errors import LimbeckError
from limbeck.data.augmentation import Augmentation
from limbeck.data.box_store import COUNTED, IGNORED
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
from limbeck.utils.io import read_text, require_regular_file

__all__ = ["VOCDetection", "read_voc_annotation"]

_TRAIN_SETS = ("train", "trainval")
_MAX_BYTES = 2**24
"""Of one annotation; 10,000 boxes are about 2 MB."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class VOCDetection:
    """Images with boxes as in Pascal VOC: ``JPEGImages/ID.jpg``, ``Annotations/ID.xml`` and the IDs of each set in
    ``ImageSets/Main/train.txt`` (all images are for training where there is none). Or a flat folder of ``NAME.jpg`` and
    ``NAME.xml``, or one in each of ``train/``, ``val/`` (``valid/``) and ``test/``.

    A box has the coordinates of the upright image (EXIF). An annotation without an object is an image without boxes.
    Boxes that reach beyond the image are clipped.

    Args:
        root: the folder, or its parent with ``name``; ``None``: ``$LIMBECK_DATA``.
        name: name of the data set, and of its folder.
        classes: names of the classes, by index; boxes of other classes are left out. ``None``: all classes of the
            training set, in alphabetical order.
        size: height and width of the images, which are resized with their aspect ratio and padded at the right and at
            the bottom; ``None``: unchanged, and of one size.
        val_split: a fraction of the training set, or the name of a set; ``None``: the set ``val`` if it exists, else
            0.2.
        test_split: the same with the set ``test``.
        difficult: whether boxes marked ``difficult`` are ignored (``ignore``: not trained on, and detections of them
            are neither right nor wrong, as in the evaluation of VOC), left out (``drop``: detections of them are false
            positives) or used as all others (``keep``).
        invalid_boxes: whether a box that is empty or outside its image is an error (``raise``), or left out (``drop``).
        first_pixel: coordinates of the first pixel, 1 in Pascal VOC: ``xmin`` and ``ymin`` are the first pixels of the
            box, ``xmax`` and ``ymax`` the last ones. 0: all four are distances from the left and the top.
        unlabeled: a folder in ``root``, or a path, with further training images without annotations, in subfolders of
            any kind; resized and padded as the others.
        group_pattern: regular expression over the path of an image in the folder, whose first group (or match) names
            what is in one split only; ``None``: no groups.
        cache_mb: size in megabytes up to which the decoded images of a split are held in memory.

    Other settings as :class:`~limbeck.data.Digits`; transforms must transform boxes too.
    """

    root: str | None = None
    name: str = "voc"
    classes: tuple[str, ...] | None = None
    size: tuple[int, int] | None = None
    num_labeled: int | None = None
    num_samples: int | None = None
    val_split: SplitSetting = None
    test_split: SplitSetting = None
    difficult: FlaggedBoxes = "ignore"
    invalid_boxes: InvalidBoxes = "raise"
    first_pixel: Literal[0, 1] = 1
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
            UserWarning: of annotations without an image, and of boxes that are dropped or clipped.
        """
        check_image_size(self.size)
        check_choice("invalid_boxes", self.invalid_boxes, ("raise", "drop"))
        check_choice("difficult", self.difficult, ("ignore", "drop", "keep"))
        check_choice("first_pixel", self.first_pixel, (0, 1))
        root, pairs = self._find_sets()
        images = {split: [self._read(*pair) for pair in members] for split, members in pairs.items()}
        available = sorted(set(chain(*(image.class_names for image in images["training"]))))
        return load_annotated(self, root, images, available, seed=seed)

    def list_files(self) -> list[SourceFile]:
        """Every image and annotation with its split; those of a set that is split by fraction are in training."""
        root, pairs = self._find_sets()
        return list_annotated(
            {split: [AnnotatedImage(*pair, None, [], [], []) for pair in members] for split, members in pairs.items()},
            find_unlabeled_folder(self.unlabeled, root),
        )

    def _read(self, image: Path, annotation: Path) -> AnnotatedImage:
        return read_voc_annotation(annotation, image, difficult=self.difficult, first_pixel=self.first_pixel)

    def _find_sets(self) -> tuple[Path, dict[str, list[tuple[Path, Path]]]]:
        """The folder, and the image and annotation files of each split that has a set."""
        for root in candidate_folders(self.root, self.name):
            if (root / "Annotations").is_dir() and (root / "JPEGImages").is_dir():
                return root, self._select_sets(_list_image_sets(root))
            if sets := _list_flat_sets(root):
                return root, self._select_sets(sets)
        where = self.root or f"$LIMBECK_DATA, or set data.root, for {self.name}"
        raise DataNotFoundError(
            f"there must be folders JPEGImages and Annotations, or images beside XML files, in {where}"
        )

    def _select_sets(self, sets: Mapping[str, list[tuple[Path, Path]]]) -> dict[str, list[tuple[Path, Path]]]:
        train = next((name for name in (*_TRAIN_SETS, "") if name in sets), None)
        if train is None:
            raise LimbeckError(f"there must be a set train or trainval, got only {', '.join(sets)}: add ImageSets/Main")
        names = {"training": train} | choose_sets(
            lambda name: bool(name) and name in sets, [name for name in sets if name], val_split=self.val_split,
            test_split=self.test_split,
        )  # fmt: skip
        require_one_split({split: [image for image, _ in sets[name]] for split, name in names.items()})
        return {split: sets[name] for split, name in names.items()}


def read_voc_annotation(
    path: Path, image: Path, *, difficult: FlaggedBoxes = "ignore", first_pixel: Literal[0, 1] = 1
) -> AnnotatedImage:
    """The boxes in an XML file of Pascal VOC.

    Args:
        path: the XML file.
        image: its image.
        difficult: see :class:`VOCDetection`.
        first_pixel: see :class:`VOCDetection`.

    Raises:
        LimbeckError: the file is no XML, is too large, has a document type, or lacks an element.
    """
    root = _parse_xml(path)
    try:
        size = root.find("size")
        stated = None if size is None else (round(_number(size, "height")), round(_number(size, "width")))
        boxes, names, ignored = list[tuple[float, float, float, float]](), list[str](), list[int]()
        for item in root.iterfind("object"):
            is_difficult = (item.findtext("difficult") or "0").strip() not in ("0", "")
            if is_difficult and difficult == "drop":
                continue
            ignored.append(IGNORED if is_difficult and difficult == "ignore" else COUNTED)
            names.append(_text(item, "name"))
            left, top, right, bottom = (_number(item, f"bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax"))
            # One that is empty as written stays empty, so that it is refused.
            shift = first_pixel if left < right and top < bottom else 0
            boxes.append((left - shift, top - shift, right, bottom))
    except (ValueError, OverflowError) as error:
        raise LimbeckError(f"the annotation {path} must be of Pascal VOC ({error}): correct or remove it") from error
    return AnnotatedImage(image, path, stated, boxes, names, ignored)


def _parse_xml(path: Path) -> Element:
    """The root element; a file that is larger than 16 MB or declares a document type is not parsed."""
    try:
        size = require_regular_file(path).stat().st_size
        if size > _MAX_BYTES:
            raise ValueError(f"it must have at most {_MAX_BYTES:,} bytes, got {size:,}")
        root = _build_tree(path.read_bytes())
    except (OSError, ValueError, LookupError, expat.ExpatError) as error:
        raise LimbeckError(f"the annotation {path} cannot be read as XML ({error}): correct or remove it") from error
    if root.tag != "annotation":
        raise LimbeckError(f"the annotation {path} must have the root <annotation>, got <{root.tag}>: correct it")
    return root


def _build_tree(content: bytes) -> Element:
    """The root element of an XML document, in any encoding; a document type raises a ``ValueError``.

    Entities, which could expand to gigabytes or read other files, are declared in a document type only.
    """

    def refuse(*_: object) -> None:
        raise ValueError("document types and entities are not allowed")

    builder, parser = TreeBuilder(), expat.ParserCreate()
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler, parser.EndElementHandler = builder.start, builder.end
    parser.CharacterDataHandler = builder.data
    parser.Parse(content, True)
    return builder.close()


def _text(element: Element, name: str) -> str:
    text = (element.findtext(name) or "").strip()
    if not text:
        raise ValueError(f"<{element.tag}> has no <{name}>")
    return text


def _number(element: Element, name: str) -> float:
    text = _text(element, name)
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"<{name}> must be a number, got {text[:40]!r}") from None


def _list_image_sets(root: Path) -> dict[str, list[tuple[Path, Path]]]:
    """Images and annotations of each set in ``ImageSets/Main``; without it of one set named ''."""
    images = {path.stem: path for path in list_image_files(root / "JPEGImages", nested=False)}
    lists = sorted((root / "ImageSets" / "Main").glob("*.txt"))
    if not lists:
        return {"": _pair_files(list(images.values()), root / "Annotations")}
    sets = dict[str, list[tuple[Path, Path]]]()
    for file in lists:
        # Sets of one class, such as cat_train.txt, have a second column.
        ids = [line.split()[0] for line in read_text(file).removeprefix("\ufeff").splitlines() if line.strip()]
        if missing := [name for name in ids if name not in images]:
            raise LimbeckError(
                f"{file} must list images of {root / 'JPEGImages'}, got {missing[0]!r}: add it, or correct the list"
            )
        sets[file.stem] = _pair_files([images[name] for name in dict.fromkeys(ids)], root / "Annotations", warn=False)
    return sets


def _list_flat_sets(root: Path) -> dict[str, list[tuple[Path, Path]]]:
    """Images and annotations side by side: of each folder ``train``, ``val``, ``test``; or of ``root`` as ''."""
    names = [*_TRAIN_SETS, *chain(*SET_NAMES.values())]
    folders = {name: root / name for name in names if (root / name).is_dir() and any((root / name).glob("*.xml"))}
    if any(root.glob("*.xml")):
        folders = {"": root}
    return {name: _pair_files(list_image_files(folder, nested=False), folder) for name, folder in folders.items()}


def _pair_files(images: Sequence[Path], folder: Path, *, warn: bool = True) -> list[tuple[Path, Path]]:
    """Each image with the annotation of its name in ``folder``."""
    annotations = {path.stem: path for path in sorted(folder.glob("*.xml"))}
    if missing := [path for path in images if path.stem not in annotations]:
        raise LimbeckError(
            f"each image must have an annotation of its name in {folder}, got none for {missing[0]}: add one (without "
            "an object for an image without boxes), or remove the image"
        )
    if warn and (unused := sorted(annotations.keys() - {path.stem for path in images})):
        warnings.warn(
            f"{len(unused)} annotations in {folder} have no image and are not used, such as {unused[0]}.xml",
            stacklevel=5,
        )
    return [(path, annotations[path.stem]) for path in images]
