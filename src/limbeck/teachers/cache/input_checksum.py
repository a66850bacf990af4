"""A stamp of the picture that a teacher was asked about: two numbers by which another picture is known to be another.

They are the sum over places of the picture and the sum with fixed random signs, in float16. A user's own data set may
draw its pictures from anywhere, and files are told apart by less than all of their bytes; so the stamp is compared with
the picture that the student is about to see, and an answer about any other picture is never handed out. It is compared
with a tolerance, since the last bits of an interpolated pixel differ between machines.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.teachers.cache.codec import ByteArray

__all__ = ["CHECKSUM_BYTES", "checksums_match", "get_inputs", "input_checksum"]

CHECKSUM_BYTES: Final = 4
_MAX_ELEMENTS = 1024
_TOLERANCE = 4e-3


def input_checksum(inputs: Tensor) -> ByteArray:
    """``[batch, 4]`` bytes for ``[batch, ...]`` inputs.

    >>> one, other = torch.ones(1, 3, 8, 8), torch.ones(1, 3, 8, 8)
    >>> other[0, 0, 0, 0] = 3.0
    >>> checksums_match(input_checksum(one), input_checksum(one)).item(), checksums_match(input_checksum(one), input_checksum(other)).item()
    (True, False)
    """
    flat = inputs.detach().reshape(len(inputs), -1)
    step = max(1, -(-flat.shape[1] // _MAX_ELEMENTS))
    subsample = flat[:, ::step].float().cpu()
    # By numpy, which mixed precision does not reach: rounded sums would be those of another picture to the next run.
    sums = (subsample.numpy() @ _random_signs(subsample.shape[1])).clip(-6e4, 6e4)
    return np.ascontiguousarray(sums.astype(np.float16)).view(np.uint8)


def checksums_match(checksum_a: ByteArray, checksum_b: ByteArray) -> NDArray[np.bool_]:
    """``[batch]``: whether two stamps are of one picture."""
    a, b = (np.ascontiguousarray(checksum).view(np.float16).astype(np.float32) for checksum in (checksum_a, checksum_b))
    close: NDArray[np.bool_] = (np.abs(a - b) <= _TOLERANCE * (1 + np.abs(a))).all(axis=1)
    return close


def get_inputs(batch: Any) -> Tensor:
    """What the networks are shown: the first tensor of floating point in a batch, else the first tensor."""
    values = list(batch.values()) if isinstance(batch, dict) else [batch] if isinstance(batch, Tensor) else list(batch)
    tensors = [value for value in values if isinstance(value, Tensor)]
    for tensor in [*(t for t in tensors if t.is_floating_point()), *tensors]:
        return tensor
    raise LimbeckError("the batch holds no tensor that a teacher could be asked about")


@lru_cache(maxsize=4)
def _random_signs(num_elements: int) -> NDArray[np.float32]:
    """``[places, 2]``: ones, and random signs; over the square root of their number, so that sums stay small."""
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, (num_elements, 2), generator=generator) * 2 - 1
    signs[:, 0] = 1
    scaled: NDArray[np.float32] = (signs.numpy() / math.sqrt(num_elements)).astype(np.float32)
    return scaled
