"""Batches whose second half depends on the first: pairs of one class, and repeated samples.

Both have the size of ordinary batches, of which two epochs show all samples, and are a pure function of seed and step.
"""

from __future__ import annotations

from typing import Final, final

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.data.batch_sampler import Batch, BatchSampler, BatchStream
from limbeck.data.counter_rng import make_generator
from limbeck.data.split import UNLABELED, Split
from limbeck.utils.settings import BatchPairing

__all__ = ["RepeatPrevious", "SameClassPairs", "choose_partners", "pair_batches"]

_PARTNER_STREAM: Final = 7


@final
class SameClassPairs:
    """Pairs of samples of one class: row i of the first half and row i of the second (CS-KD).

    Yun et al., CVPR 2020, https://arxiv.org/abs/2003.13964.

    Args:
        half_batches: sampler of the first half, with half the batch size.
    """

    def __init__(self, half_batches: BatchSampler) -> None:
        self._half_batches, self.split = half_batches, half_batches.split
        self._class_members = _group_by_class(self.split)

    @property
    def steps_per_epoch(self) -> int:
        return max(1, self._half_batches.steps_per_epoch // 2)

    def batch(self, step: int) -> Batch:
        indices, views = self._half_batches.batch_indices(step)
        rng = make_generator(self._half_batches.order_seed, _PARTNER_STREAM, step, self._half_batches.rank)
        draws = torch.rand(len(indices), generator=rng, dtype=torch.float64)
        partners = choose_partners(indices, self.split.target, self._class_members, draws)
        return self._half_batches.load_at(step, torch.cat([indices, partners]), torch.cat([views, views]))


@final
class RepeatPrevious:
    """The first half of a batch repeats the second half of the previous one, each sample in its next view (DLB).

    Shen et al., CVPR 2022, https://arxiv.org/abs/2203.16172. The first batch of a training has only the second half.

    Args:
        half_batches: sampler of the second half, with half the batch size.
    """

    def __init__(self, half_batches: BatchSampler) -> None:
        self._half_batches, self.split = half_batches, half_batches.split

    @property
    def steps_per_epoch(self) -> int:
        return max(1, self._half_batches.steps_per_epoch // 2)

    def batch(self, step: int) -> Batch:
        indices, views = self._half_batches.batch_indices(step, num_showings=2)
        if not step:
            return self._half_batches.load_at(step, indices, views)
        previous_indices, previous_views = self._half_batches.batch_indices(step - 1, num_showings=2, showing_index=1)
        all_indices, all_views = torch.cat([previous_indices, indices]), torch.cat([previous_views, views])
        return self._half_batches.load_at(step, all_indices, all_views)


def pair_batches(half_batches: BatchStream, pairing: BatchPairing) -> BatchStream:
    """``half_batches``, of half the batch size, paired by ``pairing``: ``same_class`` or ``repeat_previous``."""
    if not isinstance(half_batches, BatchSampler):
        raise LimbeckError(
            f"batch_pairing {pairing!r} needs batches of limbeck.data, got a {type(half_batches).__name__}: use "
            "limbeck.data, or remove batch_pairing"
        )
    if pairing == "same_class":
        return SameClassPairs(half_batches)
    if pairing == "repeat_previous":
        return RepeatPrevious(half_batches)
    raise LimbeckError(f"batch_pairing must be none, same_class or repeat_previous, got {pairing!r}")


def choose_partners(indices: Tensor, target: Tensor, class_members: dict[int, Tensor], draws: Tensor) -> Tensor:
    """For each of ``indices`` another sample of its class, by ``draws`` in [0, 1).

    ``class_members`` are the indices of each class, in order. A sample without a label, or the only one of its class,
    is paired with itself.

    >>> target = torch.tensor([0, 1, 0, 0])
    >>> choose_partners(torch.tensor([0, 1, 2]), target, {0: torch.tensor([0, 2, 3])}, torch.tensor([0.0, 0.5, 0.9]))
    tensor([2, 1, 3])
    """
    partners = indices.clone()
    for row, (index, label) in enumerate(zip(indices.tolist(), target[indices].tolist(), strict=True)):
        if (members := class_members.get(label)) is not None:
            # Drawn among the others: those from the sample itself on are shifted by one.
            offset = int(draws[row] * (len(members) - 1))
            partners[row] = members[offset + int(offset >= int(torch.searchsorted(members, index)))]
    return partners


def _group_by_class(split: Split) -> dict[int, Tensor]:
    """The indices of each class with at least two samples."""
    classes, counts = torch.unique(split.target, return_counts=True)
    labels = [int(label) for label, n in zip(classes, counts, strict=True) if n > 1 and label != UNLABELED]
    if not labels:
        raise LimbeckError("same-class pairs need a class with two labeled samples, got none: label more samples")
    return {label: (split.target == label).nonzero().squeeze(1) for label in labels}
