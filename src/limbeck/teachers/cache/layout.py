"""What one record holds: the fields of an answer, one after another, in a fixed number of bytes for each sample."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self, final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError
from limbeck.core.outputs import Outputs
from limbeck.teachers.cache import codec as codes
from limbeck.teachers.cache.cache_config import CacheConfig
from limbeck.teachers.cache.codec import ByteArray

__all__ = ["RecordField", "RecordLayout"]

_LOGITS = "logits"


@final
@dataclass(frozen=True, slots=True)
class RecordField:
    """One part of an answer.

    Attributes:
        name: ``logits``, ``spatial_logits``, ``embedding``, ``valid``, ``features.NAME``, ``extra.NAME``, or ``rows.NAME`` where
            it has a value for each row.
        encoding: how it is written: ``float16``, ``float32``, ``int8`` or ``top_k``.
        shape: of one sample as it is written; ``(rows, classes)`` for logits.
        full_size: its height and width before pooling, where it is brought back to them.
        num_bytes: how many it takes.
    """

    name: str
    encoding: str
    shape: tuple[int, ...]
    full_size: tuple[int, ...]
    num_bytes: int


@final
@dataclass(frozen=True, slots=True)
class RecordLayout:
    """The fields of a record.

    Arguments:
        config: how answers are written.
        fields: in their order.
        multi_row: whether the rows of a batch come with the sample each belongs to (several rows a sample).
    """

    config: CacheConfig
    fields: tuple[RecordField, ...]
    multi_row: bool

    @property
    def num_bytes(self) -> int:
        """What one answer takes, without stamp and check sum."""
        return sum(field.num_bytes for field in self.fields)

    @classmethod
    def from_outputs(cls, outputs: Outputs, batch_size: int, config: CacheConfig) -> Self:
        """The layout for answers like ``outputs``, about ``batch_size`` samples."""
        fields = []
        for name, tensor in _iter_fields(outputs, batch_size):
            encoding = _field_encoding(name, config)
            tensor = _pool(tensor, config) if _is_spatial(name, tensor) else tensor
            full_size = (
                tuple(_get_tensor(outputs, name).shape[2:])
                if name == "spatial_logits" and config.pool_factor > 1
                else ()
            )
            shape = tuple(tensor.shape[1:])
            fields.append(RecordField(name, encoding, shape, full_size, _field_num_bytes(encoding, shape, config)))
        if not fields:
            raise LimbeckError("this teacher answers with nothing that can be kept: no logits, no features")
        return cls(config, tuple(fields), outputs.row_to_sample is not None)

    def pack(self, outputs: Outputs, batch_size: int) -> ByteArray:
        """``[batch, bytes]``: an answer about ``batch_size`` samples, written."""
        tensors = dict(_iter_fields(outputs, batch_size))
        if {field.name for field in self.fields} != tensors.keys():
            raise LimbeckError(
                f"this teacher answered with {', '.join(tensors)}, and its cache holds "
                f"{', '.join(field.name for field in self.fields)}: an answer has the same parts each time"
            )
        encoded = []
        for field in self.fields:
            tensor = tensors[field.name]
            tensor = _pool(tensor, self.config) if _is_spatial(field.name, tensor) else tensor
            if tuple(tensor.shape[1:]) != field.shape:
                raise LimbeckError(
                    f"this teacher's {field.name} have the shape {list(tensor.shape[1:])} for a sample, and "
                    f"{list(field.shape)} before: a cache takes answers of one shape, so give inputs of one size"
                )
            encoded.append(self._encode(field, tensor))
        return np.concatenate(encoded, axis=1)

    def unpack(self, raw: ByteArray) -> Outputs:
        """The answers in ``[batch, bytes]``, on the CPU, in float32."""
        tensors: dict[str, Tensor] = {}
        start = 0
        for field in self.fields:
            tensors[field.name] = self._decode(field, raw[:, start : start + field.num_bytes])
            start += field.num_bytes
        logits = tensors.get(_LOGITS)
        rows_per_sample = 0 if logits is None else logits.shape[1]
        return Outputs(
            logits=None if logits is None else logits.flatten(0, 1),
            spatial_logits=tensors.get("spatial_logits"),
            embedding=tensors.get("embedding"),
            features=_strip_prefix("features.", tensors),
            extra=_strip_prefix("extra.", tensors)
            | {n: t.flatten(0, 1) for n, t in _strip_prefix("rows.", tensors).items()},
            row_to_sample=torch.arange(len(raw)).repeat_interleave(rows_per_sample) if self.multi_row else None,
            valid=tensors["valid"].bool().squeeze(1) if "valid" in tensors else None,
        )

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for the index."""
        fields = [
            {
                "name": f.name,
                "encoding": f.encoding,
                "shape": list(f.shape),
                "full_size": list(f.full_size),
                "num_bytes": f.num_bytes,
            }
            for f in self.fields
        ]
        return {"config": self.config.to_dict(), "fields": fields, "multi_row": self.multi_row}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The layout that :meth:`to_dict` wrote down."""
        fields = tuple(
            RecordField(
                str(f["name"]), str(f["encoding"]), tuple(f["shape"]), tuple(f["full_size"]), int(f["num_bytes"])
            )
            for f in data["fields"]
        )
        layout = cls(CacheConfig(**data["config"]), fields, bool(data["multi_row"]))
        if any(field.num_bytes != _field_num_bytes(field.encoding, field.shape, layout.config) for field in fields):
            raise ValueError("its fields do not have the sizes they should")
        return layout

    def _encode(self, field: RecordField, tensor: Tensor) -> ByteArray:
        if field.encoding == "int8":
            return codes.encode_int8(tensor)
        if field.encoding == "top_k":
            return codes.encode_top_k(tensor, **_top_k_settings(self.config))
        return codes.encode_dense(tensor, dtype=field.encoding)

    def _decode(self, field: RecordField, raw: ByteArray) -> Tensor:
        if field.encoding == "int8":
            return codes.decode_int8(raw, shape=field.shape)
        if field.encoding == "top_k":
            rows, classes = field.shape
            return codes.decode_top_k(raw, rows=rows, classes=classes, **_top_k_settings(self.config))
        values = codes.decode_dense(raw, shape=field.shape, dtype=field.encoding)
        if field.full_size:
            values = F.interpolate(values, size=field.full_size, mode="bilinear", align_corners=False)
        return values


def _iter_fields(outputs: Outputs, batch_size: int) -> Iterator[tuple[str, Tensor]]:
    """The tensors of an answer with the sample as their first axis, rows gathered by sample."""
    if outputs.logits is not None:
        yield _LOGITS, _group_by_sample(outputs.logits, outputs, batch_size)
    for name in ("spatial_logits", "embedding"):
        if (tensor := getattr(outputs, name)) is not None:
            yield name, tensor
    for name, tensor in outputs.features.items():
        yield f"features.{name}", tensor
    for name, tensor in outputs.extra.items():
        is_by_row = tensor.ndim > 0 and outputs.logits is not None and len(tensor) == len(outputs.logits)
        if not is_by_row and (tensor.ndim == 0 or len(tensor) != batch_size):
            raise LimbeckError(
                f"the teacher's {name!r} has the shape {list(tensor.shape)}, which is neither one for each sample nor "
                "one for each row, so it cannot be kept by sample"
            )
        yield (
            (f"rows.{name}", _group_by_sample(tensor, outputs, batch_size)) if is_by_row else (f"extra.{name}", tensor)
        )
    if outputs.valid is not None:
        yield "valid", outputs.valid.reshape(-1, 1)


def _group_by_sample(rows: Tensor, outputs: Outputs, batch_size: int) -> Tensor:
    """``[batch, rows of one sample, ...]``."""
    rows_per_sample = len(rows) // max(batch_size, 1)
    expected = torch.arange(batch_size, device=rows.device).repeat_interleave(rows_per_sample)
    if len(rows) != rows_per_sample * batch_size or (
        outputs.row_to_sample is not None and not torch.equal(outputs.row_to_sample, expected)
    ):
        raise LimbeckError(
            f"this teacher gave {len(rows)} rows about {batch_size} samples, not equally many about each in their order, "
            "and a cache has one size for all: cache spatial logits or features, or go without a cache"
        )
    return rows.reshape(batch_size, rows_per_sample, *rows.shape[1:])


def _get_tensor(outputs: Outputs, name: str) -> Tensor:
    tensor: Tensor = getattr(outputs, name)
    return tensor


def _is_spatial(name: str, tensor: Tensor) -> bool:
    return (name == "spatial_logits" or name.startswith("features.")) and tensor.ndim == 4


def _pool(tensor: Tensor, config: CacheConfig) -> Tensor:
    if config.pool_factor == 1:
        return tensor
    height, width = (max(1, side // config.pool_factor) for side in tensor.shape[2:])
    return F.adaptive_avg_pool2d(tensor.float(), (height, width))


def _strip_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _field_encoding(name: str, config: CacheConfig) -> str:
    if name == "valid":
        return "float16"
    if name.startswith("features."):
        return config.feature_dtype
    if name == _LOGITS and config.top_k is not None:
        return "top_k"
    return config.dtype


def _field_num_bytes(encoding: str, shape: tuple[int, ...], config: CacheConfig) -> int:
    num_values = int(np.prod(shape, dtype=np.int64)) if shape else 1
    if encoding == "top_k":
        return codes.top_k_num_bytes(shape[0], shape[1], **_top_k_settings(config))
    return num_values + 4 if encoding == "int8" else num_values * np.dtype(encoding).itemsize


def _top_k_settings(config: CacheConfig) -> dict[str, Any]:
    return {"top_k": config.top_k, "tail": config.tail, "dtype": config.dtype}
