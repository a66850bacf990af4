"""Named tensors as bytes: a record of one numpy structured dtype for each sample and view.

Where samples have different numbers of rows, a record holds what does not depend on them, and each row has bytes of its
own.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, NamedTuple, Self, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError
from limbeck.teachers.cache.cache_config import CacheConfig
from limbeck.teachers.cache.codec import FEATURE_LENGTH, FEATURES, LENGTH, ROW_FEATURES, VALID
from limbeck.teachers.cache.indexing import CHECKSUM_BYTES
from limbeck.teachers.cache.store import ByteArray
from limbeck.teachers.cache.tensor_encoding import TensorEncoding

__all__ = ["RecordField", "RecordLayout", "Records"]

_MAP: Final = "spatial_logits"


class Records(NamedTuple):
    """Stored samples as bytes.

    Attributes:
        fixed: ``[n, bytes]``, what has the same size for each sample.
        rows: the bytes of the rows of each sample, ``[n]`` arrays; ``None`` where all samples have equally many.
    """

    fixed: ByteArray
    rows: NDArray[np.object_] | None = None

    def select(self, index: Any) -> Records:
        """The records at ``index``."""
        return Records(self.fixed[index], None if self.rows is None else self.rows[index])


@final
@dataclass(frozen=True, slots=True)
class RecordField:
    """A tensor in a record.

    Attributes:
        name: its name, that of a hidden feature with the prefix ``features.``.
        encoding: ``float16``, ``float32``, ``int64``, ``bool``, ``int8`` (with a float32 scale) or ``top_k`` (the
            largest values of the last axis, their indices and, with ``tail="spread"``, the float32 logsumexp of the
            others).
        shape: stored shape of one sample, or of one row.
        full_size: height and width before pooling, to which a map is resized.
        by_row: whether it has one entry for each row of a sample, and samples differ in their number of rows.
    """

    name: str
    encoding: str
    shape: tuple[int, ...]
    full_size: tuple[int, ...] = ()
    by_row: bool = False


@final
@dataclass(frozen=True, slots=True)
class RecordLayout:
    """The fields of a record.

    Args:
        config: settings of the cache.
        fields: the fields in order.
        checksums: kinds of the checksums of the inputs, see :class:`~limbeck.teachers.cache.indexing.InputChecksums`.

    >>> tensors = {"logits": torch.tensor([[3.0, 1.0, 2.0, 1.0]])}
    >>> layout = RecordLayout.from_tensors(tensors, CacheConfig(top_k=2))
    >>> layout.num_bytes, layout.unpack(layout.pack(tensors))["logits"]
    (12, tensor([[3., 1., 2., 1.]]))
    """

    config: CacheConfig
    fields: tuple[RecordField, ...]
    checksums: tuple[str, ...] = ("float",)

    @property
    def dtype(self) -> np.dtype[np.void]:
        """The dtype of what has the same size for each sample."""
        return np.dtype([(f.name, _encoding(f, self.config).dtype) for f in self.fields if not f.by_row])

    @property
    def row_dtype(self) -> np.dtype[np.void]:
        """The dtype of one row."""
        return np.dtype([(f.name, _encoding(f, self.config).dtype) for f in self.fields if f.by_row])

    @property
    def num_bytes(self) -> int:
        """Size of a record without checksums and rows."""
        return self.dtype.itemsize

    @property
    def checksum_bytes(self) -> int:
        """Size of the checksums of the inputs of a record."""
        return CHECKSUM_BYTES * len(self.checksums)

    @property
    def has_rows(self) -> bool:
        """Whether samples differ in their number of rows."""
        return any(field.by_row for field in self.fields)

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, Tensor], config: CacheConfig, *, checksums: tuple[str, ...] = ("float",)
    ) -> Self:
        """The layout of ``tensors`` ``[batch, ...]``.

        Raises:
            LimbeckError: ``top_k`` is set, and there are no ``logits`` or ``spatial_logits``; or pooled maps would be
                resized between logits of minus infinity.
        """
        if config.top_k is not None and not {"logits", _MAP} & tensors.keys():
            raise LimbeckError(
                f"cache.top_k selects the largest of `logits` or `{_MAP}`, and the task stores {', '.join(tensors)}: "
                "remove top_k"
            )
        if config.tail == "renormalized" and config.pool_factor > 1 and _MAP in tensors:
            raise LimbeckError(
                "cache.tail must be spread with pool_factor, since pooled maps are resized, got renormalized: change it"
            )
        fields = []
        for name, tensor in tensors.items():
            by_row = _has_rows(name, tensor, tensors)
            pooled = tensor if by_row else _pool(tensor, config)
            is_resized = pooled is not tensor and not name.startswith(FEATURES)
            encoding = _encoding_name(name, tensor, config)
            shape = tuple((_classes_last(pooled) if _is_top_k_map(name, encoding) else pooled).shape[1 + by_row :])
            full_size = tuple(tensor.shape[2:]) if is_resized else ()
            fields.append(RecordField(name, encoding, shape, full_size, by_row))
        return cls(config, tuple(fields), checksums)

    def pack(self, tensors: Mapping[str, Tensor]) -> Records:
        """Records of ``tensors`` ``[batch, ...]``.

        Raises:
            LimbeckError: other tensors or shapes than those of the layout, or values that cannot be stored.
        """
        names = [field.name for field in self.fields]
        if set(names) != tensors.keys():
            raise LimbeckError(
                f"all outputs of a cached teacher must have the tensors {', '.join(names)}, got {', '.join(tensors)}"
            )
        batch_size = len(next(iter(tensors.values())))
        is_row = _row_mask(tensors) if self.has_rows else None
        fixed = np.zeros(batch_size, self.dtype)
        rows = np.zeros(0 if is_row is None else int(is_row.sum()), self.row_dtype)
        for field in self.fields:
            tensor = self._stored_part(field, tensors[field.name], is_row)
            if (shape := tuple(tensor.shape[1:])) != field.shape:
                raise LimbeckError(
                    f"{field.name} of a cached teacher must have the shape {list(field.shape)} for each sample, got "
                    f"{list(shape)}: use inputs of one size"
                )
            _encoding(field, self.config).encode((rows if field.by_row else fixed)[field.name], tensor)
        fixed_bytes = fixed.view(np.uint8).reshape(batch_size, self.num_bytes)
        if is_row is None:
            return Records(fixed_bytes)
        return Records(fixed_bytes, _split_rows(rows, is_row.sum(dim=1).tolist()))

    def unpack(self, records: Records) -> dict[str, Tensor]:
        """The tensors ``[batch, ...]`` in ``records``, on the CPU; rows are padded with zeros to the longest sample."""
        fixed = np.ascontiguousarray(records.fixed).view(self.dtype).reshape(-1)
        tensors = {f.name: self._decode(f, fixed[f.name]) for f in self.fields if not f.by_row}
        if records.rows is None:
            return tensors
        rows, lengths = self._joined_rows(records), tensors[_length_name(tensors)]
        is_row = torch.arange(int(lengths.max()) if len(lengths) else 0) < lengths[:, None]
        for field in (field for field in self.fields if field.by_row):
            values = self._decode(field, rows[field.name])
            padded = values.new_zeros(*is_row.shape, *values.shape[1:])
            padded[is_row] = values
            tensors[field.name] = padded
        return {field.name: tensors[field.name] for field in self.fields}

    def lengths(self, fixed: ByteArray) -> NDArray[np.int64]:
        """The number of rows of each sample in ``fixed`` records."""
        values = np.ascontiguousarray(fixed).view(self.dtype).reshape(-1)
        lengths: NDArray[np.int64] = values[_length_name(self.dtype.names or ())]
        return lengths

    def difference(self, records: Records, tensors: Mapping[str, Tensor]) -> tuple[float, str]:
        """The largest difference between ``records`` and ``tensors``, relative to the largest value, and its field."""
        fixed = np.ascontiguousarray(records.fixed).view(self.dtype).reshape(-1)
        live = self.pack(tensors)
        if self.has_rows and self.lengths(live.fixed).tolist() != self.lengths(records.fixed).tolist():
            return float("inf"), LENGTH
        is_row = _row_mask(tensors) if self.has_rows else None
        largest = (0.0, self.fields[0].name)
        for field in self.fields:
            stored = self._joined_rows(records) if field.by_row else fixed
            tensor = self._stored_part(field, tensors[field.name], is_row)
            difference = _encoding(field, self.config).difference(stored[field.name], tensor)
            largest = max(largest, (difference, field.name))
        return largest

    def to_dict(self) -> dict[str, Any]:
        """Plain data for ``layout.json``."""
        fields = [asdict(f) | {"num_bytes": _encoding(f, self.config).dtype.itemsize} for f in self.fields]
        return {"config": self.config.model_dump(), "fields": fields, "checksums": list(self.checksums)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The layout of :meth:`to_dict`.

        Raises:
            ValueError: the sizes of the fields do not match their shapes.
        """
        config = CacheConfig(**data["config"])
        one_row = data.get("multi_row") is False  # layouts of before there was a codec, with an axis of one row
        fields = tuple(
            RecordField(
                str(f["name"]), str(f["encoding"]), tuple(f["shape"])[1 if one_row and f["name"] == "logits" else 0 :],
                tuple(f["full_size"]), bool(f.get("by_row", False)),
            )
            for f in data["fields"]
        )  # fmt: skip
        if [_encoding(f, config).dtype.itemsize for f in fields] != [f["num_bytes"] for f in data["fields"]]:
            raise ValueError("num_bytes of the fields do not match their shapes")
        return cls(config, fields, tuple(data.get("checksums", ("float",))))

    def _joined_rows(self, records: Records) -> NDArray[np.void]:
        """The rows of all samples, ``[rows]``."""
        chunks = () if records.rows is None else records.rows
        return np.frombuffer(b"".join(chunk.tobytes() for chunk in chunks), self.row_dtype)

    def _stored_part(self, field: RecordField, tensor: Tensor, is_row: Tensor | None) -> Tensor:
        """What is stored of a tensor: its valid rows, or the pooled map."""
        tensor = tensor.detach().cpu()
        if field.by_row and is_row is not None:
            return tensor[is_row]
        pooled = _pool(tensor, self.config)
        return _classes_last(pooled) if _is_top_k_map(field.name, field.encoding) else pooled

    def _decode(self, field: RecordField, record: NDArray[Any]) -> Tensor:
        values = _encoding(field, self.config).decode(record)
        if _is_top_k_map(field.name, field.encoding):
            values = values.movedim(-1, 1)
        if field.full_size:
            values = F.interpolate(values, size=field.full_size, mode="bilinear", align_corners=False)
        return values


