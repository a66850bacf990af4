"""Checks of the batches of a user's loader, in its first epoch."""

from __future__ import annotations

import warnings
from typing import Any, final

from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.data.input_checks import require_finite, require_image_values
from limbeck.data.mask_store import UNLABELED
from limbeck.utils.batch_fields import find_input, get_target

__all__ = ["BatchChecks", "check_batch"]


def check_batch(batch: Any, name: str) -> None:
    """Refuse a batch whose input is not finite, or whose target is text.

    Args:
        batch: not checked where it has no input under a usual name.
        name: of the batch, for the message.

    Raises:
        LimbeckError: names the sample.
    """
    inputs, target = find_input(batch), get_target(batch)
    if inputs is None:
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
            LimbeckError: see :func:`check_batch`; or images of the first batch are in another layout, or floats of
                0..255.
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
        """Collect the classes, until there are two or a target is no class."""
        if self._classes is None or len(self._classes - {UNLABELED}) > 1:
            return
        target = get_target(batch)
        is_class = isinstance(target, Tensor) and target.ndim == 1 and not target.is_floating_point()
        self._classes = {*self._classes, *target.unique().tolist()} if is_class else None


def _check_images(batch: Any) -> None:
    inputs = find_input(batch)
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
