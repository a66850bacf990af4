"""Checks of the batches of a user's loader, in its first epoch."""

from __future__ import annotations

import warnings
from typing import Any, Final, final

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.data.input_checks import require_finite, require_image_values
from limbeck.data.mask_store import UNLABELED
from limbeck.utils.batch_fields import get_input, get_target

__all__ = ["BatchChecks", "check_batch"]

_INTEGERS: Final = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def check_batch(batch: Any, name: str) -> None:
    """Refuse a batch whose input is not finite, or whose target is text.

    Batches that have no input under a usual name are not checked.

    Raises:
        LimbeckError: has ``name`` and the position of the sample in the batch.
    """
    try:
        inputs, target = get_input(batch), get_target(batch)
    except LimbeckError:
        return
    require_finite(inputs, lambda i: f"sample {i} of {name}{_sample_id(batch, i)}")
    if isinstance(target, str) or (isinstance(target, list | tuple) and target and isinstance(target[0], str)):
        label = target if isinstance(target, str) else target[0]
        raise LimbeckError(
            f"the target of {name} must be class indices, got the name {label!r}: return the index of each class, or "
            "use limbeck.data.from_datasets, which takes names"
        )


@final
class BatchChecks:
    """Checks each batch of the first epoch, and at its end whether there was more than one class.

    Args:
        steps_per_epoch: number of batches.
    """

    def __init__(self, steps_per_epoch: int) -> None:
        self._num_left, self._position = steps_per_epoch, 0
        self._classes: set[int] | None = set()

    def check(self, batch: Any, position: int) -> None:
        """Check a batch, if it is the next one of the first epoch.

        Raises:
            LimbeckError: see :func:`check_batch`; or images are in another layout or of 0..255 as floats.
        """
        if not self._num_left or position != self._position:
            return
        self._num_left, self._position = self._num_left - 1, position + 1
        check_batch(batch, f"batch {position} of the training loader")
        if position == 0:
            _check_images(batch)
        self._update_classes(batch)
        if not self._num_left and self._classes is not None:
            _warn_of_few_classes(self._classes)

    def _update_classes(self, batch: Any) -> None:
        """Collect the classes until there are two, or the targets are none."""
        if self._classes is None or len(self._classes - {UNLABELED}) > 1:
            return
        try:
            target = get_target(batch)
        except LimbeckError:
            target = None
        is_class = isinstance(target, Tensor) and target.ndim == 1 and target.dtype in _INTEGERS
        self._classes = {*self._classes, *target.unique().tolist()} if is_class else None


def _check_images(batch: Any) -> None:
    try:
        inputs = get_input(batch)
    except LimbeckError:
        return
    if isinstance(inputs, Tensor) and inputs.ndim == 4:
        require_image_values(inputs)


def _warn_of_few_classes(classes: set[int]) -> None:
    if classes == {UNLABELED}:
        warnings.warn(
            f"no sample of the training loader has a label (all are {UNLABELED}): losses on the target are zero",
            stacklevel=3,
        )
    elif len(classes - {UNLABELED}) == 1:
        warnings.warn(
            f"all labels of the training loader are of the class {max(classes)}: check the labels", stacklevel=3
        )


def _sample_id(batch: Any, index: int) -> str:
    ids = batch.get("sample_id") if isinstance(batch, dict) else None
    return f" (sample_id {int(ids[index])})" if isinstance(ids, Tensor) and len(ids) > index else ""
