"""Which record belongs to which picture: the records of a sample's views stand side by side, samples by number."""

from __future__ import annotations

from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.teachers.cache.store import Indices

__all__ = ["RecordIndex"]


@final
class RecordIndex:
    """The places of ``num_views`` views of the samples with these numbers.

    >>> slots = RecordIndex(torch.tensor([7, 3]), num_views=2)
    >>> slots.record_indices({"sample_id": torch.tensor([3, 7]), "view": torch.tensor([1, 0])}).tolist()
    [1, 2]
    >>> slots.sample_views(np.array([1, 2]))
    (tensor([1, 0]), tensor([1, 0]))
    """

    def __init__(self, sample_ids: Tensor, *, num_views: int) -> None:
        if num_views < 1:
            raise LimbeckError(
                "views are made anew each time, so no answer could be used twice: number them, such as "
                "augment.num_views: 8 (as many as there are epochs shows a new one in each)"
            )
        self.num_views = num_views
        self._sample_ids, order = np.unique(sample_ids.numpy(), return_index=True)
        self._order = torch.from_numpy(order)

    def __len__(self) -> int:
        return self.num_samples * self.num_views

    @property
    def num_samples(self) -> int:
        """How many samples there are."""
        return len(self._sample_ids)

    def record_indices(self, batch: Any) -> Indices:
        """The place of each sample of ``batch``, by its ``sample_id`` and ``view``."""
        if not isinstance(batch, dict) or "sample_id" not in batch:
            raise LimbeckError(
                "a batch for a cached teacher says which samples it holds, under 'sample_id', and which 'view' of each, as "
                "those of limbeck.data do"
            )
        sample_ids = batch["sample_id"].cpu().numpy()
        # Where nothing is random every view is the first one, whatever its number.
        view = batch["view"].cpu().numpy() if "view" in batch and self.num_views > 1 else np.zeros_like(sample_ids)
        position = np.searchsorted(self._sample_ids, sample_ids).clip(max=self.num_samples - 1)
        unknown = self._sample_ids[position] != sample_ids
        if unknown.any() or (view >= self.num_views).any():
            unknown_name = f"sample {sample_ids[unknown][0]}" if unknown.any() else f"view {view.max()}"
            raise LimbeckError(
                f"{unknown_name} is none of those that the cache is for, {self.num_samples} samples in {self.num_views} views: give it "
                "the data that you train on"
            )
        indices: Indices = (position * self.num_views + view).astype(np.int64)
        return indices

    def sample_views(self, indices: Indices) -> tuple[Tensor, Tensor]:
        """For each place, which sample of the part it is about, and which view."""
        position, view = np.divmod(indices, self.num_views)
        return self._order[torch.from_numpy(position)], torch.from_numpy(view)

    def sample_id(self, index: int) -> int:
        """The number of the sample at ``index``."""
        return int(self._sample_ids[index // self.num_views])
