"""Operations of all losses: upcasting, means that are defined for an empty batch, and checks of arguments."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError

IGNORE_INDEX: Final = -100
"""The class index of a row without a label."""


def upcast(tensor: Tensor) -> Tensor:
    """Half precision becomes float32; float32 and float64 are unchanged.

    >>> upcast(torch.ones(2, dtype=torch.bfloat16)).dtype
    torch.float32
    """
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def hard_labels(target: Tensor) -> Tensor:
    """Class indices ``[rows]`` of a target: itself, or the argmax of its probabilities ``[rows, classes]``.

    −100 where a row has no label: the index is −100, or all probabilities are zero.

    >>> hard_labels(torch.tensor([[0.3, 0.7], [0.0, 0.0]]))
    tensor([   1, -100])
    """
    if target.ndim == 1:
        return target
    return target.argmax(dim=1).masked_fill((target == 0).all(dim=1), IGNORE_INDEX)


def row_mean(values: Tensor) -> Tensor:
    """Mean of ``[rows]`` values; zero, with a gradient of zero, without rows."""
    return values.sum() / max(len(values), 1)


def mean_squared_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over all elements of (student − teacher)²; zero, with a gradient of zero, for an empty batch."""
    return F.mse_loss(student, teacher) if student.numel() else student.sum()


def require_same_shape(student: Tensor, teacher: Tensor, *, name: str, hint: str) -> None:
    """Raise an error with ``hint`` where the shapes differ."""
    if student.shape != teacher.shape:
        raise LimbeckError(
            f"the student's {name} have the shape {list(student.shape)} and the teacher's {list(teacher.shape)}: {hint}"
        )


def require_interval(name: str, value: float, interval: str) -> None:
    """Raise an error where ``value`` is outside ``interval``, such as ``"(0, 1]"``.

    >>> require_interval("alpha", 1.5, "[0, 1]")
    Traceback (most recent call last):
    limbeck.core.errors.LimbeckError: alpha must be in [0, 1], got 1.5
    """
    low, high = map(float, interval[1:-1].split(","))
    above = value >= low if interval[0] == "[" else value > low
    below = value <= high if interval[-1] == "]" else value < high
    if not (above and below):
        raise LimbeckError(f"{name} must be in {interval}, got {value}")
