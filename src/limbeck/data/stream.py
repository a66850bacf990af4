"""Batches by number: batch 412 is a pure function of the seed, so resuming is asking for the next number."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Protocol, final

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.data.draws import generator
from limbeck.data.normalization import Normalization
from limbeck.data.part import Part
from limbeck.data.views import Views

__all__ = ["Batch", "Looped", "Shuffled", "Stream"]

Batch = dict[str, Tensor]
_ORDER = 4


class Stream(Protocol):
    """Training batches, each known by its step."""

    @property
    def steps_per_epoch(self) -> int:
        """How many batches show every sample once."""
        ...

    def batch(self, step: int) -> Any:
        """Batch number ``step``, counted from 0 over all epochs."""
        ...


@final
class Shuffled:
    """A part in a new order each epoch, each sample in its next view.

    Arguments:
        part: the samples.
        views: how they are changed.
        normalization: taken off after the views.
        batch: samples in a batch, for each process.
        seed: of the order and of the views.
        rank: this process among ``world``: all of them together show every sample once an epoch.
        world: how many processes there are.

    A batch has ``input``, ``target``, ``index`` (the sample's number) and ``view``. The last, smaller batch of an epoch
    is left out (the order is new each epoch, so no sample is left out for long); a part smaller than one batch repeats,
    each time in its next view.
    """

    def __init__(
        self, part: Part, views: Views, normalization: Normalization, *, batch: int, seed: int, rank: int = 0,
        world: int = 1,
    ) -> None:  # fmt: skip
        if not len(part):
            raise LimbeckError("there is no sample to train on: the training part, or its labelled share, is empty")
        if batch < 1:
            raise LimbeckError(f"a batch has at least 1 sample, not {batch}")
        self._part, self._views, self._normalization = part, views, normalization
        self._batch, self._seed, self._rank, self._together = batch, seed, rank, batch * world
        self._order: tuple[int, Tensor] = (-1, torch.empty(0))

    @property
    def steps_per_epoch(self) -> int:
        return max(1, len(self._part) // self._together)

    def batch(self, step: int) -> Batch:
        epoch, place = divmod(step, self.steps_per_epoch)
        start = place * self._together + self._rank * self._batch
        position = torch.arange(start, start + self._batch)
        which = self._permutation(epoch)[position % len(self._part)]
        number = self._part.number[which]
        rounds = -(-self._together // len(self._part))  # 1, or how often a small part is shown in one batch
        view = self._views.number(epoch * rounds + position // len(self._part))
        images = self._views.apply(self._part.read(which), number, view, seed=self._seed)
        return {
            "input": self._normalization.apply(images),
            "target": self._part.target[which],
            "index": number,
            "view": view,
        }

    def _permutation(self, epoch: int) -> Tensor:
        if self._order[0] != epoch:
            self._order = (epoch, torch.randperm(len(self._part), generator=generator(self._seed, _ORDER, epoch)))
        return self._order[1]


@final
class Looped:
    """Any iterable of batches (a ``DataLoader``), begun again each epoch.

    Its order is its own, so a resumed run goes on at the right place of another order, unless the loader is seeded.
    """

    def __init__(self, loader: Iterable[Any]) -> None:
        try:
            self.steps_per_epoch = len(loader)  # type: ignore[arg-type]
        except TypeError:
            raise LimbeckError("a loader has to have a length; give a DataLoader over a map-style data set") from None
        if not self.steps_per_epoch:
            raise LimbeckError("the loader gives no batch")
        self._loader, self._next = loader, -1
        self._batches: Iterator[Any] = iter(())

    def batch(self, step: int) -> Any:
        epoch, place = divmod(step, self.steps_per_epoch)
        if step != self._next or place == 0:
            if (tell := getattr(getattr(self._loader, "sampler", None), "set_epoch", None)) is not None:
                tell(epoch)  # without it, a DistributedSampler gives each epoch the same order
            self._batches = iter(self._loader)
            for _ in range(place):
                self._following(place)
        self._next = step + 1
        return self._following(place)

    def _following(self, place: int) -> Any:
        try:
            return next(self._batches)
        except StopIteration:
            raise LimbeckError(
                f"the loader says that it has {self.steps_per_epoch} batches and did not give number {place + 1}: give "
                "one that can be begun again and has the length it says"
            ) from None
