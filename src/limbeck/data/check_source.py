"""What is wrong with the data of a source, all at once: files that cannot be read, duplicates, odd sizes, classes."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any, Final, final

import torch

from limbeck.core.errors import LimbeckError
from limbeck.data.audio_files import read_audio
from limbeck.data.collated_dataset import CollatedDataset
from limbeck.data.image_files import open_image
from limbeck.data.image_store import tensor_bytes
from limbeck.data.mask_store import open_mask
from limbeck.data.module import DataModule
from limbeck.data.sources.source_file import SourceFile, find_duplicate_files
from limbeck.data.sources.voc_detection import read_voc_annotation
from limbeck.data.split import UNLABELED, Split

__all__ = ["DataProblem", "DataReport", "check_source"]

_MIN_IN_CLASS: Final = 10
_MAX_SIZE_RATIO: Final = 4.0
"""Of the shorter side of an image and of its aspect ratio, to the medians of all images."""


@final
@dataclass(frozen=True, slots=True)
class DataProblem:
    """Something wrong with the data.

    Attributes:
        kind: ``unreadable``, ``odd_size``, ``duplicate``, ``tiny_class``, ``warning`` or ``error``.
        message: what it is.
        path: the file, or ``None``.
        split: the split, or ``None``.
        class_name: the class, or ``None``.
    """

    kind: str
    message: str
    path: str | None = None
    split: str | None = None
    class_name: str | None = None


@final
@dataclass(frozen=True, slots=True)
class DataReport:
    """What :func:`check_source` read, and the problems.

    Attributes:
        num_files: number of files; 0 where the source does not list them.
        num_samples: by split; empty where the data could not be loaded.
        problems: all of them.
    """

    num_files: int
    num_samples: Mapping[str, int]
    problems: tuple[DataProblem, ...]


def check_source(source: Any, *, seed: int = 0) -> DataReport:
    """Read every file or sample of ``source`` once.

    Args:
        source: has ``load(*, seed)``; with ``list_files()`` each file is read by itself, so all that cannot be read are
            found, and with ``read_mask_size(path)`` all masks with values that are no class.
        seed: seed of the splits.
    """
    problems, files = list[DataProblem](), list[SourceFile]()
    with _collect(problems, problems):
        files = source.list_files() if hasattr(source, "list_files") else []
    if not any(problem.kind == "error" for problem in problems):
        mask_size = getattr(source, "read_mask_size", _read_mask_size)
        problems += _check_files(files, size=getattr(source, "size", None), mask_size=mask_size)
    splits: dict[str, Split] = {}
    # Loading ends at the first file that cannot be read, and those are in the list.
    if not any(problem.kind in ("unreadable", "error") for problem in problems):
        # Warnings of a source with files are of what the checks of its files find.
        with _collect([] if files else problems, problems):
            data = _without_cache(source).load(seed=seed)
            splits = _splits(data)
            problems += _check_classes(splits, data.class_names, has_files=bool(files))
            problems += _check_boxes(splits, data.class_names)
            problems += _check_samples(splits, find_duplicates=not files)
    num_samples = {name: len(split) for name, split in splits.items()}
    return DataReport(len(files), num_samples, tuple(dict.fromkeys(problems)))


@contextmanager
def _collect(warned: list[DataProblem], failed: list[DataProblem]) -> Iterator[None]:
    """Add the warnings of the block to ``warned``, and its error to ``failed``."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            yield
        except LimbeckError as error:
            failed.append(DataProblem("error", str(error)))
    warned += [DataProblem("warning", str(warning.message)) for warning in caught]


def _without_cache(source: Any) -> Any:
    """``source`` with images that are read on access, as they were all read already."""
    has_cache = is_dataclass(source) and any(field.name == "cache_mb" for field in fields(source))
    return replace(source, cache_mb=0) if has_cache and not isinstance(source, type) else source


def _splits(data: DataModule) -> dict[str, Split]:
    """The splits by name; reading the test split is not logged, as no model is chosen by it."""
    return {"training": data.train, "validation": data.validation, "test": data.test.unlock("data check")}


def _check_files(
    files: Sequence[SourceFile], *, size: Any, mask_size: Callable[[Path], tuple[int, int]]
) -> Iterator[DataProblem]:
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        results = list(pool.map(partial(_read_file, mask_size=mask_size), files))
    readable, sizes = [], list[tuple[SourceFile, tuple[int, int]]]()
    for file, result in zip(files, results, strict=True):
        if isinstance(result, str):
            yield _file_problem("unreadable", result, file)
            continue
        readable.append(file)
        if result is not None:
            sizes.append((file, result))
    yield from _check_sizes([item for item in sizes if item[0].kind == "image"], size=size)
    yield from _check_mask_sizes(sizes)
    yield from _check_class_files(readable)
    is_split_here = len({file.split for file in files} - {"unlabeled"}) < 3
    for first, second in find_duplicate_files(
        [file for file in readable if file.kind not in ("mask", "annotation")], within_splits=is_split_here
    ):
        if first.split == second.split != "training":
            continue
        message = f"{second.path} ({second.split}) is the same as {first.path} ({first.split})"
        if first.class_name != second.class_name and None not in (first.class_name, second.class_name):
            message += f", in the classes {first.class_name!r} and {second.class_name!r}"
        elif first.split == second.split:
            message += ", and the folder is split at random"
        yield _file_problem("duplicate", f"{message}: remove one of them", second)


