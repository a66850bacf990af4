"""Groups of samples that belong to one source: a speaker, an identity, a video. No group is in two splits."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.data.counter_rng import derive_seed

if TYPE_CHECKING:
    from limbeck.data.split import Split

__all__ = ["groups_of_paths", "require_disjoint_groups", "select_groups", "to_groups"]

_MAX_TRIES = 10


def to_groups(values: Any, count: int) -> Tensor:
    """Groups as integers ``[count]``: integers are unchanged, names are hashed.

    >>> to_groups([7, 7, 2], 3)
    tensor([7, 7, 2])
    >>> to_groups(["ann", "bob", "ann"], 3).unique().numel()
    2

    Raises:
        LimbeckError: not ``[count]``, or neither integers nor names.
    """
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if array.shape != (count,):
        raise LimbeckError(f"groups must be [{count}], one for each sample, got {list(array.shape)}")
    if array.dtype.kind in "iub":
        return torch.from_numpy(array.astype(np.int64))
    if array.dtype.kind not in "USO" or not all(isinstance(value, str | int) for value in array.tolist()):
        raise LimbeckError(f"groups must be integers or names, got {array.dtype}: convert them")
    hashes = {
        value: int.from_bytes(hashlib.blake2b(str(value).encode(), digest_size=8).digest(), "big", signed=True)
        for value in set(array.tolist())
    }
    return torch.tensor([hashes[value] for value in array.tolist()])


def groups_of_paths(paths: Sequence[Path], pattern: str | None, root: Path) -> Tensor | None:
    """The group of each file by a regular expression over its path in ``root``: its first group, or the whole match.

    >>> groups_of_paths([Path("a/cat/ann_1.png"), Path("a/dog/ann_2.png")], r"/([a-z]+)_", Path("a")).unique().numel()
    1

    Raises:
        LimbeckError: ``pattern`` is not a regular expression, or does not match a path.
    """
    if pattern is None:
        return None
    try:
        expression = re.compile(pattern)
    except (re.error, RecursionError) as error:
        raise LimbeckError(f"group_pattern must be a regular expression, got {pattern!r} ({error})") from error
    names = []
    for path in paths:
        match = expression.search(path.relative_to(root).as_posix())
        if match is None:
            raise LimbeckError(
                f"group_pattern: {pattern!r} must match the path of each file, and does not match {path}"
            )
        names.append(match[1] if expression.groups else match[0])
    return to_groups(names, len(paths))


def select_groups(target: Tensor, groups: Tensor, fraction: float, *, seed: int, purpose: int) -> Tensor:
    """``[n]`` booleans, true for whole groups with about ``fraction`` of the samples of each class.

    Groups are taken in a random order while they bring the number of samples by class nearer to the fraction (in the
    L1 distance); the best of several orders is used. scikit-learn's ``StratifiedGroupKFold`` makes folds of equal size,
    so a fraction such as 0.15 is out of its reach.

    Args:
        target: ``[n]`` class indices.
        groups: ``[n]`` integers.
        fraction: of the samples, in 0..1.
        seed: seed of the data.
        purpose: another one for each use of the seed.

    Raises:
        LimbeckError: there are fewer than 2 groups.
    """
    group_index, class_index = (torch.unique(values, return_inverse=True)[1].numpy() for values in (groups, target))
    num_groups = int(group_index.max()) + 1
    if num_groups < 2:
        raise LimbeckError("a split by groups must have at least 2 groups, got 1: add groups, or do not set them")
    counts = np.zeros((num_groups, int(class_index.max()) + 1))
    np.add.at(counts, (group_index, class_index), 1)
    goal, rng = fraction * counts.sum(axis=0), np.random.default_rng(derive_seed(seed, purpose))
    best_distance, best = np.inf, np.zeros(num_groups, bool)
    for _ in range(max(1, min(_MAX_TRIES, 100_000 // num_groups))):
        selected, missing, order = np.zeros(num_groups, bool), goal.copy(), rng.permutation(num_groups)
        for group in order:
            if selected.sum() < num_groups - 1 and np.abs(missing - counts[group]).sum() < np.abs(missing).sum():
                selected[group], missing = True, missing - counts[group]
        if not selected.any():  # each group is larger than twice the goal
            group = order[np.abs(goal - counts[order]).sum(axis=1).argmin()]
            selected[group], missing = True, goal - counts[group]
        if (distance := np.abs(missing).sum()) < best_distance:
            best_distance, best = distance, selected
    return torch.from_numpy(best[group_index])


def require_disjoint_groups(splits: Mapping[str, Split]) -> None:
    """Refuse splits that share a group.

    Raises:
        LimbeckError: a group is in two splits; the message has a sample of each.
    """
    owners: dict[int, tuple[str, int]] = {}
    for name, split in splits.items():
        if split.groups is None:
            continue
        values, inverse = torch.unique(split.groups, return_inverse=True)
        first = torch.full((len(values),), len(split)).scatter_reduce(
            0, inverse, torch.arange(len(split)), "amin", include_self=True
        )
        for group, position in zip(values.tolist(), first.tolist(), strict=True):
            sample_id = int(split.sample_ids[position])
            other_name, other_id = owners.setdefault(group, (name, sample_id))
            if other_name != name:
                raise LimbeckError(
                    f"a group must be in one split only, and sample {other_id} of the {other_name} split is of the "
                    f"group of sample {sample_id} of the {name} split: move one, or do not set groups"
                )
