"""Batches of which one half depends on the other: pairs of one class, and samples that come again.

Both halve the batches of :class:`~limbeck.data.batch_sampler.BatchSampler` and keep the size of the batch, so as many
images are shown in an epoch as without, and as many gradients computed: two epochs make one round of all samples.
Like every stream they are a pure function of seed and step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, final

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.data.batch_sampler import Batch, BatchSampler, BatchStream
from limbeck.data.counter_rng import make_generator
from limbeck.data.split import UNLABELED, Split
from limbeck.utils.settings import BatchPairing

__all__ = ["RepeatPrevious", "SameClassPairs", "choose_partners", "pair_batches"]

_PARTNER: Final = 7


@final
class SameClassPairs:
    """Each sample with another one of its class: row i of the first half and row i of the second (CS-KD).

    Yun et al., CVPR 2020, https://arxiv.org/abs/2003.13964.

    Arguments:
        half_batches: sampler of the first half, with half the batch size.
    """

    def __init__(self, half_batches: BatchSampler) -> None:
        self._half_batches, self._class_members = half_batches, _group_by_class(half_batches.split)

    @property
    def steps_per_epoch(self) -> int:
        return max(1, self._half_batches.steps_per_epoch // 2)

    @property
    def split(self) -> Split:
        """The samples."""
        return self._half_batches.split

    def batch(self, step: int) -> Batch:
        indices, views = self._half_batches.batch_indices(step)
        rng = make_generator(self._half_batches.order_seed, _PARTNER, step, self._half_batches.rank)
        draws = torch.rand(len(indices), generator=rng, dtype=torch.float64)
        partners = choose_partners(indices, self._half_batches.split.target, self._class_members, draws)
        return self._half_batches.load(torch.cat([indices, partners]), torch.cat([views, views]))


@final
class RepeatPrevious:
    """The first half of each batch is the second half of the one before, each sample in its next view (DLB).

    Shen et al., CVPR 2022, https://arxiv.org/abs/2203.16172. The first batch of a training has one half only. Where
    views are made anew each time, a sample comes again in another one; where each has ``num_views`` of them, in its
    next one.

    Arguments:
        half_batches: sampler of the new half, with half the batch size.
    """

    def __init__(self, half_batches: BatchSampler) -> None:
        self._half_batches = half_batches

    @property
    def steps_per_epoch(self) -> int:
        return max(1, self._half_batches.steps_per_epoch // 2)

    @property
    def split(self) -> Split:
        """The samples."""
        return self._half_batches.split

    def batch(self, step: int) -> Batch:
        indices, views = self._half_batches.batch_indices(step, num_showings=2)
        if not step:
            return self._half_batches.load(indices, views)
        previous_indices, previous_views = self._half_batches.batch_indices(step - 1, num_showings=2, showing_index=1)
        return self._half_batches.load(torch.cat([previous_indices, indices]), torch.cat([previous_views, views]))


def pair_batches(half_batches: BatchStream, pairing: BatchPairing) -> BatchStream:
    """``half_batches``, of half the size, as pairs of the ``same_class`` or with those that ``repeat_previous``
    ones.
    """
    if not isinstance(half_batches, BatchSampler):
        raise LimbeckError(
            f"a {type(half_batches).__name__} deals out its batches by itself, and the pairing {pairing!r} was asked "
            "for: use "
            "limbeck's own data, or leave batch_pairing away"
        )
    if pairing not in _PAIRINGS:
        raise LimbeckError(f"batch_pairing is one of none, {', '.join(_PAIRINGS)}, not {pairing!r}")
    return _PAIRINGS[pairing](half_batches)


def choose_partners(indices: Tensor, target: Tensor, class_members: dict[int, Tensor], draws: Tensor) -> Tensor:
    """For each of ``indices`` another one of its class, by ``draws`` from 0 to below 1.

    ``class_members`` are the indices of each class, in order. A sample that is the only one of its class, or has no
    label, is paired with itself.

    >>> target = torch.tensor([0, 1, 0, 0])
    >>> choose_partners(torch.tensor([0, 1, 2]), target, {0: torch.tensor([0, 2, 3])}, torch.tensor([0.0, 0.5, 0.9]))
    tensor([2, 1, 3])
    """
    chosen = indices.clone()
    for row, (index, label) in enumerate(zip(indices.tolist(), target[indices].tolist(), strict=True)):
        if label in class_members:
            members_of_class = class_members[label]
            # Drawn among the others: those from the sample on are one further.
            offset = int(draws[row] * (len(members_of_class) - 1))
            chosen[row] = members_of_class[offset + int(offset >= int(torch.searchsorted(members_of_class, index)))]
    return chosen


def _group_by_class(split: Split) -> dict[int, Tensor]:
    """The places of each class that has at least two."""
    classes, counts = torch.unique(split.target, return_counts=True)
    usable = [int(label) for label, n in zip(classes, counts, strict=True) if n > 1 and label != UNLABELED]
    if not usable:
        raise LimbeckError("same-class pairs need a class with two labeled samples, and this split has none")
    return {label: (split.target == label).nonzero().squeeze(1) for label in usable}


_PAIRINGS: Final[Mapping[str, Callable[[BatchSampler], BatchStream]]] = {
    "same_class": SameClassPairs,
    "repeat_previous": RepeatPrevious,
}
