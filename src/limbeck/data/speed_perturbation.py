"""Speed perturbation: each training clip at several speeds, as further samples with the same target.

Ko et al., Interspeech 2015, https://www.isca-archive.org/interspeech_2015/ko15_interspeech.html: the signal is
resampled, so a clip at speed 1.1 is shorter by 1.1 and its pitch is higher by 1.1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from typing import Final

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.data.module import DataModule
from limbeck.data.sequence_store import SequenceStore

__all__ = ["add_speeds", "change_speed"]

_SLOWEST, _FASTEST = 0.5, 2.0
_MAX_DENOMINATOR: Final = 100
_MAX_SPEEDS: Final = 16


def change_speed(samples: Tensor, rate: int, speed: float) -> tuple[Tensor, int]:
    """``samples`` ``[n]`` played ``speed`` times as fast, ``[⌈n / speed⌉]``, and the unchanged sampling rate.

    Resampled by a polyphase filter (``scipy.signal.resample_poly``).

    >>> change_speed(torch.zeros(900), 8000, 0.9)[0].shape
    torch.Size([1000])
    """
    if speed == 1:
        return samples, rate
    from scipy.signal import resample_poly

    ratio = Fraction(speed).limit_denominator(_MAX_DENOMINATOR)
    return torch.from_numpy(resample_poly(samples.numpy(), ratio.denominator, ratio.numerator).copy()), rate


def add_speeds(data: DataModule, speeds: Sequence[float], make_frames: Callable[[int, float], Tensor]) -> DataModule:
    """``data`` with each training sample at each of ``speeds``; samples without a label have none at any speed.

    The ids of new samples follow those of all splits, so that caches and orders of the others do not change.

    Args:
        data: of sequences, with the clips at speed 1.
        speeds: from 0.5 to 2, 1 among them.
        make_frames: the input ``[frames, mels]`` of the clip at an index of the store, at a speed.

    Raises:
        LimbeckError: a speed is out of range or occurs twice, or 1 is not among them.
    """
    ordered = sorted(speeds)
    is_valid = len(ordered) <= _MAX_SPEEDS and all(_SLOWEST <= speed <= _FASTEST for speed in ordered)
    if not is_valid or 1 not in ordered or any(b - a < 1 / _MAX_DENOMINATOR - 1e-9 for a, b in pairwise(ordered)):
        raise LimbeckError(
            f"speeds must be at most {_MAX_SPEEDS} numbers from {_SLOWEST} to {_FASTEST}, at least 0.01 apart, 1 among "
            f"them, got {list(speeds)}"
        )
    train, store = data.train, data.train.sequences
    assert store is not None
    ids_end = 1 + max(int(split.sample_ids.max()) for split in (train, data.validation))
    first_id = max(ids_end, len(store))  # the test split is of the same store
    name = store.input_name
    fields = {key: list(sequences) for key, sequences in store.fields.items()}
    indices, ids = [train.indices], [train.sample_ids]
    for number, speed in enumerate(speed for speed in speeds if speed != 1):
        start = len(fields[name])
        for index in train.indices.tolist():
            for key in fields:
                fields[key].append(make_frames(index, speed) if key == name else fields[key][index])
        indices.append(torch.arange(start, len(fields[name])))
        ids.append(train.sample_ids + (number + 1) * first_id)
    if len(indices) == 1:
        return data
    groups = None if train.groups is None else train.groups.repeat(len(indices))
    images = SequenceStore(fields, store.pad_values, store.masks)
    train = replace(
        train, images=images, indices=torch.cat(indices), sample_ids=torch.cat(ids), groups=groups,
        target=train.target.repeat(len(indices)),
    )  # fmt: skip
    return replace(data, train=train)
