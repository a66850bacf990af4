"""Data: sources, splits with a held-out test split, augmentation, and batch samplers."""

from typing import TYPE_CHECKING

from limbeck.core.lazy import lazy_exports

if TYPE_CHECKING:
    from limbeck.data._exports import *  # noqa: F403
else:
    __getattr__, __dir__ = lazy_exports("limbeck.data._exports")
