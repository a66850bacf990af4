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
from limbeck.teachers.cache.cache_config import Format
from limbeck.teachers.cache.codec import Bytes

__all__ = ["Field", "Layout"]

_ROWS = "logits"


@final
@dataclass(frozen=True, slots=True)
class Field:
    """One part of an answer.

    Attributes:
        name: ``logits``, ``maps``, ``embedding``, ``present``, ``taps.NAME``, ``extra.NAME``, or ``rows.NAME`` where
            it has a value for each row.
        code: how it is written: ``float16``, ``float32``, ``int8`` or ``top``.
        shape: of one sample as it is written; ``(rows, classes)`` for logits.
        whole: its height and width before pooling, where it is brought back to them.
        bytes: how many it takes.
    """

    name: str
    code: str
    shape: tuple[int, ...]
    whole: tuple[int, ...]
    bytes: int


@final
@dataclass(frozen=True, slots=True)
class Layout:
    """The fields of a record.

    Arguments:
        format: how answers are written.
        fields: in their order.
        grouped: whether the rows of a batch come with the sample each belongs to (several rows a sample).
    """

    format: Format
    fields: tuple[Field, ...]
    grouped: bool

    @property
    def bytes(self) -> int:
        """What one answer takes, without stamp and check sum."""
        return sum(field.bytes for field in self.fields)

    @classmethod
    def of(cls, said: Outputs, batch: int, format: Format) -> Self:
        """The layout for answers like ``said``, about ``batch`` samples."""
        fields = []
        for name, tensor in _parts(said, batch):
            code = _code(name, format)
            tensor = _smaller(tensor, format) if _is_map(name, tensor) else tensor
            whole = tuple(_given(said, name).shape[2:]) if name == "maps" and format.pool > 1 else ()
            shape = tuple(tensor.shape[1:])
            fields.append(Field(name, code, shape, whole, _bytes(code, shape, format)))
        if not fields:
            raise LimbeckError("this teacher answers with nothing that can be kept: no logits, no features")
        return cls(format, tuple(fields), said.sample is not None)

    def pack(self, said: Outputs, batch: int) -> Bytes:
        """``[batch, bytes]``: an answer about ``batch`` samples, written."""
        parts = dict(_parts(said, batch))
        if {field.name for field in self.fields} != parts.keys():
            raise LimbeckError(
                f"this teacher answered with {', '.join(parts)}, and its cache holds "
                f"{', '.join(field.name for field in self.fields)}: an answer has the same parts each time"
            )
        written = []
        for field in self.fields:
            tensor = parts[field.name]
            tensor = _smaller(tensor, self.format) if _is_map(field.name, tensor) else tensor
            if tuple(tensor.shape[1:]) != field.shape:
                raise LimbeckError(
                    f"this teacher's {field.name} have the shape {list(tensor.shape[1:])} for a sample, and "
                    f"{list(field.shape)} before: a cache takes answers of one shape, so give inputs of one size"
                )
            written.append(self._packed(field, tensor))
        return np.concatenate(written, axis=1)

    def unpack(self, raw: Bytes) -> Outputs:
        """The answers in ``[batch, bytes]``, on the CPU, in float32."""
        found: dict[str, Tensor] = {}
        start = 0
        for field in self.fields:
            found[field.name] = self._unpacked(field, raw[:, start : start + field.bytes])
            start += field.bytes
        rows = found.get(_ROWS)
        many = 0 if rows is None else rows.shape[1]
        return Outputs(
            logits=None if rows is None else rows.flatten(0, 1),
            maps=found.get("maps"),
            embedding=found.get("embedding"),
            taps=_named("taps.", found),
            extra=_named("extra.", found) | {n: t.flatten(0, 1) for n, t in _named("rows.", found).items()},
            sample=torch.arange(len(raw)).repeat_interleave(many) if self.grouped else None,
            present=found["present"].bool().squeeze(1) if "present" in found else None,
        )

    def plain(self) -> dict[str, Any]:
        """As plain data, for the index."""
        fields = [
            {"name": f.name, "code": f.code, "shape": list(f.shape), "whole": list(f.whole), "bytes": f.bytes}
            for f in self.fields
        ]
        return {"format": self.format.plain(), "fields": fields, "grouped": self.grouped}

    @classmethod
    def read(cls, plain: Mapping[str, Any]) -> Self:
        """The layout that :meth:`plain` wrote down."""
        fields = tuple(
            Field(str(f["name"]), str(f["code"]), tuple(f["shape"]), tuple(f["whole"]), int(f["bytes"]))
            for f in plain["fields"]
        )
        layout = cls(Format(**plain["format"]), fields, bool(plain["grouped"]))
        if any(field.bytes != _bytes(field.code, field.shape, layout.format) for field in fields):
            raise ValueError("its fields do not have the sizes they should")
        return layout

    def _packed(self, field: Field, tensor: Tensor) -> Bytes:
        if field.code == "int8":
            return codes.eight_bits(tensor)
        if field.code == "top":
            return codes.largest(tensor, **_top(self.format))
        return codes.dense(tensor, precision=field.code)

    def _unpacked(self, field: Field, raw: Bytes) -> Tensor:
        if field.code == "int8":
            return codes.from_eight_bits(raw, shape=field.shape)
        if field.code == "top":
            rows, classes = field.shape
            return codes.from_largest(raw, rows=rows, classes=classes, **_top(self.format))
        values = codes.from_dense(raw, shape=field.shape, precision=field.code)
        if field.whole:
            values = F.interpolate(values, size=field.whole, mode="bilinear", align_corners=False)
        return values