def _read_file(file: SourceFile, *, mask_size: Callable[[Path], tuple[int, int]]) -> tuple[int, int] | str | None:
    """Width and height of an image or a mask; the error of a file that cannot be read."""
    try:
        if file.kind == "audio":
            read_audio(file.path)
            return None
        if file.kind == "annotation":
            if file.path.suffix == ".xml":  # one of all images is read by load()
                read_voc_annotation(file.path, file.path)
            return None
        if file.kind == "mask":
            return mask_size(file.path)
        image = open_image(file.path, 3)
        return int(image.width), int(image.height)
    except LimbeckError as error:
        return str(error)


def _read_mask_size(path: Path) -> tuple[int, int]:
    image = open_mask(path)
    return int(image.width), int(image.height)


def _check_sizes(sizes: Sequence[tuple[SourceFile, tuple[int, int]]], *, size: Any) -> Iterator[DataProblem]:
    """Images of another size than the others, where they are not resized; else those of a very different one."""
    if not sizes:
        return
    (usual, _), *others = Counter(shape for _, shape in sizes).most_common()
    if size is None:
        for file, shape in sizes if others else ():
            if shape != usual and file.split != "unlabeled":
                text = f"{file.path} is {_format(shape)}, and most images are {_format(usual)}: set data.size"
                yield _file_problem("odd_size", text, file)
        return
    side = median(min(shape) for _, shape in sizes)
    aspect = median(max(shape) / min(shape) for _, shape in sizes)
    for file, shape in sizes:
        side_ratio = max(min(shape) / side, side / min(shape))
        aspect_ratio = max(shape) / min(shape) / aspect
        if side_ratio > _MAX_SIZE_RATIO or aspect_ratio > _MAX_SIZE_RATIO:
            text = f"{file.path} is {_format(shape)}, unlike most images (shorter side {side:g}): crop or remove it"
            yield _file_problem("odd_size", text, file)


def _check_mask_sizes(sizes: Sequence[tuple[SourceFile, tuple[int, int]]]) -> Iterator[DataProblem]:
    """Masks of another size than their image."""
    images = {(file.split, file.path.stem): (file, shape) for file, shape in sizes if file.kind == "image"}
    for mask, shape in sizes:
        if mask.kind == "mask" and (pair := images.get((mask.split, mask.path.stem))) and pair[1] != shape:
            text = f"{mask.path} is {_format(shape)}, and its image {_format(pair[1])}: give masks of equal size"
            yield _file_problem("odd_size", text, mask)


def _check_class_files(files: Sequence[SourceFile]) -> Iterator[DataProblem]:
    """Classes with few training files, or none in another split that has some."""
    counts = Counter((file.split, file.class_name) for file in files if file.class_name is not None)
    for split_name, class_name in product(
        dict.fromkeys(split for split, _ in counts), dict.fromkeys(name for _, name in counts)
    ):
        yield from _check_count(class_name, split_name, counts[split_name, class_name])


def _check_classes(
    splits: Mapping[str, Split], class_names: Sequence[str], *, has_files: bool
) -> Iterator[DataProblem]:
    """Classes with few samples in training, or none in another split."""
    if len(class_names) < 2 or not all(split.has_class_targets for split in splits.values()):
        return
    for split_name, split in splits.items():
        counts = torch.bincount(split.target[split.target != UNLABELED], minlength=len(class_names)).tolist()
        for name, count in zip(class_names, counts, strict=True):
            if not has_files or not count:
                yield from _check_count(name, split_name, count)


def _check_boxes(splits: Mapping[str, Split], class_names: Sequence[str]) -> Iterator[DataProblem]:
    """Classes with boxes in few training images, or none in another split."""
    for split_name, split in splits.items():
        if split.boxes is None:
            continue
        present = (
            torch.unique(split.boxes.counted_labels(i)) for i in split.indices[split.target != UNLABELED].tolist()
        )
        counts = torch.bincount(torch.cat([torch.zeros(0, dtype=torch.long), *present]), minlength=len(class_names))
        for name, count in zip(class_names, counts.tolist(), strict=True):
            yield from _check_count(name, split_name, count, "{} images with a box")


def _check_count(
    class_name: str, split_name: str, count: int, unit: str = "labeled {} samples"
) -> Iterator[DataProblem]:
    minimum = _MIN_IN_CLASS if split_name == "training" else 1
    if count < minimum:
        text = f"the class {class_name!r} has {count} {unit.format(split_name)}, fewer than {minimum}: add some"
        yield DataProblem("tiny_class", text, split=split_name, class_name=class_name)


def _check_samples(splits: Mapping[str, Split], *, find_duplicates: bool) -> Iterator[DataProblem]:
    """Equal samples in different splits, where they are no files."""
    seen: dict[bytes, tuple[str, int]] = {}
    for split_name, split in splits.items() if find_duplicates else ():
        for position in range(0 if isinstance(split.images, CollatedDataset) else len(split)):
            sample_id = int(split.sample_ids[position])
            first_split, first_id = seen.setdefault(_hash_input(split, position), (split_name, sample_id))
            if first_split != split_name:
                text = f"sample {sample_id} ({split_name}) is the same as sample {first_id} ({first_split})"
                yield DataProblem("duplicate", f"{text}: remove one of them", split=split_name)


def _hash_input(split: Split, position: int) -> bytes:
    index, sequences = split.indices[position : position + 1], split.sequences
    inputs = split.images.read(index) if sequences is None else sequences.fields[sequences.input_name][int(index)]
    return hashlib.sha256(tensor_bytes(inputs)).digest()


def _file_problem(kind: str, message: str, file: SourceFile) -> DataProblem:
    return DataProblem(kind, message, str(file.path), file.split, file.class_name)


def _format(shape: tuple[int, int]) -> str:
    return f"{shape[0]}x{shape[1]}"
