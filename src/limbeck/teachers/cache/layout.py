"""Teacher outputs as bytes: a record of one numpy structured dtype for each sample and view."""

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

__all__ = ["RecordField", "RecordLayout"]


@final
@dataclass(frozen=True, slots=True)
class RecordField:
    """A tensor in a record.

    Attributes:
        name: ``logits``, ``spatial_logits``, ``embedding``, ``valid``, ``features.NAME``, ``samples.NAME`` or
            ``rows.NAME`` for further tensors by sample and by row.
        encoding: ``float16``, ``float32``, ``int8`` (with a float32 scale) or ``top_k`` (the largest logits, their
            classes and, with ``tail="spread"``, the float32 logsumexp of the others).
        shape: stored shape of one sample; ``(rows, classes)`` for logits.
        full_size: height and width before pooling, for spatial logits.
    """

    name: str
    encoding: str
    shape: tuple[int, ...]
    full_size: tuple[int, ...]


@final
@dataclass(frozen=True, slots=True)
class RecordLayout:
    """The fields of a record.

    Args:
        config: settings of the cache.
        fields: the fields in order.
        multi_row: whether outputs have ``row_to_sample`` (several rows for each sample).

    >>> outputs = Outputs(logits=torch.tensor([[3.0, 1.0, 2.0, 1.0]]))
    >>> layout = RecordLayout.from_outputs(outputs, 1, CacheConfig(top_k=2))
    >>> layout.num_bytes, layout.unpack(layout.pack(outputs, 1)).require_logits()
    (12, tensor([[3., 1., 2., 1.]]))
    """

    config: CacheConfig
    fields: tuple[RecordField, ...]
    multi_row: bool

    @property
    def dtype(self) -> np.dtype[np.void]:
        """The dtype of a record."""
        return np.dtype([(field.name, _field_dtype(field, self.config)) for field in self.fields])

    @property
    def num_bytes(self) -> int:
        """Size of a record without checksums."""
        return self.dtype.itemsize

    @classmethod
    def from_outputs(cls, outputs: Outputs, batch_size: int, config: CacheConfig) -> Self:
        """The layout of ``outputs`` for ``batch_size`` samples."""
        fields = []
        for name, tensor in _named_tensors(outputs, batch_size, config).items():
            full_size: tuple[int, ...] = ()
            if name == "spatial_logits" and outputs.spatial_logits is not None and config.pool_factor > 1:
                full_size = tuple(outputs.spatial_logits.shape[2:])
            fields.append(RecordField(name, _field_encoding(name, config), tuple(tensor.shape[1:]), full_size))
        if not fields:
            raise LimbeckError("outputs must have logits or features to be cached, got neither")
        return cls(config, tuple(fields), outputs.row_to_sample is not None)

    def pack(self, outputs: Outputs, batch_size: int) -> ByteArray:
        """Records ``[batch, bytes]`` of ``outputs`` for ``batch_size`` samples.

        Raises:
            LimbeckError: other tensors or shapes than those of the layout, or values that cannot be stored.
        """
        tensors = _named_tensors(outputs, batch_size, self.config)
        names = [field.name for field in self.fields]
        if set(names) != tensors.keys():
            raise LimbeckError(
                f"all outputs of a cached teacher must have the tensors {', '.join(names)}, got {', '.join(tensors)}"
            )
        records = np.zeros(batch_size, self.dtype)
        for field in self.fields:
            tensor = tensors[field.name].detach().float().cpu()
            if (shape := tuple(tensor.shape[1:])) != field.shape:
                raise LimbeckError(
                    f"{field.name} of a cached teacher must have the shape {list(field.shape)} for each sample, got "
                    f"{list(shape)}: use inputs of one size"
                )
            _encode(records[field.name], tensor, field, self.config)
        return records.view(np.uint8).reshape(batch_size, self.num_bytes)

    def unpack(self, raw: ByteArray) -> Outputs:
        """The outputs in records ``[batch, bytes]``, on the CPU in float32."""
        records = np.ascontiguousarray(raw).view(self.dtype)[:, 0]
        tensors = {field.name: _decode(records[field.name], field, self.config) for field in self.fields}
        logits = tensors.get("logits")
        rows_per_sample = 0 if logits is None else logits.shape[1]
        return Outputs(
            logits=None if logits is None else logits.flatten(0, 1),
            spatial_logits=tensors.get("spatial_logits"),
            embedding=tensors.get("embedding"),
            features=_with_prefix("features.", tensors),
            by_row={name: tensor.flatten(0, 1) for name, tensor in _with_prefix("rows.", tensors).items()},
            by_sample=_with_prefix("samples.", tensors),
            row_to_sample=torch.arange(len(raw)).repeat_interleave(rows_per_sample) if self.multi_row else None,
            valid=tensors["valid"].bool().squeeze(1) if "valid" in tensors else None,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for ``layout.json``."""
        fields = [asdict(f) | {"num_bytes": _field_dtype(f, self.config).itemsize} for f in self.fields]
        return {"config": self.config.model_dump(), "fields": fields, "multi_row": self.multi_row}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The layout of :meth:`to_dict`.

        Raises:
            ValueError: the sizes of the fields do not match their shapes.
        """
        config = CacheConfig(**data["config"])
        fields = tuple(
            RecordField(str(f["name"]), str(f["encoding"]), tuple(f["shape"]), tuple(f["full_size"]))
            for f in data["fields"]
        )
        if [_field_dtype(f, config).itemsize for f in fields] != [f["num_bytes"] for f in data["fields"]]:
            raise ValueError("num_bytes of the fields do not match their shapes")
        return cls(config, fields, bool(data["multi_row"]))


def _field_encoding(name: str, config: CacheConfig) -> str:
    if name == "valid":
        return "float16"
    if name.startswith("features."):
        return config.feature_dtype
    return "top_k" if name == "logits" and config.top_k is not None else config.dtype


def _field_dtype(field: RecordField, config: CacheConfig) -> np.dtype[Any]:
    if field.encoding == "int8":
        return np.dtype([("scale", "f4"), ("steps", "i1", field.shape)])
    if field.encoding != "top_k":
        return np.dtype((field.encoding, field.shape))
    rows, classes = field.shape
    shape = (rows, min(config.top_k or classes, classes))
    members: list[Any] = [("values", config.dtype, shape), ("classes", "u2" if classes <= 2**16 else "u4", shape)]
    return np.dtype([*members, ("tail", "f4", (rows,))] if config.tail == "spread" else members)


def _encode(record: NDArray[Any], tensor: Tensor, field: RecordField, config: CacheConfig) -> None:
    """Write ``[batch, ...]`` values to a field of records."""
    if field.encoding == "int8":
        flat = tensor.flatten(1).numpy()
        if not np.isfinite(flat).all():
            raise LimbeckError("teacher outputs must be finite to be cached as int8, got NaN or infinity")
        scale = (np.abs(flat).max(axis=1) / 127).astype(np.float32)
        record["scale"] = scale
        steps = np.rint(flat / np.where(scale > 0, scale, 1)[:, None])
        record["steps"] = steps.astype(np.int8).reshape(record["steps"].shape)
    elif field.encoding == "top_k":
        values, top_classes = tensor.topk(record["values"].shape[2], dim=2)
        _store_floats(record["values"], values)
        record["classes"] = top_classes.numpy()
        if config.tail == "spread":
            record["tail"] = tensor.scatter(2, top_classes, -torch.inf).logsumexp(dim=2).numpy()
    else:
        _store_floats(record, tensor)


def _store_floats(record: NDArray[Any], tensor: Tensor) -> None:
    values = tensor.numpy()
    if np.isnan(values).any():
        raise LimbeckError("teacher outputs must be finite to be cached, got NaN")
    with np.errstate(over="ignore"):
        record[...] = values
    overflowed = np.isinf(record) & ~np.isinf(values)
    if overflowed.any():
        raise LimbeckError(
            f"teacher outputs must be at most {float(np.finfo(record.dtype).max):g} for {record.dtype}, got "
            f"{float(np.abs(values[overflowed]).max()):g}: store them as float32"
        )


def _decode(record: NDArray[Any], field: RecordField, config: CacheConfig) -> Tensor:
    """The float32 values ``[batch, ...]`` of a field of records."""
    if field.encoding == "int8":
        scale = record["scale"].reshape(-1, *[1] * len(field.shape))
        return torch.from_numpy(record["steps"].astype(np.float32) * scale)
    if field.encoding == "top_k":
        classes = field.shape[1]
        values, top_classes = (
            torch.from_numpy(record[name].astype(t)) for name, t in (("values", "f4"), ("classes", "i8"))
        )
        tail_logit = torch.full((*values.shape[:2], 1), -torch.inf)
        if config.tail == "spread" and values.shape[2] < classes:
            tail_logit = torch.from_numpy(record["tail"].copy())[:, :, None] - float(np.log(classes - values.shape[2]))
        return tail_logit.expand(*values.shape[:2], classes).clone().scatter_(2, top_classes, values)
    values = torch.from_numpy(record.astype(np.float32))
    if field.full_size:
        values = F.interpolate(values, size=field.full_size, mode="bilinear", align_corners=False)
    return values


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
    for name, tensor in outputs.by_row.items():
        tensors[f"rows.{name}"] = _group_by_sample(tensor, outputs, batch_size)
    for name, tensor in outputs.by_sample.items():
        tensors[f"samples.{name}"] = tensor
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
            "samples: cache spatial logits or features, or use no cache"
        )
    return rows.reshape(batch_size, rows_per_sample, *rows.shape[1:])


def _pool(tensor: Tensor, config: CacheConfig) -> Tensor:
    if config.pool_factor == 1 or tensor.ndim != 4:
        return tensor
    height, width = (max(1, side // config.pool_factor) for side in tensor.shape[2:])
    return F.adaptive_avg_pool2d(tensor.float(), (height, width))


def _with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
