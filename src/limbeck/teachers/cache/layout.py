"""Teacher outputs as bytes: dense values, the largest k logits, or eight-bit integers, in one record for each
sample.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError
from limbeck.core.outputs import Outputs
from limbeck.teachers.cache.cache_config import CacheConfig
from limbeck.teachers.cache.store import ByteArray

__all__ = [
    "RecordField",
    "RecordLayout",
    "decode_dense",
    "decode_int8",
    "decode_top_k",
    "encode_dense",
    "encode_int8",
    "encode_top_k",
]


@final
@dataclass(frozen=True, slots=True)
class RecordField:
    """A tensor in a record.

    Attributes:
        name: ``logits``, ``spatial_logits``, ``embedding``, ``valid``, ``features.NAME``, ``extra.NAME``, or
            ``rows.NAME`` for an extra tensor with one value for each row.
        encoding: ``float16``, ``float32``, ``int8`` or ``top_k``.
        shape: stored shape of one sample; ``(rows, classes)`` for logits.
        full_size: height and width before pooling, for spatial logits.
        num_bytes: size in the record.
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

    Args:
        config: settings of the cache.
        fields: the fields in order.
        multi_row: whether outputs have ``row_to_sample`` (several rows for each sample).
    """

    config: CacheConfig
    fields: tuple[RecordField, ...]
    multi_row: bool

    @property
    def num_bytes(self) -> int:
        """Size of a record without checksums."""
        return sum(field.num_bytes for field in self.fields)

    @classmethod
    def from_outputs(cls, outputs: Outputs, batch_size: int, config: CacheConfig) -> Self:
        """The layout of ``outputs`` for ``batch_size`` samples."""
        fields = []
        for name, tensor in _named_tensors(outputs, batch_size, config).items():
            encoding, shape = _field_encoding(name, config), tuple(tensor.shape[1:])
            full_size: tuple[int, ...] = ()
            if name == "spatial_logits" and outputs.spatial_logits is not None and config.pool_factor > 1:
                full_size = tuple(outputs.spatial_logits.shape[2:])
            fields.append(RecordField(name, encoding, shape, full_size, _field_num_bytes(encoding, shape, config)))
        if not fields:
            raise LimbeckError("outputs must have logits or features to be cached, got neither")
        return cls(config, tuple(fields), outputs.row_to_sample is not None)

    def pack(self, outputs: Outputs, batch_size: int) -> ByteArray:
        """Records ``[batch, bytes]`` of ``outputs`` for ``batch_size`` samples."""
        tensors = _named_tensors(outputs, batch_size, self.config)
        field_names = [field.name for field in self.fields]
        if set(field_names) != tensors.keys():
            raise LimbeckError(
                f"all outputs of a cached teacher must have the same tensors ({', '.join(field_names)}), got "
                f"{', '.join(tensors)}"
            )
        for field in self.fields:
            if (shape := tuple(tensors[field.name].shape[1:])) != field.shape:
                raise LimbeckError(
                    f"{field.name} of a cached teacher must have the shape {list(field.shape)} for each sample, got "
                    f"{list(shape)}: use inputs of one size"
                )
        return np.concatenate([self._encode(field, tensors[field.name]) for field in self.fields], axis=1)

    def unpack(self, raw: ByteArray) -> Outputs:
        """The outputs in records ``[batch, bytes]``, on the CPU in float32."""
        ends = np.cumsum([field.num_bytes for field in self.fields])[:-1]
        parts = np.split(raw, ends, axis=1)
        tensors = {field.name: self._decode(field, part) for field, part in zip(self.fields, parts, strict=True)}
        logits = tensors.get("logits")
        rows_per_sample = 0 if logits is None else logits.shape[1]
        extra_by_row = {name: tensor.flatten(0, 1) for name, tensor in _with_prefix("rows.", tensors).items()}
        return Outputs(
            logits=None if logits is None else logits.flatten(0, 1),
            spatial_logits=tensors.get("spatial_logits"),
            embedding=tensors.get("embedding"),
            features=_with_prefix("features.", tensors),
            extra=_with_prefix("extra.", tensors) | extra_by_row,
            row_to_sample=torch.arange(len(raw)).repeat_interleave(rows_per_sample) if self.multi_row else None,
            valid=tensors["valid"].bool().squeeze(1) if "valid" in tensors else None,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for ``layout.json``."""
        return asdict(self) | {"config": self.config.model_dump()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The layout of :meth:`to_dict`."""
        fields = tuple(
            RecordField(**{**field, "shape": tuple(field["shape"]), "full_size": tuple(field["full_size"])})
            for field in data["fields"]
        )
        layout = cls(CacheConfig(**data["config"]), fields, bool(data["multi_row"]))
        if any(field.num_bytes != _field_num_bytes(field.encoding, field.shape, layout.config) for field in fields):
            raise ValueError("num_bytes of the fields do not match their shapes")
        return layout

    def _encode(self, field: RecordField, tensor: Tensor) -> ByteArray:
        if field.encoding == "int8":
            return encode_int8(tensor)
        return encode_top_k(tensor, self.config) if field.encoding == "top_k" else encode_dense(tensor, field.encoding)

    def _decode(self, field: RecordField, raw: ByteArray) -> Tensor:
        if field.encoding == "int8":
            return decode_int8(raw, field.shape)
        if field.encoding == "top_k":
            return decode_top_k(raw, field.shape, self.config)
        values = decode_dense(raw, field.shape, field.encoding)
        if field.full_size:
            values = F.interpolate(values, size=field.full_size, mode="bilinear", align_corners=False)
        return values


def encode_dense(values: Tensor, dtype: str) -> ByteArray:
    """``[batch, ...]`` values as bytes ``[batch, bytes]``.

    Raises:
        LimbeckError: NaN, or a value out of the range of ``dtype``.
    """
    flat = values.detach().float().cpu().reshape(len(values), -1).numpy()
    if np.isnan(flat).any():
        raise LimbeckError("teacher outputs must be finite to be cached, got NaN")
    with np.errstate(over="ignore"):
        encoded = flat.astype(dtype)
    overflowed = np.isinf(encoded) & ~np.isinf(flat)
    if overflowed.any():
        raise LimbeckError(
            f"teacher outputs must be at most {float(np.finfo(dtype).max):g} for {dtype}, got "
            f"{float(np.abs(flat[overflowed]).max()):g}: store them as float32"
        )
    return _to_bytes(encoded)


def decode_dense(raw: ByteArray, shape: tuple[int, ...], dtype: str) -> Tensor:
    """Inverse of :func:`encode_dense`, as float32 ``[batch, *shape]``.

    >>> decode_dense(encode_dense(torch.tensor([[1.0, 2.5]]), "float16"), (2,), "float16")
    tensor([[1.0000, 2.5000]])
    """
    values = np.ascontiguousarray(raw).view(dtype).astype(np.float32)
    return torch.from_numpy(values).reshape(len(raw), *shape)


def encode_top_k(logits: Tensor, config: CacheConfig) -> ByteArray:
    """``[batch, rows, classes]`` logits as the largest ``top_k`` and their classes.

    With ``tail="spread"`` follows the float32 logsumexp of the other logits.
    """
    assert config.top_k is not None
    logits = logits.detach().float().cpu()
    classes = logits.shape[2]
    values, top_classes = logits.topk(min(config.top_k, classes), dim=2)
    parts = [encode_dense(values, config.dtype), _to_bytes(top_classes.numpy().astype(_index_dtype(classes)))]
    if config.tail == "spread":
        parts.append(_to_bytes(logits.scatter(2, top_classes, -torch.inf).logsumexp(dim=2).numpy()))
    return np.concatenate(parts, axis=1)


def decode_top_k(raw: ByteArray, shape: tuple[int, ...], config: CacheConfig) -> Tensor:
    """Inverse of :func:`encode_top_k`, ``[batch, rows, classes]``: stored logits, and the tail.

    >>> config = CacheConfig(top_k=2)
    >>> decode_top_k(encode_top_k(torch.tensor([[[3.0, 1.0, 2.0, 1.0]]]), config), (1, 4), config)
    tensor([[[3., 1., 2., 1.]]])
    """
    assert config.top_k is not None
    rows, classes = shape
    batch, k = len(raw), min(config.top_k, classes)
    index_dtype = np.dtype(_index_dtype(classes))
    index_start = np.dtype(config.dtype).itemsize * rows * k
    tail_start = index_start + index_dtype.itemsize * rows * k
    values = decode_dense(raw[:, :index_start], (rows, k), config.dtype)
    top_classes = np.ascontiguousarray(raw[:, index_start:tail_start]).view(index_dtype).astype(np.int64)
    tail_logit = torch.full((batch, rows, 1), -torch.inf)
    if config.tail == "spread" and k < classes:
        tail_logit = decode_dense(raw[:, tail_start:], (rows, 1), "float32") - float(np.log(classes - k))
    logits = tail_logit.expand(batch, rows, classes).clone()
    return logits.scatter_(2, torch.from_numpy(top_classes).reshape(batch, rows, k), values)


def encode_int8(values: Tensor) -> ByteArray:
    """``[batch, ...]`` values as integers from −127 to 127 and a float32 scale for each sample."""
    flat = values.detach().float().cpu().reshape(len(values), -1).numpy()
    if not np.isfinite(flat).all():
        raise LimbeckError("teacher outputs must be finite to be cached, got NaN or infinity")
    scale = (np.abs(flat).max(axis=1, keepdims=True) / 127).astype(np.float32)
    steps = np.rint(flat / np.where(scale > 0, scale, 1)).astype(np.int8)
    return np.concatenate([_to_bytes(scale), _to_bytes(steps)], axis=1)


def decode_int8(raw: ByteArray, shape: tuple[int, ...]) -> Tensor:
    """Inverse of :func:`encode_int8`, with an error of at most 1/254 of the sample's largest magnitude.

    >>> decode_int8(encode_int8(torch.tensor([[127.0, -63.9]])), (2,))
    tensor([[127., -64.]])
    """
    scale = decode_dense(raw[:, :4], (1,), "float32")
    steps = torch.from_numpy(np.ascontiguousarray(raw[:, 4:]).view(np.int8).astype(np.float32))
    return (steps * scale).reshape(len(raw), *shape)


def _to_bytes(array: NDArray[np.generic]) -> ByteArray:
    return np.ascontiguousarray(array.reshape(len(array), -1)).view(np.uint8)


def _index_dtype(classes: int) -> str:
    return "uint16" if classes <= 2**16 else "uint32"


def _named_tensors(outputs: Outputs, batch_size: int, config: CacheConfig) -> dict[str, Tensor]:
    """The tensors of ``outputs`` by field name, ``[batch, ...]``, with rows grouped by sample and maps pooled."""
    tensors: dict[str, Tensor] = {}
    if outputs.logits is not None:
        tensors["logits"] = _group_by_sample(outputs.logits, outputs, batch_size)
    if outputs.spatial_logits is not None:
        tensors["spatial_logits"] = _pool(outputs.spatial_logits, config)
    if outputs.embedding is not None:
        tensors["embedding"] = outputs.embedding
    for name, tensor in outputs.features.items():
        tensors[f"features.{name}"] = _pool(tensor, config)
    for name, tensor in outputs.extra.items():
        if tensor.ndim and outputs.logits is not None and len(tensor) == len(outputs.logits):
            tensors[f"rows.{name}"] = _group_by_sample(tensor, outputs, batch_size)
        elif tensor.ndim and len(tensor) == batch_size:
            tensors[f"extra.{name}"] = tensor
        else:
            raise LimbeckError(
                f"{name!r} of a cached teacher must have one value for each sample or row, got the shape "
                f"{list(tensor.shape)}"
            )
    if outputs.valid is not None:
        tensors["valid"] = outputs.valid.reshape(-1, 1)
    return tensors


def _group_by_sample(rows: Tensor, outputs: Outputs, batch_size: int) -> Tensor:
    """``[batch, rows of a sample, ...]``."""
    rows_per_sample = len(rows) // max(batch_size, 1)
    expected = torch.arange(batch_size, device=rows.device).repeat_interleave(rows_per_sample)
    if len(rows) != rows_per_sample * batch_size or (
        outputs.row_to_sample is not None and not torch.equal(outputs.row_to_sample, expected)
    ):
        raise LimbeckError(
            f"a cached teacher must have equally many rows for each sample, got {len(rows)} rows for {batch_size} "
            "samples: "
            "cache spatial logits or features, or use no cache"
        )
    return rows.reshape(batch_size, rows_per_sample, *rows.shape[1:])


def _pool(tensor: Tensor, config: CacheConfig) -> Tensor:
    if config.pool_factor == 1 or tensor.ndim != 4:
        return tensor
    height, width = (max(1, side // config.pool_factor) for side in tensor.shape[2:])
    return F.adaptive_avg_pool2d(tensor.float(), (height, width))


def _with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _field_encoding(name: str, config: CacheConfig) -> str:
    if name == "valid":
        return "float16"
    if name.startswith("features."):
        return config.feature_dtype
    return "top_k" if name == "logits" and config.top_k is not None else config.dtype


def _field_num_bytes(encoding: str, shape: tuple[int, ...], config: CacheConfig) -> int:
    num_values = int(np.prod(shape, dtype=np.int64))
    if encoding == "top_k":
        rows, classes = shape
        value_bytes = np.dtype(config.dtype).itemsize + np.dtype(_index_dtype(classes)).itemsize
        return rows * (min(config.top_k or classes, classes) * value_bytes + (4 if config.tail == "spread" else 0))
    return num_values + 4 if encoding == "int8" else num_values * np.dtype(encoding).itemsize
