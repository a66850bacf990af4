"""Batches of which one half depends on the other: pairs of one class, and samples that come again.

Both halve what :class:`~limbeck.data.batch_sampler.Shuffled` deals out, and keep the size of the batch, so as many
pictures are shown in an epoch as without, and as many gradients computed: two epochs make one round of all samples.
Like every stream they are a pure function of seed and step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Literal, final

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.data.batch_sampler import Batch, Shuffled, Stream
from limbeck.data.counter_rng import generator
from limbeck.data.split import UNLABELLED, Part

__all__ = ["Again", "Classmates", "Sampling", "partners", "sampled"]

Sampling = Literal["plain", "classmates", "again"]
_PARTNER: Final = 7


@final
class Classmates:
    """Each sample with another one of its class: row i of the first half and row i of the second (CS-KD).

    Yun et al., CVPR 2020, https://arxiv.org/abs/2003.13964.

    Arguments:
        halves: deals out the first half: batches of half the size.
    """

    def __init__(self, halves: Shuffled) -> None:
        self._halves, self._members = halves, _members(halves.part)

    @property
    def steps_per_epoch(self) -> int:
        return max(1, self._halves.steps_per_epoch // 2)

    @property
    def part(self) -> Part:
        """The samples."""
        return self._halves.part

    def batch(self, step: int) -> Batch:
        which, view = self._halves.places(step)
        drawn = generator(self._halves.order_seed, _PARTNER, step, self._halves.rank)
        draw = torch.rand(len(which), generator=drawn, dtype=torch.float64)
        other = partners(which, self._halves.part.target, self._members, draw)
        return self._halves.show(torch.cat([which, other]), torch.cat([view, view]))


@final
class Again:
    """The first half of each batch is the second half of the one before, each sample in its next view (DLB).

    Shen et al., CVPR 2022, https://arxiv.org/abs/2203.16172. The first batch of a training has one half only. Where
    views are made anew each time, a sample comes again in another one; where each has ``per_sample`` of them, in its
    next one.

    Arguments:
        halves: deals out what is new: batches of half the size.
    """

    def __init__(self, halves: Shuffled) -> None:
        self._halves = halves

    @property
    def steps_per_epoch(self) -> int:
        return max(1, self._halves.steps_per_epoch // 2)

    @property
    def part(self) -> Part:
        """The samples."""
        return self._halves.part

    def batch(self, step: int) -> Batch:
        which, view = self._halves.places(step, times=2)
        if not step:
            return self._halves.show(which, view)
        before, seen = self._halves.places(step - 1, times=2, time=1)
        return self._halves.show(torch.cat([before, which]), torch.cat([seen, view]))


def sampled(halves: Stream, how: Sampling) -> Stream:
    """``halves``, a stream of batches of half the size, as pairs of ``classmates`` or with what comes ``again``."""
    if not isinstance(halves, Shuffled):
        raise LimbeckError(
            f"a {type(halves).__name__} deals out its batches by itself, and the sampling {how!r} was asked for: use "
            "limbeck's own data, or leave sampling away"
        )
    if how not in _KINDS:
        raise LimbeckError(f"sampling is one of plain, {', '.join(_KINDS)}, not {how!r}")
    return _KINDS[how](halves)


def partners(which: Tensor, target: Tensor, members: dict[int, Tensor], draw: Tensor) -> Tensor:
    """For each place of ``which`` another one of its class, by ``draw`` from 0 to below 1.

    ``members`` are the places of each class, in order. A sample that is alone in its class, or has none, is its own.

    >>> target = torch.tensor([0, 1, 0, 0])
    >>> partners(torch.tensor([0, 1, 2]), target, {0: torch.tensor([0, 2, 3])}, torch.tensor([0.0, 0.5, 0.9]))
    tensor([2, 1, 3])
    """
    found = which.clone()
    for row, (place, label) in enumerate(zip(which.tolist(), target[which].tolist(), strict=True)):
        if label in members:
            others = members[label]
            # Drawn among the others: those from the sample on are one further.
            drawn = int(draw[row] * (len(others) - 1))
            found[row] = others[drawn + int(drawn >= int(torch.searchsorted(others, place)))]
    return found


def _members(part: Part) -> dict[int, Tensor]:
    """The places of each class that has at least two."""
    classes, many = torch.unique(part.target, return_counts=True)
    some = [int(label) for label, n in zip(classes, many, strict=True) if n > 1 and label != UNLABELLED]
    if not some:
        raise LimbeckError("pairs of one class take a class with two labelled samples, and this part has none")
    return {label: (part.target == label).nonzero().squeeze(1) for label in some}


_KINDS: Final[Mapping[str, Callable[[Shuffled], Stream]]] = {"classmates": Classmates, "again": Again}
