"""Cutting a data set into parts by seed, class by class, so that each part has the classes in their proportion."""

from __future__ import annotations

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.data.counter_rng import generator
from limbeck.data.split import UNLABELLED, Part

__all__ = ["cut", "hide_labels", "take"]

_CUT, _TAKE, _LABELS = 1, 2, 3


def cut(part: Part, share: float, *, seed: int, purpose: int = _CUT) -> tuple[Part, Part]:
    """Split off ``share`` of ``part``: (what is left, what was cut), by ``seed``, in proportion by class.

    >>> from limbeck.data.split import Stored
    >>> part = Part.whole(Stored(torch.zeros(10, 1)), torch.tensor([0, 1] * 5))
    >>> left, off = cut(part, 0.2, seed=0)
    >>> len(left), sorted(off.target.tolist())
    (8, [0, 1])
    """
    if not 0 < share < 1:
        raise LimbeckError(f"a part is cut off by a share between 0 and 1, not {share}")
    chosen = _by_class(part.target, round(share * len(part)), seed=seed, purpose=purpose)
    return part.subset(~chosen), part.subset(chosen)


def take(part: Part, many: int, *, seed: int) -> Part:
    """``many`` samples of ``part``, in proportion by class."""
    if not 0 < many <= len(part):
        raise LimbeckError(f"`take` is a number of training samples from 1 to {len(part)}, not {many}")
    return part.subset(_by_class(part.target, many, seed=seed, purpose=_TAKE))


def hide_labels(part: Part, many: int, *, seed: int) -> Part:
    """The same samples, with a label left on ``many`` of them, evenly by class, and −100 on the others."""
    known = part.target != UNLABELLED
    classes, most = len(torch.unique(part.target[known])), int(known.sum())
    if not max(classes, 1) <= many <= most:
        raise LimbeckError(
            f"`labels` is how many training samples keep their label: from {classes} (one a class) to {most}, "
            f"not {many}"
        )
    kept = torch.zeros_like(known)
    kept[known] = _by_class(part.target[known], many, seed=seed, purpose=_LABELS, evenly=True)
    return Part(part.images, part.places, torch.where(kept, part.target, UNLABELLED), part.number)


def _by_class(target: Tensor, many: int, *, seed: int, purpose: int, evenly: bool = False) -> Tensor:
    """``[n]`` booleans, ``many`` of them true.

    Samples stand in the order in which they would be taken: the j-th of a class with n members comes at (j + u) / n in
    proportion, or at j evenly; ties and the order within a class are by seed.
    """
    draw = generator(seed, purpose)
    jitter = torch.rand(len(target), generator=draw, dtype=torch.float64)
    when = torch.empty(len(target), dtype=torch.float64)
    for label in torch.unique(target).tolist():
        members = (target == label).nonzero().squeeze(1)
        members = members[torch.randperm(len(members), generator=draw)]
        turn = torch.arange(len(members), dtype=torch.float64)
        when[members] = turn + jitter[members] if evenly else (turn + jitter[members]) / len(members)
    chosen = torch.zeros(len(target), dtype=torch.bool)
    chosen[when.argsort(stable=True)[:many]] = True
    return chosen
