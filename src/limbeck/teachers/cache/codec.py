"""Arrays as bytes and back, one sample a row: dense numbers, the largest few of many, and eight-bit numbers."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.teachers.cache.cache_config import Tail

__all__ = [
    "ByteArray",
    "decode_dense",
    "decode_int8",
    "decode_top_k",
    "encode_dense",
    "encode_int8",
    "encode_top_k",
    "top_k_num_bytes",
]

ByteArray = NDArray[np.uint8]


def encode_dense(values: Tensor, *, dtype: str) -> ByteArray:
    """``[batch, ...]`` numbers as ``[batch, bytes]``.

    Raises ``LimbeckError`` for what cannot be written: NaN, or a number beyond the range of float16.
    """
    flat = values.detach().float().cpu().reshape(len(values), -1).numpy()
    with np.errstate(over="ignore"):
        encoded = np.ascontiguousarray(flat.astype(dtype))
    _check_range(flat, encoded, dtype)
    return encoded.view(np.uint8)


def decode_dense(raw: ByteArray, *, shape: tuple[int, ...], dtype: str) -> Tensor:
    """The numbers that :func:`encode_dense` wrote, as float32 ``[batch, *shape]``.

    >>> decode_dense(encode_dense(torch.tensor([[1.0, 2.5]]), dtype="float16"), shape=(2,), dtype="float16")
    tensor([[1.0000, 2.5000]])
    """
    values = np.ascontiguousarray(raw).view(dtype).astype(np.float32)
    return torch.from_numpy(values).reshape(len(raw), *shape)


def top_k_num_bytes(rows: int, classes: int, *, top_k: int, tail: Tail, dtype: str) -> int:
    """How many bytes :func:`encode_top_k` writes for a sample of so many rows."""
    entry_bytes = np.dtype(dtype).itemsize + np.dtype(_index_dtype(classes)).itemsize
    return rows * (min(top_k, classes) * entry_bytes + (4 if tail == "spread" else 0))


def encode_top_k(logits: Tensor, *, top_k: int, tail: Tail, dtype: str) -> ByteArray:
    """``[batch, rows, classes]`` logits as the ``top_k`` largest, their classes, and what the rest weighs together.

    The rest is kept as the float32 logarithm of the sum of its exponentials, where ``tail`` is ``spread``.
    """
    logits = logits.detach().float().cpu()
    classes = logits.shape[2]
    values, top_classes = logits.topk(min(top_k, classes), dim=2)
    arrays = [encode_dense(values, dtype=dtype), _as_bytes(top_classes.numpy().astype(_index_dtype(classes)))]
    if tail == "spread":
        rest = logits.scatter(2, top_classes, -torch.inf)
        arrays.append(_as_bytes(torch.logsumexp(rest, dim=2).numpy()))
    return np.concatenate(arrays, axis=1)


def decode_top_k(raw: ByteArray, *, rows: int, classes: int, top_k: int, tail: Tail, dtype: str) -> Tensor:
    """The logits that :func:`encode_top_k` wrote, ``[batch, rows, classes]``: exact for those kept, the tail by its rule.

    >>> raw = encode_top_k(torch.tensor([[[3.0, 1.0, 2.0, 1.0]]]), top_k=2, tail="spread", dtype="float16")
    >>> decode_top_k(raw, rows=1, classes=4, top_k=2, tail="spread", dtype="float16")
    tensor([[[3., 1., 2., 1.]]])
    """
    batch, num_kept = len(raw), min(top_k, classes)
    value_bytes, index_itemsize = np.dtype(dtype).itemsize * rows * num_kept, np.dtype(_index_dtype(classes)).itemsize
    tail_start = value_bytes + index_itemsize * rows * num_kept
    values = decode_dense(raw[:, :value_bytes], shape=(rows, num_kept), dtype=dtype)
    top_classes = np.ascontiguousarray(raw[:, value_bytes:tail_start]).view(_index_dtype(classes)).astype(np.int64)
    tail_logit = torch.full((batch, rows, 1), -torch.inf)
    if tail == "spread" and num_kept < classes:
        weight = decode_dense(raw[:, tail_start:], shape=(rows, 1), dtype="float32")
        tail_logit = weight - float(np.log(classes - num_kept))
    logits = tail_logit.expand(batch, rows, classes).clone()
    return logits.scatter_(2, torch.from_numpy(top_classes).reshape(batch, rows, num_kept), values)


def encode_int8(values: Tensor) -> ByteArray:
    """``[batch, ...]`` numbers as whole numbers from −127 to 127 and a float32 scale for each sample."""
    flat = values.detach().float().cpu().reshape(len(values), -1).numpy()
    _check_range(flat, flat, "int8")
    scale = (np.abs(flat).max(axis=1, keepdims=True) / 127).astype(np.float32)
    steps = np.rint(flat / np.where(scale > 0, scale, 1)).astype(np.int8)
    return np.concatenate([_as_bytes(scale), _as_bytes(steps)], axis=1)


def decode_int8(raw: ByteArray, *, shape: tuple[int, ...]) -> Tensor:
    """The numbers that :func:`encode_int8` wrote: off by at most half a step, 1/254 of the sample's largest magnitude.

    >>> decode_int8(encode_int8(torch.tensor([[127.0, -63.9]])), shape=(2,))
    tensor([[127., -64.]])
    """
    scale = decode_dense(raw[:, :4], shape=(1,), dtype="float32")
    steps = torch.from_numpy(np.ascontiguousarray(raw[:, 4:]).view(np.int8).astype(np.float32))
    return (steps * scale).reshape(len(raw), *shape)


def _index_dtype(classes: int) -> str:
    return "uint16" if classes <= 2**16 else "uint32"


def _as_bytes(array: NDArray[np.generic]) -> ByteArray:
    flat = np.ascontiguousarray(array.reshape(len(array), -1))
    return flat.view(np.uint8)


def _check_range(values: NDArray[np.float32], encoded: NDArray[np.generic], dtype: str) -> None:
    if np.isnan(values).any() or (dtype == "int8" and np.isinf(values).any()):
        raise LimbeckError("a teacher answered with a number that is not finite, and such answers are not kept")
    overflowed = np.isinf(encoded) & ~np.isinf(values)
    if overflowed.any():
        largest_value = float(np.abs(values[overflowed]).max())
        raise LimbeckError(
            f"a teacher answered {largest_value:g}, and {dtype} ends at {float(np.finfo(dtype).max):g}: keep its "
            "answers in float32"
        )
