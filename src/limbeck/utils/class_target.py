"""Checks of targets that are one class, or probabilities, for each sample."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

from torch import Tensor

from limbeck.core.errors import LimbeckError

__all__ = ["check_class_target"]

_IGNORE_INDEX: Final = -100
_TOLERANCE = 1e-2
"""Of the sum of probabilities; that of bfloat16."""


def check_class_target(target: Any, classes: int) -> None:
    """Refuse a target that is neither class indices nor probabilities.

    Of a tensor on another device than the CPU nothing is read, since that would synchronize the device.

    Args:
        target: ``[batch]`` integers in 0..classes − 1, or −100 for no label; or ``[batch, classes]`` probabilities
            or one-hot rows, all zero for no label; or ``None`` for a batch without a target.
        classes: number of classes.

    Raises:
        LimbeckError: another type or shape, an index that is no class, or probabilities that are negative or do not
            sum to 1.
    """
    if target is None:
        return
    if not isinstance(target, Tensor):
        raise LimbeckError(
            f"a target must be a tensor of class indices or probabilities, got a {type(target).__name__}: return "
            "the index of each class (limbeck.data.from_datasets takes names)"
        )
    if not target.is_cpu:
        return
    if target.ndim == 1:
        if target.is_floating_point():
            raise LimbeckError(
                f"labels must be class indices, got {str(target.dtype).removeprefix('torch.')}: convert with .long(); "
                "numbers are another task"
            )
        # For so few numbers a set is faster than tensors.
        labels, allowed = target.tolist(), _valid_labels(classes)
        if not allowed.issuperset(labels):
            wrong = next(label for label in labels if label not in allowed)
            raise LimbeckError(
                f"labels must be in 0..{classes - 1} for {classes} classes, or {_IGNORE_INDEX} for no label, got "
                f"{wrong}"
            )
        return
    if target.ndim != 2 or target.shape[1] != classes:
        raise LimbeckError(
            f"a target must be class indices [batch] or probabilities [batch, {classes}], got {list(target.shape)}"
        )
    if bool((target < -_TOLERANCE).any()):
        raise LimbeckError(f"probabilities must not be negative, got {float(target.min()):.4g}: apply a softmax")
    totals = target.float().sum(dim=1)
    is_wrong = ~(((totals - 1).abs() <= _TOLERANCE) | (totals == 0))
    if bool(is_wrong.any()):
        raise LimbeckError(
            f"rows of probabilities must sum to 1, or to 0 for no label, got {float(totals[is_wrong][0]):.4g}; "
            "several classes per sample are another task"
        )


@lru_cache(maxsize=8)
def _valid_labels(classes: int) -> frozenset[int]:
    return frozenset((*range(classes), _IGNORE_INDEX))
