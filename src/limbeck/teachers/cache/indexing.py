"""The record of each sample and view, and checksums of the inputs that records were computed for.

A user's data set may return other inputs under the same sample ids. Each record holds two sums of its input in float16,
plain and with fixed random signs. They are compared within a tolerance, since the last bits of interpolated pixels
differ between machines.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, Final, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.teachers.cache.store import ByteArray, Indices

__all__ = ["CHECKSUM_BYTES", "RecordIndex", "checksums_match", "get_inputs", "input_checksum"]

CHECKSUM_BYTES: Final = 4
_MAX_ELEMENTS = 1024
_TOLERANCE = 4e-3


@final
class RecordIndex:
    """Record indices of ``num_views`` views of each sample: the views of a sample are adjacent, samples sorted by id.

    >>> index = RecordIndex(torch.tensor([7, 3]), num_views=2)
    >>> index.record_indices({"sample_id": torch.tensor([3, 7]), "view": torch.tensor([1, 0])}).tolist()
    [1, 2]
    >>> index.sample_views(np.array([1, 2]))
    (tensor([1, 0]), tensor([1, 0]))
    """

    def __init__(self, sample_ids: Tensor, *, num_views: int) -> None:
        if num_views < 1:
            raise LimbeckError(
                "num_views must be at least 1 for a cache, got 0, which draws new views in each epoch: set, for "
                "example, augment.num_views: 8 (the number of epochs gives a new view in each)"
            )
        self.num_views = num_views
        self._sample_ids, order = np.unique(sample_ids.numpy(), return_index=True)
        self._order = torch.from_numpy(order)
        self.num_samples = len(self._sample_ids)

    def __len__(self) -> int:
        return self.num_samples * self.num_views

    def record_indices(self, batch: Any) -> Indices:
        """The record of each sample of ``batch``, by its ``sample_id`` and ``view``."""
        if not isinstance(batch, dict) or "sample_id" not in batch:
            raise LimbeckError(
                "a cached teacher needs batches with 'sample_id' (and 'view' where there are several): use batches of "
                "limbeck.data"
            )
        sample_ids = batch["sample_id"].cpu().numpy()
        # Without random augmentation all views are equal, and stored once.
        view = batch["view"].cpu().numpy() if "view" in batch and self.num_views > 1 else np.zeros_like(sample_ids)
        position = np.searchsorted(self._sample_ids, sample_ids).clip(max=self.num_samples - 1)
        unknown = self._sample_ids[position] != sample_ids
        if unknown.any() or (view >= self.num_views).any():
            name = f"sample {sample_ids[unknown][0]}" if unknown.any() else f"view {view.max()}"
            raise LimbeckError(
                f"{name} is not in the cache of {self.num_samples} samples in {self.num_views} views: create the cache "
                "with the training data"
            )
        indices: Indices = (position * self.num_views + view).astype(np.int64)
        return indices

    def sample_views(self, indices: Indices) -> tuple[Tensor, Tensor]:
        """The position of the sample in its split, and the view, of each record."""
        position, view = np.divmod(indices, self.num_views)
        return self._order[torch.from_numpy(position)], torch.from_numpy(view)

    def sample_id(self, index: int) -> int:
        """The sample id of the record ``index``."""
        return int(self._sample_ids[index // self.num_views])


def input_checksum(inputs: Tensor) -> ByteArray:
    """Checksums ``[batch, 4]`` in bytes of ``[batch, ...]`` inputs.

    >>> a, b = torch.ones(1, 3, 8, 8), torch.ones(1, 3, 8, 8)
    >>> b[0, 0, 0, 0] = 3.0
    >>> [checksums_match(input_checksum(a), input_checksum(inputs)).item() for inputs in (a, b)]
    [True, False]
    """
    flat = inputs.detach().reshape(len(inputs), -1)
    step = max(1, -(-flat.shape[1] // _MAX_ELEMENTS))
    subsample = flat[:, ::step].float().cpu()
    # numpy, since autocast would round torch's product.
    sums = (subsample.numpy() @ _random_signs(subsample.shape[1])).clip(-6e4, 6e4)
    return np.ascontiguousarray(sums.astype(np.float16)).view(np.uint8)


def checksums_match(checksum_a: ByteArray, checksum_b: ByteArray) -> NDArray[np.bool_]:
    """``[batch]``: whether two checksums are of the same input."""
    a, b = (np.ascontiguousarray(checksum).view(np.float16).astype(np.float32) for checksum in (checksum_a, checksum_b))
    close: NDArray[np.bool_] = (np.abs(a - b) <= _TOLERANCE * (1 + np.abs(a))).all(axis=1)
    return close


def get_inputs(batch: Any) -> Tensor:
    """The input of the networks: the first floating-point tensor of a batch, else the first tensor."""
    values = list(batch.values()) if isinstance(batch, dict) else [batch] if isinstance(batch, Tensor) else list(batch)
    tensors = [value for value in values if isinstance(value, Tensor)]
    if not tensors:
        raise LimbeckError("a batch for a cached teacher must contain a tensor, got none")
    return next((tensor for tensor in tensors if tensor.is_floating_point()), tensors[0])


@lru_cache(maxsize=4)
def _random_signs(num_elements: int) -> NDArray[np.float32]:
    """``[elements, 2]``: ones and random signs, over the square root of their number."""
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, (num_elements, 2), generator=generator) * 2 - 1
    signs[:, 0] = 1
    scaled: NDArray[np.float32] = (signs.numpy() / math.sqrt(num_elements)).astype(np.float32)
    return scaled
