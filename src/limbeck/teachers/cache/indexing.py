"""Which record belongs to which picture: the records of a sample's views stand side by side, samples by number."""

from __future__ import annotations

from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.teachers.cache.store import Places

__all__ = ["Slots"]


@final
class Slots:
    """The places of ``views`` views of the samples with these numbers.

    >>> slots = Slots(torch.tensor([7, 3]), views=2)
    >>> slots.of({"index": torch.tensor([3, 7]), "view": torch.tensor([1, 0])}).tolist()
    [1, 2]
    >>> slots.where(np.array([1, 2]))
    (tensor([1, 0]), tensor([1, 0]))
    """

    def __init__(self, numbers: Tensor, *, views: int) -> None:
        if views < 1:
            raise LimbeckError(
                "views are made anew each time, so no answer could be used twice: number them, such as "
                "views.per_sample: 8 (as many as there are epochs shows a new one in each)"
            )
        self.views = views
        self._numbers, order = np.unique(numbers.numpy(), return_index=True)
        self._order = torch.from_numpy(order)

    def __len__(self) -> int:
        return self.samples * self.views

    @property
    def samples(self) -> int:
        """How many samples there are."""
        return len(self._numbers)

    def of(self, batch: Any) -> Places:
        """The place of each sample of ``batch``, by its ``index`` and ``view``."""
        if not isinstance(batch, dict) or "index" not in batch:
            raise LimbeckError(
                "a batch for a cached teacher says which samples it holds, under 'index', and which 'view' of each, as "
                "those of limbeck.data do"
            )
        index = batch["index"].cpu().numpy()
        # Where nothing is random every view is the first one, whatever its number.
        view = batch["view"].cpu().numpy() if "view" in batch and self.views > 1 else np.zeros_like(index)
        position = np.searchsorted(self._numbers, index).clip(max=self.samples - 1)
        wrong = self._numbers[position] != index
        if wrong.any() or (view >= self.views).any():
            said = f"sample {index[wrong][0]}" if wrong.any() else f"view {view.max()}"
            raise LimbeckError(
                f"{said} is none of those that the cache is for, {self.samples} samples in {self.views} views: give it "
                "the data that you train on"
            )
        places: Places = (position * self.views + view).astype(np.int64)
        return places

    def where(self, places: Places) -> tuple[Tensor, Tensor]:
        """For each place, which sample of the part it is about, and which view."""
        position, view = np.divmod(places, self.views)
        return self._order[torch.from_numpy(position)], torch.from_numpy(view)

    def number(self, place: int) -> int:
        """The number of the sample at ``place``."""
        return int(self._numbers[place // self.views])
