"""The seed of each training of a run."""

from __future__ import annotations

import zlib
from typing import Final

from limbeck.data.counter_rng import derive_seed

__all__ = ["training_seed"]

_SEED_NAMES: Final = {
    "baseline": "alone", "student_only": "alone", "equal_time": "longer", "label_smoothing": "smoothed",
    "no_assistants": "direct", "teacher_training": "teaching", "pretrain": "alone",
}  # fmt: skip
"""The names of phases and stages in records of schema 2, which seeds are derived from, so that weights and records of
that schema are reproduced to the bit. Other names are their own."""


def training_seed(seed: int, phase: str, stage: str) -> int:
    """The seed of the ``stage`` of a ``phase`` in a run with ``seed``: a hash of their names, mixed with ``seed``.

    >>> training_seed(0, "baseline", "distill") == derive_seed(0, zlib.crc32(b"alone/distill"))
    True
    """
    names = (_SEED_NAMES.get(name, name) for name in (phase, stage))
    return derive_seed(seed, zlib.crc32("/".join(names).encode()))
