"""The input and the target of a batch, under their usual names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError

__all__ = ["find_input", "get_input", "get_sample_ids", "get_target"]

_INPUT_KEYS = ("input", "x", "image", "images", "pixel_values")
_TARGET_KEYS = ("target", "y", "label", "labels")


def get_input(batch: Any) -> Any:
    """The input of a batch: the batch itself, the first of ``(input, target)``, or by name.

    >>> get_input({"image": 1, "label": 2}), get_input((1, 2))
    (1, 1)
    """
    if isinstance(batch, Mapping):
        for key in _INPUT_KEYS:
            if key in batch:
                return batch[key]
        raise LimbeckError(
            f"a batch must have its input under one of {list(_INPUT_KEYS)}, got {sorted(map(str, batch))}"
        )
    if isinstance(batch, Tensor):
        return batch
    if isinstance(batch, tuple | list) and batch:
        return batch[0]
    raise LimbeckError(f"a batch must be (input, target) or a mapping, got no input in this {type(batch).__name__}")


def find_input(batch: Any) -> Any:
    """As :func:`get_input`; ``None`` where the batch has no input under a usual name."""
    try:
        return get_input(batch)
    except LimbeckError:
        return None


def get_target(batch: Any, *, more_keys: Sequence[str] = ()) -> Any:
    """The target of a batch, or ``None``: the second of ``(input, target)``, or by name.

    Args:
        batch: a mapping, a tuple or a list.
        more_keys: further names, such as ``mask``.

    >>> get_target({"image": 1, "label": 2}), get_target((1, 2)), get_target({"image": 1})
    (2, 2, None)
    """
    if isinstance(batch, Mapping):
        return next((batch[key] for key in (*_TARGET_KEYS, *more_keys) if key in batch), None)
    return batch[1] if isinstance(batch, tuple | list) and len(batch) > 1 else None


def get_sample_ids(batch: Any, num_samples: int) -> Tensor:
    """``sample_id`` of a batch; without it, the positions in the batch.

    >>> get_sample_ids((None, None), 3)
    tensor([0, 1, 2])
    """
    ids: Tensor | None = batch.get("sample_id") if isinstance(batch, Mapping) else None
    return torch.arange(num_samples) if ids is None else ids
