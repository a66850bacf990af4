"""Arrays as bytes and back, one sample a row: dense numbers, the largest few of many, and eight-bit numbers."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.teachers.cache.cache_config import Tail

__all__ = ["Bytes", "dense", "eight_bits", "from_dense", "from_eight_bits", "from_largest", "largest", "largest_bytes"]

Bytes = NDArray[np.uint8]


def dense(values: Tensor, *, precision: str) -> Bytes:
    """``[batch, ...]`` numbers as ``[batch, bytes]``.

    Raises ``LimbeckError`` for what cannot be written: NaN, or a number beyond the range of float16.
    """
    flat = values.detach().float().cpu().reshape(len(values), -1).numpy()
    with np.errstate(over="ignore"):
        written = np.ascontiguousarray(flat.astype(precision))
    _require_written(flat, written, precision)
    return written.view(np.uint8)


def from_dense(raw: Bytes, *, shape: tuple[int, ...], precision: str) -> Tensor:
    """The numbers that :func:`dense` wrote, as float32 ``[batch, *shape]``.

    >>> from_dense(dense(torch.tensor([[1.0, 2.5]]), precision="float16"), shape=(2,), precision="float16")
    tensor([[1.0000, 2.5000]])
    """
    numbers = np.ascontiguousarray(raw).view(precision).astype(np.float32)
    return torch.from_numpy(numbers).reshape(len(raw), *shape)


def largest_bytes(rows: int, classes: int, *, top: int, tail: Tail, precision: str) -> int:
    """How many bytes :func:`largest` writes for a sample of so many rows."""
    each = np.dtype(precision).itemsize + np.dtype(_numbering(classes)).itemsize
    return rows * (min(top, classes) * each + (4 if tail == "spread" else 0))


def largest(logits: Tensor, *, top: int, tail: Tail, precision: str) -> Bytes:
    """``[batch, rows, classes]`` logits as the ``top`` largest, their classes, and what the rest weighs together.

    The rest is kept as the float32 logarithm of the sum of its exponentials, where ``tail`` is ``spread``.
    """
    logits = logits.detach().float().cpu()
    classes = logits.shape[2]
    values, which = logits.topk(min(top, classes), dim=2)
    parts = [dense(values, precision=precision), _raw(which.numpy().astype(_numbering(classes)))]
    if tail == "spread":
        rest = logits.scatter(2, which, -torch.inf)
        parts.append(_raw(torch.logsumexp(rest, dim=2).numpy()))
    return np.concatenate(parts, axis=1)


def from_largest(raw: Bytes, *, rows: int, classes: int, top: int, tail: Tail, precision: str) -> Tensor:
    """The logits that :func:`largest` wrote, ``[batch, rows, classes]``: exact for those kept, the tail by its rule.

    >>> raw = largest(torch.tensor([[[3.0, 1.0, 2.0, 1.0]]]), top=2, tail="spread", precision="float16")
    >>> from_largest(raw, rows=1, classes=4, top=2, tail="spread", precision="float16")
    tensor([[[3., 1., 2., 1.]]])
    """
    batch, kept = len(raw), min(top, classes)
    numbers, classes_at = np.dtype(precision).itemsize * rows * kept, np.dtype(_numbering(classes)).itemsize
    middle = numbers + classes_at * rows * kept
    values = from_dense(raw[:, :numbers], shape=(rows, kept), precision=precision)
    which = np.ascontiguousarray(raw[:, numbers:middle]).view(_numbering(classes)).astype(np.int64)
    others = torch.full((batch, rows, 1), -torch.inf)
    if tail == "spread" and kept < classes:
        weight = from_dense(raw[:, middle:], shape=(rows, 1), precision="float32")
        others = weight - float(np.log(classes - kept))
    whole = others.expand(batch, rows, classes).clone()
    return whole.scatter_(2, torch.from_numpy(which).reshape(batch, rows, kept), values)


def eight_bits(values: Tensor) -> Bytes:
    """``[batch, ...]`` numbers as whole numbers from −127 to 127 and a float32 scale for each sample."""
    flat = values.detach().float().cpu().reshape(len(values), -1).numpy()
    _require_written(flat, flat, "int8")
    scale = (np.abs(flat).max(axis=1, keepdims=True) / 127).astype(np.float32)
    steps = np.rint(flat / np.where(scale > 0, scale, 1)).astype(np.int8)
    return np.concatenate([_raw(scale), _raw(steps)], axis=1)


def from_eight_bits(raw: Bytes, *, shape: tuple[int, ...]) -> Tensor:
    """The numbers that :func:`eight_bits` wrote: off by at most half a step, 1/254 of the sample's largest magnitude.

    >>> from_eight_bits(eight_bits(torch.tensor([[127.0, -63.9]])), shape=(2,))
    tensor([[127., -64.]])
    """
    scale = from_dense(raw[:, :4], shape=(1,), precision="float32")
    steps = torch.from_numpy(np.ascontiguousarray(raw[:, 4:]).view(np.int8).astype(np.float32))
    return (steps * scale).reshape(len(raw), *shape)


def _numbering(classes: int) -> str:
    return "uint16" if classes <= 2**16 else "uint32"


def _raw(array: NDArray[np.generic]) -> Bytes:
    flat = np.ascontiguousarray(array.reshape(len(array), -1))
    return flat.view(np.uint8)


def _require_written(given: NDArray[np.float32], written: NDArray[np.generic], precision: str) -> None:
    if np.isnan(given).any() or (precision == "int8" and np.isinf(given).any()):
        raise LimbeckError("a teacher answered with a number that is not finite, and such answers are not kept")
    lost = np.isinf(written) & ~np.isinf(given)
    if lost.any():
        largest_one = float(np.abs(given[lost]).max())
        raise LimbeckError(
            f"a teacher answered {largest_one:g}, and {precision} ends at {float(np.finfo(precision).max):g}: keep its "
            "answers in float32"
        )
