"""Batches by number: batch 412 is a pure function of the seed, so resuming is asking for the next number."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Protocol, final

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.data.augmentation import Views
from limbeck.data.counter_rng import generator
from limbeck.data.fingerprint import identity
from limbeck.data.normalization import Normalization
from limbeck.data.split import Part

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
        seed: of the views, and of the order where ``order`` is ``None``.
        order: seed of the order.
        classes: how many there are; needed where views mix pictures, and with them their labels.
        rank: this process among ``world``: all of them together show every sample once an epoch.
        world: how many processes there are.

    A batch has ``input``, ``target``, ``index`` (the sample's number) and ``view``. The last, smaller batch of an epoch
    is left out (the order is new each epoch, so no sample is left out for long); a part smaller than one batch repeats,
    each time in its next view. With ``views.per_decode`` M, a batch shows each of its samples in M views, and M epochs,
    of as many steps as ever, make one round in which all samples are shown M times.
    """

    def __init__(
        self, part: Part, views: Views, normalization: Normalization, *, batch: int, seed: int,
        order: int | None = None, classes: int | None = None, rank: int = 0, world: int = 1,
    ) -> None:  # fmt: skip
        if not len(part):
            raise LimbeckError("there is no sample to train on: the training part, or its labelled share, is empty")
        if batch < 1:
            raise LimbeckError(f"a batch has at least 1 sample, not {batch}")
        if batch % views.per_decode:
            raise LimbeckError(
                f"a batch is a multiple of per_decode, since each sample is shown in {views.per_decode} views, and "
                f"{batch} is none: set training.batch or per_decode"
            )
        if views.mixings and classes is None:
            raise LimbeckError("views that mix pictures mix their labels too: say how many classes there are")
        self._part, self._views, self._normalization = part, views, normalization
        self._batch, self._seed, self._classes = batch, seed, classes
        self.rank, self._together, self.order_seed = rank, batch * world, seed if order is None else order
        self._order: tuple[int, Tensor] = (-1, torch.empty(0))

    @property
    def steps_per_epoch(self) -> int:
        return max(1, len(self._part) // self._together)

    @property
    def part(self) -> Part:
        """The samples; the numbers that :meth:`show` takes are places among them."""
        return self._part

    @property
    def views_per_sample(self) -> int:
        """How many different views a sample has: 1 where nothing changes it, 0 where each time is a fresh one."""
        return self._views.per_sample if self._views.transforms else 1

    def identity(self) -> str:
        """A hash that changes when anything does that decides the pictures; see :func:`limbeck.data.fingerprint`."""
        return identity(self._part, self._views, self._normalization, seed=self._seed)

    def batch(self, step: int) -> Batch:
        return self.show(*self.places(step))

    def places(self, step: int, *, times: int = 1, time: int = 0) -> tuple[Tensor, Tensor]:
        """Which samples batch number ``step`` shows, as places in the part, and in which views, both ``[batch]``.

        Where each batch is shown ``times`` times, these are the views of the one numbered ``time``.
        """
        many = self._views.per_decode
        round_, place = divmod(step, self.steps_per_epoch * many)
        start = (place * self._together + self.rank * self._batch) // many
        position = torch.arange(start, start + self._batch // many)
        rounds = -(-self._together // len(self._part))  # 1, or how often a small part is shown in one batch
        showing = ((round_ * rounds + position // len(self._part)) * times + time) * many
        which = self._permutation(round_)[position % len(self._part)].repeat_interleave(many)
        showing = (showing[:, None] + torch.arange(many)).flatten()
        # Without views there is one picture, and its number is 0 however often it is shown.
        return which, self._views.number(showing) if self._views.transforms else torch.zeros_like(showing)

    def show(self, which: Tensor, view: Tensor) -> Batch:
        """The samples at the places ``which`` of the part in the views ``view``, both ``[batch]``.

        The same picture as in any other batch that shows this view of this sample. Where views change pictures, a
        sample that occurs several times is read once.
        """
        number, target = self._part.number[which], self._part.target[which]
        images = self._changed(which, view)
        mixture = self._views.mixture(number, view, seed=self._seed, among=len(self._part))
        if mixture is not None:
            assert self._classes is not None
            others = self._changed(mixture.partner, view[mixture.rows])
            images, left = mixture.pictures(images, others)
            target = mixture.target(target, self._part.target[mixture.partner], left, classes=self._classes)
        return {"input": self._normalization.apply(images), "target": target, "index": number, "view": view}

    def _changed(self, which: Tensor, view: Tensor) -> Tensor:
        if not self._views.transforms:
            return self._part.read(which)
        once, again = torch.unique(which, return_inverse=True)
        images = self._part.read(which) if len(once) == len(which) else self._part.read(once)[again]
        return self._views.apply(images, self._part.number[which], view, seed=self._seed)

    def _permutation(self, round_: int) -> Tensor:
        if self._order[0] != round_:
            self._order = (
                round_,
                torch.randperm(len(self._part), generator=generator(self.order_seed, _ORDER, round_)),
            )
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
