"""What decides the pictures of a stream, in one hash: whoever keeps answers to them asks whether it is the same."""

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

_FORMAT: Final = "limbeck pictures 1"
"""To be counted up when the same settings come to give other pictures."""

_ADDRESS: Final = re.compile(r" at 0x[0-9a-fA-F]+")


def compute_fingerprint(split: Split, augmentation: Augmentation, normalization: Normalization, *, seed: int) -> str:
    """A sha256 of everything that decides which picture (sample, view) is: data, augmentation, seed, normalization.

    The size of a batch, the process and ``repeats`` decide nothing about a picture, and labels neither. Raises
    ``LimbeckError`` where the pictures cannot be told for certain: a data set of your own that changes its items each
    time, or a transform that does not tell its settings.
    """
    if not split.images.is_deterministic():
        raise LimbeckError(
            "the data set gives another picture each time the same one is asked for, so no answer to it can be kept: "
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
            f"the transform {description} does not tell its settings, so nobody knows when an answer to it is still true: "
            "make it a frozen dataclass"
        )
    if (kind.__module__ or "").startswith("limbeck."):
        return f"{kind.__qualname__} {description}"
    try:
        return f"{kind.__qualname__} {description} {inspect.getsource(kind)}"
    except (OSError, TypeError):  # written at a prompt: its settings are all there is
        return f"{kind.__module__}.{kind.__qualname__} {description}"
