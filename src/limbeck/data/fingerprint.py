"""Fingerprint of the images of a batch sampler; part of the key of cached teacher outputs."""

from __future__ import annotations

import hashlib
import inspect
import re
from typing import Final

from limbeck.core.errors import LimbeckError
from limbeck.data.augmentation import Augmentation
from limbeck.data.normalization import Normalization
from limbeck.data.split import Split

__all__ = ["compute_fingerprint"]

_FORMAT: Final = "limbeck images 1"
"""To be counted up when the same settings come to give other images."""

_ADDRESS: Final = re.compile(r" at 0x[0-9a-fA-F]+")


def compute_fingerprint(split: Split, augmentation: Augmentation, normalization: Normalization, *, seed: int) -> str:
    """A sha256 of everything that decides which image (sample, view) is: data, augmentation, seed, normalization.

    The size of a batch, the process and ``repeats`` decide nothing about an image, and labels neither. Raises
    ``LimbeckError`` where the images are not reproducible: a data set that changes its items each
    time, or a transform whose ``repr`` does not contain its settings.
    """
    if not split.images.is_deterministic():
        raise LimbeckError(
            "the data set returns a different image each time an item is read, so teacher outputs cannot be cached: "
            "take the randomness out of it, and put it into the augmentation"
        )
    text = [_FORMAT, split.images.fingerprint(), repr(normalization)]
    text += [hashlib.sha256(numbers.numpy().tobytes()).hexdigest() for numbers in (split.sample_ids, split.indices)]
    if augmentation.transforms:
        text += [str(seed), str(augmentation.num_views), *map(_describe_transform, augmentation.transforms)]
    return hashlib.sha256("\n".join(text).encode()).hexdigest()


def _describe_transform(transform: object) -> str:
    """What a transform does, in text: its settings, and its code where that is not limbeck's."""
    description = repr(transform)
    kind = transform if inspect.isroutine(transform) else type(transform)
    if _ADDRESS.search(description):
        raise LimbeckError(
            f"the transform {description} does not tell its settings, so nobody knows when an answer to it is "
            "still true: "
            "make it a frozen dataclass"
        )
    if (kind.__module__ or "").startswith("limbeck."):
        return f"{kind.__qualname__} {description}"
    try:
        return f"{kind.__qualname__} {description} {inspect.getsource(kind)}"
    except (OSError, TypeError):  # written at a prompt: its settings are all there is
        return f"{kind.__module__}.{kind.__qualname__} {description}"
