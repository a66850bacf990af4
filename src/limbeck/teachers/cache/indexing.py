"""The record of each sample and view, and checksums of the inputs that records were computed for.

A user's data set may return other inputs under the same sample ids. Each record holds checksums of its own values,
without the padding of its batch: an exact hash of integers (tokens, lengths, masks), and of floating-point values two
sums in float16, plain and with fixed random signs. The sums are compared within a tolerance, since the last bits of
interpolated pixels differ between machines.
"""

from __future__ import annotations

import copy
import math
import zlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._pytree import tree_leaves

from limbeck.core.errors import LimbeckError
from limbeck.core.task import ModelInputs
from limbeck.teachers.cache.store import ByteArray, Indices

__all__ = ["CHECKSUM_BYTES", "InputChecksums", "RecordIndex"]

CHECKSUM_BYTES: Final = 4
"""Size of each of the checksums of :attr:`InputChecksums.kinds`."""
_MAX_ELEMENTS = 1024
_TOLERANCE = 4e-3
_NO_PADDING = slice(None)


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
        if not isinstance(batch, Mapping) or "sample_id" not in batch:
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


@final
class InputChecksums:
    """Checksums of the inputs of a batch, by sample.

    Args:
        inputs: tensors ``[batch, ...]`` in any nesting; others are ignored. Of
            :class:`~limbeck.core.task.ModelInputs`, ``masks`` say which positions are padding.
        batch: the batch. Of other inputs, positions that ``attention_mask`` ``[batch, positions]`` masks, or that are
            at or beyond ``input_length`` ``[batch]``, are padding: they are no part of a sample.

    Attributes:
        kinds: ``("float",)``, ``("int",)`` or both, by the dtypes of the inputs.
        values: ``[batch, 4 · kinds]`` bytes.
        device: of the inputs.

    >>> tokens, mask = torch.tensor([[5, 7, 1], [5, 7, 9]]), torch.tensor([[1, 1, 0], [1, 1, 1]])
    >>> padded, short = InputChecksums([tokens], {"attention_mask": mask}), InputChecksums([tokens[:1, :2]], {})
    >>> padded.match(short.values.repeat(2, 0))
    array([ True, False])
    """

    def __init__(self, inputs: Any, batch: Any) -> None:
        if not isinstance(inputs, ModelInputs):
            inputs = ModelInputs((inputs,))
        first = _tensors((inputs.args, dict(inputs.kwargs)))[0]
        self.device, num_samples = first.device, len(first)
        valid = _valid_positions(batch, num_samples)
        padded = [
            _Padded(leaf.detach().cpu(), _split_mask(inputs.masks[name]) if name in inputs.masks else valid)
            for name, value in (("", inputs.args), *inputs.kwargs.items())
            for leaf in tree_leaves(value)
            if isinstance(leaf, Tensor) and leaf.ndim and len(leaf) == num_samples
        ]
        floats = [entry for entry in padded if entry.tensor.is_floating_point() or entry.tensor.is_complex()]
        integers = [entry for entry in padded if not (entry.tensor.is_floating_point() or entry.tensor.is_complex())]
        self.kinds = (("float",) if floats else ()) + (("int",) if integers else ())
        parts = [_float_checksums(floats)] if floats else []
        parts += [_integer_checksums(integers)] if integers else []
        self.values: ByteArray = np.concatenate(parts, axis=1)

    @staticmethod
    def device_of(inputs: Any) -> torch.device:
        """The device of the first tensor of ``inputs``."""
        return _tensors(inputs)[0].device

    def select(self, mask: NDArray[np.bool_]) -> InputChecksums:
        """The checksums of the samples where ``mask`` is true."""
        selected = copy.copy(self)
        selected.values = self.values[mask]
        return selected

    def match(self, stored: ByteArray) -> NDArray[np.bool_]:
        """``[batch]``: whether the ``stored`` checksums are of the same inputs."""
        same = np.ones(len(stored), bool)
        for index, kind in enumerate(self.kinds):
            a, b = (np.ascontiguousarray(values[:, 4 * index : 4 * index + 4]) for values in (stored, self.values))
            same &= _floats_match(a, b) if kind == "float" else (a == b).all(axis=1)
        return same


