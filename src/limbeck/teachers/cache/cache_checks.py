"""Checks of a teacher when its cache is opened: outputs are by sample, and those that are stored are its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.teachers.cache.cache_config import CacheConfig
from limbeck.teachers.cache.layout import RecordLayout, Records

__all__ = [
    "NUM_CHECKED_RECORDS", "TOLERANCE", "require_independent_samples", "require_same_outputs", "select_sample",
    "select_samples",
]  # fmt: skip

NUM_CHECKED_RECORDS: Final = 4
TOLERANCE: Final = 1e-2
"""Largest difference, relative to the largest value: above half precision, 8-bit features and other machines."""


def require_independent_samples(first: dict[str, Tensor], second: dict[str, Tensor], *, name: str) -> None:
    """An error where the first sample of two batches has other outputs in each.

    Args:
        first: the encoded outputs for a batch.
        second: those for another batch with the same first sample.
        name: name of the teacher.
    """
    layout = RecordLayout.from_tensors(first, CacheConfig(dtype="float32", feature_dtype="float32"))
    sample = select_sample(first, 0)
    difference, field = layout.difference(layout.pack(sample), select_sample(second, 0))
    if difference > TOLERANCE:
        raise LimbeckError(
            f"the outputs of teacher {name!r} for a sample depend on the other samples of its batch, or change with "
            f"each call ({field} by {difference:.0%} of the largest value), so they cannot be cached: use BatchNorm "
            "layers with running statistics, let the network ignore padding, or remove the cache"
        )


def require_same_outputs(
    layout: RecordLayout, record: Records, live: dict[str, Tensor], *, name: str, sample_id: int, folder: Path
) -> None:
    """An error where a stored ``record`` is not what the teacher computes for the same sample.

    Args:
        layout: layout of the record.
        record: one stored record, without checksums.
        live: the encoded outputs of the teacher for the sample.
        name: name of the teacher.
        sample_id: id of the sample.
        folder: folder of the cache.
    """
    difference, field = layout.difference(record, live)
    if difference > TOLERANCE:
        raise LimbeckError(
            f"the cache {folder} holds other outputs than the teacher {name!r} computes now (sample {sample_id}: "
            f"{field} differs by {difference:.0%} of the largest value), and what changed is not in its weights, "
            f"attributes, hooks or code: remove the cache with `limbeck cache prune {folder.name}`"
        )


def select_sample(tensors: dict[str, Tensor], index: int) -> dict[str, Tensor]:
    """The tensors of one sample, ``[1, ...]``."""
    return {name: tensor[index : index + 1] for name, tensor in tensors.items()}


def select_samples(batch: Any, mask: NDArray[np.bool_]) -> Any:
    """The samples of a batch, of any nesting of tensors and lists, where ``mask`` is true."""
    if mask.all():
        return batch
    index, batch_size = torch.from_numpy(mask), len(mask)

    def select(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value[index.to(value.device)] if value.ndim and len(value) == batch_size else value
        if isinstance(value, Mapping):
            return {name: select(item) for name, item in value.items()}
        if isinstance(value, tuple):
            return tuple(map(select, value))
        if isinstance(value, list):
            is_by_sample = len(value) == batch_size
            return [v for v, m in zip(value, mask, strict=True) if m] if is_by_sample else [select(v) for v in value]
        return value

    return select(batch)
