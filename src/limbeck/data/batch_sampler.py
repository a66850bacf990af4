"""Batches by number: batch 412 is a pure function of the seed, so resuming is asking for the next number."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Protocol, final

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.data.augmentation import Augmentation
from limbeck.data.counter_rng import make_generator
from limbeck.data.fingerprint import compute_fingerprint
from limbeck.data.normalization import Normalization
from limbeck.data.split import Split

__all__ = ["Batch", "BatchSampler", "BatchStream", "LoaderAdapter"]

Batch = dict[str, Tensor]
_ORDER_STREAM = 4


class BatchStream(Protocol):
    """Training batches, each known by its step."""

    @property
    def steps_per_epoch(self) -> int:
        """How many batches show every sample once."""
        ...

    def batch(self, step: int) -> Any:
        """Batch number ``step``, counted from 0 over all epochs."""
        ...


@final
class BatchSampler:
    """Batches of a split in a new order each epoch, each sample in its next view.

    Arguments:
        split: the samples.
        augmentation: how they are changed.
        normalization: taken off after the views.
        batch_size: samples in a batch, for each process.
        seed: of the views, and of the order where ``order_seed`` is ``None``.
        order_seed: seed of the order.
        classes: how many there are; needed where views mix images, and with them their labels.
        rank: this process among ``world_size``: all of them together show every sample once an epoch.
        world_size: how many processes there are.

    A batch has ``input``, ``target``, ``sample_id`` and ``view``. The last, smaller batch of an epoch
    is left out (the order is new each epoch, so no sample is left out for long); a split smaller than one batch
    repeats, each time in its next view. With ``augmentation.repeats`` M, a batch shows each of its samples in M
    views, and M epochs, of as many steps as ever, make one round in which all samples are shown M times.
    """

    def __init__(
        self, split: Split, augmentation: Augmentation, normalization: Normalization, *, batch_size: int, seed: int,
        order_seed: int | None = None, classes: int | None = None, rank: int = 0, world_size: int = 1,
    ) -> None:  # fmt: skip
        if not len(split):
            raise LimbeckError("there is no sample to train on: the training split, or its labeled subset, is empty")
        if batch_size < 1:
            raise LimbeckError(f"a batch has at least 1 sample, not {batch_size}")
        if batch_size % augmentation.repeats:
            raise LimbeckError(
                f"a batch is a multiple of repeats, since each sample is shown in {augmentation.repeats} views, and "
                f"{batch_size} is none: set training.batch_size or augment.repeats"
            )
        if augmentation.mix_transforms and classes is None:
            raise LimbeckError("views that mix images mix their labels too: say how many classes there are")
        self._split, self._augmentation, self._normalization = split, augmentation, normalization
        self._batch_size, self._seed, self._classes = batch_size, seed, classes
        self.rank, self._global_batch_size, self.order_seed = (
            rank,
            batch_size * world_size,
            seed if order_seed is None else order_seed,
        )
        self._epoch_order: tuple[int, Tensor] = (-1, torch.empty(0))

    @property
    def steps_per_epoch(self) -> int:
        return max(1, len(self._split) // self._global_batch_size)

    @property
    def split(self) -> Split:
        """The samples; the numbers that :meth:`load` takes are places among them."""
        return self._split

    @property
    def num_views(self) -> int:
        """How many different views a sample has: 1 where nothing changes it, 0 where each time is a fresh one."""
        return self._augmentation.num_views if self._augmentation.transforms else 1

    def fingerprint(self) -> str:
        """A hash that changes when anything does that decides the images; see :func:`limbeck.data.fingerprint`."""
        return compute_fingerprint(self._split, self._augmentation, self._normalization, seed=self._seed)

    def batch(self, step: int) -> Batch:
        return self.load(*self.batch_indices(step))

    def batch_indices(self, step: int, *, num_showings: int = 1, showing_index: int = 0) -> tuple[Tensor, Tensor]:
        """Indices into the split and view numbers of batch number ``step``, both ``[batch]``.

        Where each batch is shown ``num_showings`` times, these are the views of the one numbered ``showing_index``.
        """
        repeats = self._augmentation.repeats
        round_, step_in_round = divmod(step, self.steps_per_epoch * repeats)
        start = (step_in_round * self._global_batch_size + self.rank * self._batch_size) // repeats
        position = torch.arange(start, start + self._batch_size // repeats)
        # 1, or how often a small split is repeated in one batch
        rounds = -(-self._global_batch_size // len(self._split))
        showings = ((round_ * rounds + position // len(self._split)) * num_showings + showing_index) * repeats
        indices = self._permutation(round_)[position % len(self._split)].repeat_interleave(repeats)
        showings = (showings[:, None] + torch.arange(repeats)).flatten()
        # Without views there is one image, and its number is 0 however often it is shown.
        return indices, self._augmentation.view_index(showings) if self._augmentation.transforms else torch.zeros_like(
            showings
        )

    def load(self, sample_indices: Tensor, views: Tensor) -> Batch:
        """The samples at ``sample_indices`` of the split in ``views``, both ``[batch]``.

        The same image as in any other batch that shows this view of this sample. Where views change images, a
        sample that occurs several times is read once.
        """
        sample_ids, target = self._split.sample_ids[sample_indices], self._split.target[sample_indices]
        images = self._augment(sample_indices, views)
        mix = self._augmentation.sample_mix(sample_ids, views, seed=self._seed, population=len(self._split))
        if mix is not None:
            assert self._classes is not None
            partner_images = self._augment(mix.partners, views[mix.rows])
            images, fraction = mix.mix_images(images, partner_images)
            target = mix.mix_target(target, self._split.target[mix.partners], fraction, classes=self._classes)
        return {"input": self._normalization.apply(images), "target": target, "sample_id": sample_ids, "view": views}

    def _augment(self, indices: Tensor, views: Tensor) -> Tensor:
        if not self._augmentation.transforms:
            return self._split.read(indices)
        unique, inverse = torch.unique(indices, return_inverse=True)
        images = self._split.read(indices) if len(unique) == len(indices) else self._split.read(unique)[inverse]
        return self._augmentation.apply(images, self._split.sample_ids[indices], views, seed=self._seed)

    def _permutation(self, round_: int) -> Tensor:
        if self._epoch_order[0] != round_:
            self._epoch_order = (
                round_,
                torch.randperm(len(self._split), generator=make_generator(self.order_seed, _ORDER_STREAM, round_)),
            )
        return self._epoch_order[1]


@final
class LoaderAdapter:
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
        self._loader, self._next_step = loader, -1
        self._batches: Iterator[Any] = iter(())

    def batch(self, step: int) -> Any:
        epoch, position = divmod(step, self.steps_per_epoch)
        if step != self._next_step or position == 0:
            if (set_epoch := getattr(getattr(self._loader, "sampler", None), "set_epoch", None)) is not None:
                set_epoch(epoch)  # without it, a DistributedSampler gives each epoch the same order
            self._batches = iter(self._loader)
            for _ in range(position):
                self._next_batch(position)
        self._next_step = step + 1
        return self._next_batch(position)

    def _next_batch(self, position: int) -> Any:
        try:
            return next(self._batches)
        except StopIteration:
            raise LimbeckError(
                f"the loader says that it has {self.steps_per_epoch} batches and did not give number "
                f"{position + 1}: give "
                "one that can be begun again and has the length it says"
            ) from None
