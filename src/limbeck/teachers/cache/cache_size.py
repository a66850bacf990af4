"""The size of a cache before it is filled."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from torch import Tensor

from limbeck.teachers.cache.layout import RecordLayout
from limbeck.teachers.cache.store import CRC_BYTES

__all__ = ["describe_size", "estimate_bytes", "is_large"]

_LARGE: Final = 100_000_000


def estimate_bytes(layout: RecordLayout, tensors: Mapping[str, Tensor], num_records: int) -> int:
    """Bytes of ``num_records`` records, from the encoded outputs for a few samples.

    Exact where all samples have equally many rows; else their mean number of rows is that of ``tensors``, without the
    room that records of rows leave.
    """
    rows = layout.pack(tensors).rows
    row_bytes = 0.0 if rows is None or not len(rows) else sum(map(len, rows)) / len(rows)
    return round(num_records * (layout.checksum_bytes + layout.num_bytes + CRC_BYTES + row_bytes))


def is_large(num_bytes: int, folder: Path) -> bool:
    """Whether the size of a cache in ``folder`` is worth a message: 100 MB or more, or more than is free."""
    return num_bytes >= _LARGE or num_bytes > _free_bytes(folder)


def describe_size(num_bytes: int, num_records: int, folder: Path) -> str:
    """What a cache of ``num_bytes`` takes, and what to do where the disk is too small.

    >>> describe_size(2_500_000, 1_000, Path("."))
    '1,000 outputs of 2,500 bytes take 2.5 MB in .'
    """
    size = f"{num_bytes / max(num_records, 1):,.0f} bytes take {num_bytes / 1e6:,.1f} MB"
    text = f"{num_records:,} outputs of {size} in {folder}"
    if num_bytes <= (free := _free_bytes(folder)):
        return text
    return (
        f"{text}, where only {free / 1e6:,.1f} MB are free: set cache.top_k, cache.pool_factor or a larger stride of "
        "the task, or another cache.root"
    )


def _free_bytes(folder: Path) -> int:
    """Free space where ``folder`` is, or will be."""
    return shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free
