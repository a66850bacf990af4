"""One tensor as numpy values: exact, in half precision, as 8-bit steps, or as the largest logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.teachers.cache.cache_config import CacheConfig

__all__ = ["TensorEncoding"]


@final
@dataclass(frozen=True, slots=True)
class TensorEncoding:
    """How the entries of a tensor ``[n, *shape]`` are stored.

    Args:
        name: name of the tensor in errors.
        kind: see :class:`~limbeck.teachers.cache.layout.RecordField`.
        shape: shape of one entry.
        config: settings of the cache.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    config: CacheConfig

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of one entry."""
        if self.kind == "int8":
            return np.dtype([("scale", "f4"), ("steps", "i1", self.shape)])
        if self.kind != "top_k":
            return np.dtype((self.kind, self.shape))
        *leading, classes = self.shape
        shape = (*leading, min(self.config.top_k or classes, classes))
        index_type = "u2" if classes <= 2**16 else "u4"
        if self.name == "spatial_logits" and classes <= 2**8:
            index_type = "u1"
        members: list[Any] = [("values", self.config.dtype, shape), ("classes", index_type, shape)]
        return np.dtype([*members, ("tail", "f4", tuple(leading))] if self.config.tail == "spread" else members)

    def encode(self, record: NDArray[Any], tensor: Tensor) -> None:
        """Write ``tensor`` ``[n, *shape]`` to ``record`` ``[n]``.

        Raises:
            LimbeckError: a value cannot be stored.
        """
        if self.kind in ("int64", "bool"):
            record[...] = tensor.numpy()
            return
        values = tensor.float()
        if self.kind == "int8":
            self._encode_steps(record, values)
        elif self.kind == "top_k":
            largest, classes = values.topk(record["values"].shape[-1], dim=-1)
            self._store_floats(record["values"], largest)
            record["classes"] = classes.numpy()
            if self.config.tail == "spread":
                record["tail"] = values.scatter(-1, classes, -torch.inf).logsumexp(dim=-1).numpy()
        else:
            self._store_floats(record, values)

    def decode(self, record: NDArray[Any]) -> Tensor:
        """The values ``[n, *shape]`` of ``record`` ``[n]``: float32, int64 or bool."""
        if self.kind in ("int64", "bool"):
            return torch.from_numpy(np.array(record))
        if self.kind == "int8":
            scale = record["scale"].reshape(-1, *[1] * len(self.shape))
            return torch.from_numpy(record["steps"].astype(np.float32) * scale)
        if self.kind != "top_k":
            return torch.from_numpy(record.astype(np.float32))
        *leading, classes = len(record), *self.shape
        values, top_classes = (
            torch.from_numpy(record[name].astype(t)) for name, t in (("values", "f4"), ("classes", "i8"))
        )
        tail_logit = torch.full((*leading, 1), -torch.inf)
        if self.config.tail == "spread" and values.shape[-1] < classes:
            tail_logit = torch.from_numpy(record["tail"].copy())[..., None] - float(np.log(classes - values.shape[-1]))
        return tail_logit.expand(*leading, classes).clone().scatter_(-1, top_classes, values)

    def difference(self, record: NDArray[Any], tensor: Tensor) -> float:
        """The largest difference between ``record`` and ``tensor``, relative to the largest value of both.

        Of the largest logits only the stored classes are compared, since near ties may be in another order.
        """
        if self.kind == "top_k":
            stored = torch.from_numpy(record["values"].astype("f4"))
            live = tensor.float().gather(-1, torch.from_numpy(record["classes"].astype("i8")))
        else:
            stored, live = self.decode(record).float(), tensor.float()
        if not stored.numel():
            return 0.0
        distance = (stored - live).abs().masked_fill(stored == live, 0.0)  # also of infinities
        scale = max(float(stored.abs().nan_to_num(posinf=0.0).max()), float(live.abs().nan_to_num(posinf=0.0).max()))
        return float(distance.max()) / max(scale, 1e-6)

    def _encode_steps(self, record: NDArray[Any], values: Tensor) -> None:
        flat = values.flatten(1).numpy()
        if not np.isfinite(flat).all():
            raise LimbeckError("teacher outputs must be finite to be cached as int8, got NaN or infinity")
        scale = (np.abs(flat).max(axis=1) / 127).astype(np.float32)
        record["scale"] = scale
        steps = np.rint(flat / np.where(scale > 0, scale, 1)[:, None])
        record["steps"] = steps.astype(np.int8).reshape(record["steps"].shape)

    def _store_floats(self, record: NDArray[Any], tensor: Tensor) -> None:
        values = tensor.numpy()
        if np.isnan(values).any():
            raise LimbeckError(f"teacher outputs must be finite to be cached, got NaN in {self.name}")
        with np.errstate(over="ignore"):
            record[...] = values
        overflowed = np.isinf(record) & ~np.isinf(values)
        if overflowed.any():
            raise LimbeckError(
                f"teacher outputs must be at most {float(np.finfo(record.dtype).max):g} for {record.dtype}, got "
                f"{float(np.abs(values[overflowed]).max()):g}: store them as float32"
            )
