"""Class labels in any usual form as class indices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError

__all__ = ["to_class_indices"]

_REMEDY = "give class indices, names, or one-hot rows; for numbers and several classes per sample use Split.from_values"


def to_class_indices(target: Any, class_names: Sequence[str] | None = None) -> tuple[Tensor, tuple[str, ...] | None]:
    """Labels as class indices, and the class names where the labels are names.

    Args:
        target: integers or booleans ``[n]`` (−100: no label), whole numbers as floats, names, or one-hot rows
            ``[n, classes]``; a tensor, an array or a list.
        class_names: names of the classes by index; ``None``: sorted, where the labels are names.

    Returns:
        ``[n]`` int64, and the class names or ``class_names``.

    Raises:
        LimbeckError: fractions, several classes for one sample, or unknown names.

    >>> to_class_indices(["cat", "ant", "cat"])
    (tensor([1, 0, 1]), ('ant', 'cat'))
    >>> to_class_indices(np.eye(3)[[2, 0]])[0]
    tensor([2, 0])
    """
    given = None if class_names is None else tuple(class_names)
    array = target.detach().cpu().numpy() if isinstance(target, Tensor) else np.asarray(target)
    if array.dtype.kind in "USO" and array.ndim == 1 and all(isinstance(label, str) for label in array.tolist()):
        names = given or tuple(sorted(set(array.tolist())))
        index = {name: i for i, name in enumerate(names)}
        unknown = [label for label in array.tolist() if label not in index]
        if unknown:
            raise LimbeckError(f"the label {unknown[0]!r} is none of the classes {', '.join(names)}")
        return torch.tensor([index[label] for label in array.tolist()], dtype=torch.long), names
    if array.dtype.kind not in "biuf":
        raise LimbeckError(f"labels must be numbers or names, got {array.dtype}: {_REMEDY}")
    if array.ndim == 2:
        is_one_hot = np.isin(array, (0, 1)).all(axis=1) & (array.sum(axis=1) == 1)
        if not is_one_hot.all():
            row = int((~is_one_hot).argmax())
            raise LimbeckError(f"labels in rows must be one-hot, got {array[row].tolist()[:8]} in row {row}: {_REMEDY}")
        return torch.from_numpy(array.argmax(axis=1)).long(), given
    if array.ndim != 1:
        raise LimbeckError(f"labels must be [n] or one-hot [n, classes], got {list(array.shape)}: {_REMEDY}")
    whole = array.astype(np.int64) if array.dtype.kind != "f" or np.isfinite(array).all() else None
    if whole is None or not (whole == array).all():
        raise LimbeckError(
            f"labels must be whole numbers, got fractions or NaN such as {array.tolist()[:3]}: {_REMEDY}"
        )
    return torch.from_numpy(whole), given