def _encoding(field: RecordField, config: CacheConfig) -> TensorEncoding:
    return TensorEncoding(field.name, field.encoding, field.shape, config)


def _encoding_name(name: str, tensor: Tensor, config: CacheConfig) -> str:
    if name == VALID:
        return "float16"
    if tensor.dtype == torch.bool:
        return "bool"
    if not tensor.is_floating_point():
        return "int64"
    if name.startswith((FEATURES, ROW_FEATURES)):
        return config.feature_dtype
    return "top_k" if name in ("logits", _MAP) and config.top_k is not None else config.dtype


def _is_top_k_map(name: str, encoding: str) -> bool:
    """Whether the largest logits of each position are stored, for which classes are the last axis."""
    return name == _MAP and encoding == "top_k"


def _classes_last(maps: Tensor) -> Tensor:
    return maps.movedim(1, -1)


def _row_mask(tensors: Mapping[str, Tensor]) -> Tensor:
    """``[batch, rows]``: which of the padded rows belong to a sample."""
    lengths = tensors[_length_name(tensors)].detach().cpu()
    sizes = {tensor.shape[1] for name, tensor in tensors.items() if _has_rows(name, tensor, tensors)}
    if len(sizes) != 1 or (len(lengths) and int(lengths.max()) > min(sizes)):
        raise LimbeckError(
            f"with `length`, tensors of two or more dimensions must be padded along axis 1 to one number of rows of at "
            f"least {int(lengths.max())}, got {sorted(sizes)}: correct encode_outputs of the task"
        )
    return torch.arange(sizes.pop()) < lengths[:, None]


def _has_rows(name: str, tensor: Tensor, tensors: Container[str]) -> bool:
    """Whether a tensor has rows, of which samples have different numbers."""
    if name.startswith((FEATURES, ROW_FEATURES)) or name == VALID:
        return name.startswith(ROW_FEATURES)
    return LENGTH in tensors and tensor.ndim > 1


def _length_name(names: Container[str]) -> str:
    return LENGTH if LENGTH in names else FEATURE_LENGTH


def _split_rows(rows: NDArray[np.void], lengths: list[int]) -> NDArray[np.object_]:
    """The bytes of the rows of each sample, as an array of arrays."""
    result = np.empty(len(lengths), np.object_)
    for index, chunk in enumerate(np.split(rows, np.cumsum(lengths)[:-1]) if lengths else []):
        result[index] = np.frombuffer(chunk.tobytes(), np.uint8)
    return result


def _pool(tensor: Tensor, config: CacheConfig) -> Tensor:
    if config.pool_factor == 1 or tensor.ndim != 4 or not tensor.is_floating_point():
        return tensor
    height, width = (max(1, side // config.pool_factor) for side in tensor.shape[2:])
    return F.adaptive_avg_pool2d(tensor.float(), (height, width))
