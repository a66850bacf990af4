"""Cityscapes: street scenes of 50 cities (Cordts et al., CVPR 2016, https://arxiv.org/abs/1604.01685)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final, final

from limbeck.core.errors import LimbeckError
from limbeck.data.augmentation import Augmentation
from limbeck.data.module import DataModule, NormalizeMode
from limbeck.data.sources.lookup import DataNotFoundError, candidate_folders
from limbeck.data.sources.mask_pairs import (
    MaskPairs,
    check_mask_settings,
    list_mask_files,
    load_mask_pairs,
    read_mask_size,
)
from limbeck.data.sources.source_file import SourceFile

__all__ = ["Cityscapes"]

_IMAGE_SUFFIX, _MASK_SUFFIX = "_leftImg8bit.png", "_gtFine_labelIds.png"
_CLASSES: Final = {
    "road": 7, "sidewalk": 8, "building": 11, "wall": 12, "fence": 13, "pole": 17, "traffic light": 19,
    "traffic sign": 20, "vegetation": 21, "terrain": 22, "sky": 23, "person": 24, "rider": 25, "car": 26, "truck": 27,
    "bus": 28, "train": 31, "motorcycle": 32, "bicycle": 33,
}  # fmt: skip
"""The 19 classes of the benchmark and their label ids."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Cityscapes:
    """Cityscapes with fine annotations and the 19 classes of the benchmark, in the layout of
    ``torchvision.datasets.Cityscapes``: ``leftImg8bit/train/CITY/*_leftImg8bit.png`` and
    ``gtFine/train/CITY/*_gtFine_labelIds.png``, and the same for ``val``.

    The data set needs an account at https://www.cityscapes-dataset.com. The labels of its test split are not public, so
    its ``val`` is the test split here, and a validation split of whole cities is split off ``train``.

    Args:
        root: the folder with ``leftImg8bit`` and ``gtFine``, or its parent with ``cityscapes``; ``None``:
            ``$LIMBECK_DATA``.
        size: height and width that images and masks are resized to; ``None``: 1024×2048, as they are.
        val_split: validation fraction of ``train``.
        group_pattern: see :class:`SegmentationFolder`; by default the city.
        unlabeled: a folder in ``leftImg8bit``, such as ``train_extra``, or a path, with further training images without
            a mask.

    Other settings as :class:`SegmentationFolder`.
    """

    classes: ClassVar = tuple(_CLASSES)
    ignore_index: ClassVar = 255
    class_map: ClassVar[Mapping[int, int]] = {value: index for index, value in enumerate(_CLASSES.values())}
    test_split: ClassVar = 0.2

    root: str | None = None
    size: tuple[int, int] | None = (512, 1024)
    num_labeled: int | None = None
    num_samples: int | None = None
    val_split: float = 0.1
    group_pattern: str | None = "[^/]+"
    unlabeled: str | None = None
    cache_mb: int = 1024
    augment: Augmentation = Augmentation()
    normalize: NormalizeMode = "imagenet"

    def load(self, *, seed: int = 0) -> DataModule:
        """The data."""
        return load_mask_pairs(self, "cityscapes", self._find_pairs(), seed=seed)

    def list_files(self) -> list[SourceFile]:
        """Every image and mask of ``train`` (in training) and ``val`` (in test)."""
        return list_mask_files(self, self._find_pairs())

    def read_mask_size(self, path: Path) -> tuple[int, int]:
        """Width and height of a mask."""
        return read_mask_size(self, path)

    def _find_pairs(self) -> dict[str, MaskPairs]:
        check_mask_settings(self)
        for root in candidate_folders(self.root, "cityscapes"):
            if (root / "leftImg8bit" / "train").is_dir():
                return {name: _pair_files(root, split) for name, split in (("train", "train"), ("test", "val"))}
        where = self.root or "$LIMBECK_DATA, or set data.root, for cityscapes"
        raise DataNotFoundError(f"there must be folders leftImg8bit/train and gtFine/train in {where}")


def _pair_files(root: Path, split: str) -> MaskPairs:
    folder = root / "leftImg8bit" / split
    pairs = [
        (path, root / "gtFine" / split / path.parent.name / path.name.replace(_IMAGE_SUFFIX, _MASK_SUFFIX))
        for path in sorted(folder.glob(f"*/*{_IMAGE_SUFFIX}"))
    ]
    missing = [mask for _, mask in pairs if not mask.is_file()]
    if missing or not pairs:
        problem = f"no file {missing[0]}" if missing else "no image"
        raise LimbeckError(f"each image in {folder} must have a mask in gtFine/{split}, got {problem}: extract gtFine")
    return MaskPairs(folder, pairs)
