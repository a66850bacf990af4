"""Stratified splits by seed: each split has the classes in the proportions of the data set."""

from __future__ import annotations

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.data.counter_rng import make_generator
from limbeck.data.split import UNLABELED, Split

__all__ = ["hide_labels", "stratified_split", "stratified_subsample"]

_SPLIT, _SUBSAMPLE, _LABELS = 1, 2, 3


def stratified_split(split: Split, fraction: float, *, seed: int, purpose: int = _SPLIT) -> tuple[Split, Split]:
    """Split off ``fraction`` of ``split``: (what is left, what was cut), by ``seed``, in proportion by class.

    >>> from limbeck.data.split import InMemory
    >>> part = Split.from_images(InMemory(torch.zeros(10, 1)), torch.tensor([0, 1] * 5))
    >>> left, off = stratified_split(part, 0.2, seed=0)
    >>> len(left), sorted(off.target.tolist())
    (8, [0, 1])
    """
    if not 0 < fraction < 1:
        raise LimbeckError(f"a split must be a fraction between 0 and 1, got {fraction}")
    selected = _select_stratified(split.target, round(fraction * len(split)), seed=seed, purpose=purpose)
    return split.subset(~selected), split.subset(selected)


def stratified_subsample(split: Split, num_samples: int, *, seed: int) -> Split:
    """``num_samples`` samples of ``split``, in proportion by class."""
    if not 0 < num_samples <= len(split):
        raise LimbeckError(f"`num_samples` is a number of training samples from 1 to {len(split)}, not {num_samples}")
    return split.subset(_select_stratified(split.target, num_samples, seed=seed, purpose=_SUBSAMPLE))


def hide_labels(split: Split, num_labeled: int, *, seed: int) -> Split:
    """The same samples, with a label left on ``num_labeled`` of them, evenly by class, and −100 on the others."""
    is_labeled = split.target != UNLABELED
    classes, maximum = len(torch.unique(split.target[is_labeled])), int(is_labeled.sum())
    if not max(classes, 1) <= num_labeled <= maximum:
        raise LimbeckError(
            f"`num_labeled` is how many training samples keep their label: from {classes} (one a class) to {maximum}, "
            f"not {num_labeled}"
        )
    keep = torch.zeros_like(is_labeled)
    keep[is_labeled] = _select_stratified(
        split.target[is_labeled], num_labeled, seed=seed, purpose=_LABELS, evenly=True
    )
    return Split(split.images, split.indices, torch.where(keep, split.target, UNLABELED), split.sample_ids)


def _select_stratified(target: Tensor, count: int, *, seed: int, purpose: int, evenly: bool = False) -> Tensor:
    """``[n]`` booleans, ``count`` of them true.

    Samples stand in the order in which they would be taken: the j-th of a class with n members comes at (j + u) / n in
    proportion, or at j evenly; ties and the order within a class are by seed.
    """
    rng = make_generator(seed, purpose)
    jitter = torch.rand(len(target), generator=rng, dtype=torch.float64)
    sort_key = torch.empty(len(target), dtype=torch.float64)
    for label in torch.unique(target).tolist():
        members = (target == label).nonzero().squeeze(1)
        members = members[torch.randperm(len(members), generator=rng)]
        rank = torch.arange(len(members), dtype=torch.float64)
        sort_key[members] = rank + jitter[members] if evenly else (rank + jitter[members]) / len(members)
    selected = torch.zeros(len(target), dtype=torch.bool)
    selected[sort_key.argsort(stable=True)[:count]] = True
    return selected
