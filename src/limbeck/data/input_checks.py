"""Checks of inputs, before a network gets them: type, layout and range of images, finite values."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError, format_root_cause

__all__ = [
    "has_image_shape",
    "read_item",
    "require_finite",
    "require_image_values",
    "require_input_type",
    "to_tensor",
]

_CHANNELS: Final = (1, 3, 4)
_MIN_SIDE: Final = 5
"""Shortest side of an image; a channel axis is shorter."""


def require_finite(inputs: Any, describe: Callable[[int], str]) -> None:
    """Refuse float ``inputs`` ``[n, ...]`` with NaN or infinity.

    Args:
        inputs: the inputs; what is not a float tensor is not checked.
        describe: the name of the sample at an index, for the message.

    Raises:
        LimbeckError: names the first such sample.

    >>> require_finite(torch.tensor([[0.0], [torch.nan]]), lambda i: f"sample {i}")
    Traceback (most recent call last):
    limbeck.core.errors.LimbeckError: inputs must be finite, got NaN in sample 1: correct or remove it
    """
    # A sum is much faster than isfinite() of each value; one that overflows costs the second look only.
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point() or not inputs.numel():
        return
    if bool(inputs.sum().isfinite()):
        return
    is_finite = inputs.isfinite().flatten(1).all(dim=1) if inputs.ndim > 1 else inputs.isfinite()
    if not bool(is_finite.all()):
        first = int((~is_finite).int().argmax())
        kind = "NaN" if bool(inputs[first].isnan().any()) else "infinity"
        raise LimbeckError(f"inputs must be finite, got {kind} in {describe(first)}: correct or remove it")


def require_input_type(dtype: torch.dtype) -> None:
    """Refuse integers other than uint8, which would be read as floats.

    Raises:
        LimbeckError: says what to use for token ids.
    """
    if not (dtype.is_floating_point or dtype in (torch.uint8, torch.bool)):
        raise LimbeckError(
            f"inputs must be floats, or uint8 for images of 0..255, got {str(dtype).removeprefix('torch.')}: convert "
            "images with .to(torch.uint8) and numbers with .float(); token ids are sequences "
            "(limbeck.data.SequenceStore, or collate_fn)"
        )


def has_image_shape(shape: torch.Size | tuple[int, ...]) -> bool:
    """Whether ``shape``, of a batch, is that of images ``[n, channels, height, width]``.

    >>> has_image_shape((2, 3, 32, 32)), has_image_shape((2, 32, 32, 3)), has_image_shape((2, 64))
    (True, False, False)
    """
    return len(shape) == 4 and shape[1] in _CHANNELS


def require_image_values(inputs: Tensor) -> None:
    """Refuse images ``[n, ...]`` in another layout than channels first, and floats of 0..255.

    Inputs of other shapes, and floats below zero (normalized ones), are not checked.

    Raises:
        LimbeckError: the last axis is that of channels, uint8 images have no channel axis, or float images have whole
            numbers above 1. Other float images above 2 are a warning.

    >>> require_image_values(torch.rand(2, 8, 8, 3))
    Traceback (most recent call last):
    limbeck.core.errors.LimbeckError: images must be [n, channels, height, width], got [2, 8, 8, 3]: permute(0, 3, 1, 2)
    """
    shape = list(inputs.shape)
    if len(shape) == 4 and shape[3] in _CHANNELS and min(shape[1:3]) >= _MIN_SIDE:
        raise LimbeckError(f"images must be [n, channels, height, width], got {shape}: permute(0, 3, 1, 2)")
    if len(shape) == 3 and inputs.dtype == torch.uint8 and min(shape[1:]) >= _MIN_SIDE:
        raise LimbeckError(f"images must be [n, channels, height, width], got {shape}: unsqueeze(1)")
    if not has_image_shape(inputs.shape) or not inputs.is_floating_point() or not inputs.numel():
        return
    low, high = (float(value) for value in torch.aminmax(inputs))
    if not (low >= 0 and 2 < high < float("inf")):
        return
    problem = f"float images must be in 0..1, got {low:g} to {high:g}"
    if bool((inputs == inputs.round()).all()):
        divisor = 255 if 64 < high <= 255 else high
        raise LimbeckError(f"{problem}: divide by {divisor:g}, or give uint8 of 0..255")
    warnings.warn(f"{problem}: divide by their maximum, unless these are no images", stacklevel=3)


def read_item(dataset: Any, index: int) -> Any:
    """``dataset[index]``; what a user's data set raises becomes one sentence with the index.

    Raises:
        LimbeckError: the item could not be read.
    """
    try:
        return dataset[index]
    except Exception as error:  # user code
        raise LimbeckError(
            f"sample {index} of the data set ({type(dataset).__name__}) could not be read "
            f"({format_root_cause(error)}): correct or remove it"
        ) from error


def to_tensor(value: Any, index: int) -> Tensor:
    """An input of a user's data set as a tensor.

    Raises:
        LimbeckError: it is no tensor, array or number.
    """
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        kind = type(value).__name__
        remedy = "turn text into token ids" if isinstance(value, str | np.str_) else "add a transform such as ToTensor"
        raise LimbeckError(f"inputs of a data set must be tensors, got a {kind} in sample {index}: {remedy}") from error