def _tensors(inputs: Any) -> list[Tensor]:
    leaves = [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor) and leaf.ndim]
    if not leaves:
        raise LimbeckError("the inputs of a cached teacher must contain a tensor, got none")
    return leaves


class _Padded(NamedTuple):
    """A tensor ``[batch, ...]``, and what of axis 1 belongs to each sample: a mask, a slice, or everything."""

    tensor: Tensor
    valid: Sequence[Any]

    def own_values(self, index: int) -> Tensor:
        """The values of one sample without padding, ``[elements]``."""
        sample, valid = self.tensor[index], self.valid[index]
        if not sample.ndim or valid is _NO_PADDING or (isinstance(valid, Tensor) and len(valid) != len(sample)):
            return sample.reshape(-1)
        return sample[valid].reshape(-1)


def _valid_positions(batch: Any, num_samples: int) -> Sequence[Any]:
    fields = batch if isinstance(batch, Mapping) else {}
    mask, lengths = fields.get("attention_mask"), fields.get("input_length")
    if isinstance(mask, Tensor) and mask.ndim == 2:
        return _split_mask(mask)
    if isinstance(lengths, Tensor) and lengths.ndim == 1:
        return [slice(length) for length in lengths.tolist()]
    return [_NO_PADDING] * num_samples


def _split_mask(mask: Tensor) -> list[Tensor]:
    return list(mask.detach().cpu().bool())


def _float_checksums(entries: Sequence[_Padded]) -> ByteArray:
    if any(entry.tensor.is_complex() for entry in entries):
        entries = [e._replace(tensor=torch.view_as_real(e.tensor)) if e.tensor.is_complex() else e for e in entries]
    if all(positions is _NO_PADDING for entry in entries for positions in entry.valid):
        sums = _signed_sums(torch.cat([tensor.reshape(len(tensor), -1) for tensor, _ in entries], dim=1))
    else:
        samples = (torch.cat([entry.own_values(i) for entry in entries]) for i in range(len(entries[0].tensor)))
        sums = np.concatenate([_signed_sums(sample[None]) for sample in samples])
    return np.ascontiguousarray(sums.astype(np.float16)).view(np.uint8)


def _signed_sums(flat: Tensor) -> NDArray[np.float32]:
    """``[n, 2]`` sums of at most 1,024 values of each row."""
    step = max(1, -(-flat.shape[1] // _MAX_ELEMENTS))
    subsample = flat[:, ::step].float()
    # numpy, since autocast would round torch's product.
    sums: NDArray[np.float32] = (subsample.numpy() @ _random_signs(subsample.shape[1])).clip(-6e4, 6e4)
    return sums


def _integer_checksums(entries: Sequence[_Padded]) -> ByteArray:
    checksums = np.zeros(len(entries[0].tensor), np.uint32)
    for index in range(len(checksums)):
        for entry in entries:
            values = entry.own_values(index).to(torch.int64).numpy()
            checksums[index] = zlib.crc32(values.tobytes(), int(checksums[index]))
    return checksums[:, None].view(np.uint8)


def _floats_match(checksum_a: ByteArray, checksum_b: ByteArray) -> NDArray[np.bool_]:
    a, b = (checksum.view(np.float16).astype(np.float32) for checksum in (checksum_a, checksum_b))
    close: NDArray[np.bool_] = (np.abs(a - b) <= _TOLERANCE * (1 + np.abs(a))).all(axis=1)
    return close


@lru_cache(maxsize=64)
def _random_signs(num_elements: int) -> NDArray[np.float32]:
    """``[elements, 2]``: ones and random signs, over the square root of their number."""
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, (num_elements, 2), generator=generator) * 2 - 1
    signs[:, 0] = 1
    scaled: NDArray[np.float32] = (signs.numpy() / math.sqrt(max(num_elements, 1))).astype(np.float32)
    return scaled
