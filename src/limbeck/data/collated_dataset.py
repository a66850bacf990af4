"""A user's data set whose items are put into batches by the user's own ``collate_fn``."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from limbeck.core.errors import LimbeckError, format_root_cause
from limbeck.data.image_store import evenly_spaced_indices, preserve_rng_state, tensor_bytes
from limbeck.data.input_checks import read_item, require_finite
from limbeck.utils.batch_fields import find_input

__all__ = ["CollatedDataset"]


@final
@dataclass(frozen=True, slots=True)
class CollatedDataset:
    """Items of any kind.

    Args:
        dataset: a map-style torch data set.
        collate_fn: maps a list of items to a batch, which must be a mapping; see ``torch.utils.data.DataLoader``.
    """

    dataset: Any
    collate_fn: Callable[[list[Any]], Any]

    def __len__(self) -> int:
        return len(self.dataset)

    def read_batch(self, indices: Tensor) -> dict[str, Any]:
        """The batch of the items at ``indices`` (``[n]`` integers).

        Raises:
            LimbeckError: an item cannot be read, ``collate_fn`` fails, or an input is not finite.
        """
        items = [read_item(self.dataset, i) for i in indices.tolist()]
        try:
            batch = self.collate_fn(items)
        except Exception as error:  # user code
            raise LimbeckError(
                f"collate_fn failed on the samples {indices.tolist()[:8]} ({format_root_cause(error)}): correct it"
            ) from error
        if not isinstance(batch, Mapping):
            raise LimbeckError(
                f"collate_fn must return a mapping, got a {type(batch).__name__}: return {{'input': …, 'target': …}}"
            )
        if isinstance(inputs := find_input(batch), Tensor) and len(inputs) == len(indices):
            require_finite(inputs, lambda i: f"sample {int(indices[i])} of the data set")
        return dict(batch)

    def read(self, indices: Tensor) -> Tensor:
        """The field ``input`` of the batch, else its first tensor."""
        batch = self.read_batch(indices)
        tensors = [leaf for leaf in (batch.get("input"), *tree_leaves(batch)) if isinstance(leaf, Tensor)]
        if not tensors:
            raise LimbeckError(f"a batch of collate_fn must have a tensor, got {', '.join(map(str, batch))}")
        return tensors[0]

    def fingerprint(self) -> str:
        """A hash of all items; of type and length where the data set is not :meth:`is_deterministic`."""
        digest = hashlib.sha256(f"{type(self.dataset).__name__} {len(self.dataset)}".encode())
        for i in range(len(self)) if self.is_deterministic() else ():
            digest.update(_item_bytes(read_item(self.dataset, i)))
        return digest.hexdigest()

    def is_deterministic(self) -> bool:
        """Whether 32 evenly spaced items are equal when read twice; random states are restored."""
        with preserve_rng_state():
            return all(
                _item_bytes(read_item(self.dataset, i)) == _item_bytes(read_item(self.dataset, i))
                for i in evenly_spaced_indices(len(self))
            )


def _item_bytes(item: Any) -> bytes:
    """Tensors and arrays by type, shape and bytes, plain values by ``repr``; other objects by type."""
    text = bytearray()
    for leaf in tree_leaves(item):
        value = torch.from_numpy(leaf) if isinstance(leaf, np.ndarray) and leaf.dtype.kind in "biuf" else leaf
        if isinstance(value, Tensor):
            text += f"\n{value.dtype} {list(value.shape)} ".encode() + tensor_bytes(value)
        else:
            plain = isinstance(value, str | bytes | int | float | bool | None)
            text += f"\n{value!r}".encode() if plain else f"\n{type(value).__name__}".encode()
    return bytes(text)
