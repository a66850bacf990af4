"""The settings that data sources of images with masks or boxes share."""

from __future__ import annotations

from typing import Protocol

from limbeck.core.errors import LimbeckError
from limbeck.core.limits import MAX_INPUT_SIZE
from limbeck.data.augmentation import Augmentation
from limbeck.data.module import NormalizeMode

__all__ = ["ImageSettings", "check_image_size"]


class ImageSettings(Protocol):
    """The settings that data sources of images with masks or boxes share."""

    @property
    def size(self) -> tuple[int, int] | None: ...
    @property
    def num_labeled(self) -> int | None: ...
    @property
    def num_samples(self) -> int | None: ...
    @property
    def group_pattern(self) -> str | None: ...
    @property
    def unlabeled(self) -> str | None: ...
    @property
    def cache_mb(self) -> int: ...
    @property
    def augment(self) -> Augmentation: ...
    @property
    def normalize(self) -> NormalizeMode: ...


def check_image_size(size: tuple[int, int] | None) -> None:
    """Refuse a ``size`` that is no height and width."""
    if size is not None and not (len(size) == 2 and 1 <= min(size) <= max(size) <= MAX_INPUT_SIZE):
        raise LimbeckError(f"size must be height and width from 1 to {MAX_INPUT_SIZE}, got {size}")