def _parts(said: Outputs, batch: int) -> Iterator[tuple[str, Tensor]]:
    """The tensors of an answer with the sample as their first axis, rows gathered by sample."""
    if said.logits is not None:
        yield _ROWS, _by_sample(said.logits, said, batch)
    for name in ("maps", "embedding"):
        if (tensor := getattr(said, name)) is not None:
            yield name, tensor
    for name, tensor in said.taps.items():
        yield f"taps.{name}", tensor
    for name, tensor in said.extra.items():
        rows = tensor.ndim > 0 and said.logits is not None and len(tensor) == len(said.logits)
        if not rows and (tensor.ndim == 0 or len(tensor) != batch):
            raise LimbeckError(
                f"the teacher's {name!r} has the shape {list(tensor.shape)}, which is neither one for each sample nor "
                "one for each row, so it cannot be kept by sample"
            )
        yield (f"rows.{name}", _by_sample(tensor, said, batch)) if rows else (f"extra.{name}", tensor)
    if said.present is not None:
        yield "present", said.present.reshape(-1, 1)


def _by_sample(rows: Tensor, said: Outputs, batch: int) -> Tensor:
    """``[batch, rows of one sample, ...]``."""
    many = len(rows) // max(batch, 1)
    usual = torch.arange(batch, device=rows.device).repeat_interleave(many)
    if len(rows) != many * batch or (said.sample is not None and not torch.equal(said.sample, usual)):
        raise LimbeckError(
            f"this teacher gave {len(rows)} rows about {batch} samples, not equally many about each in their order, "
            "and a cache has one size for all: cache spatial logits or features, or go without a cache"
        )
    return rows.reshape(batch, many, *rows.shape[1:])


def _given(said: Outputs, name: str) -> Tensor:
    tensor: Tensor = getattr(said, name)
    return tensor


def _is_map(name: str, tensor: Tensor) -> bool:
    return (name == "maps" or name.startswith("taps.")) and tensor.ndim == 4


def _smaller(tensor: Tensor, format: Format) -> Tensor:
    if format.pool == 1:
        return tensor
    height, width = (max(1, side // format.pool) for side in tensor.shape[2:])
    return F.adaptive_avg_pool2d(tensor.float(), (height, width))


def _named(kind: str, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(kind): tensor for name, tensor in found.items() if name.startswith(kind)}


def _code(name: str, format: Format) -> str:
    if name == "present":
        return "float16"
    if name.startswith("taps."):
        return format.features
    if name == _ROWS and format.top is not None:
        return "top"
    return format.precision


def _bytes(code: str, shape: tuple[int, ...], format: Format) -> int:
    numbers = int(np.prod(shape, dtype=np.int64)) if shape else 1
    if code == "top":
        return codes.largest_bytes(shape[0], shape[1], **_top(format))
    return numbers + 4 if code == "int8" else numbers * np.dtype(code).itemsize


def _top(format: Format) -> dict[str, Any]:
    return {"top": format.top, "tail": format.tail, "precision": format.precision}
