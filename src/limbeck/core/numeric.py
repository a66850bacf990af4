"""Arithmetic every loss shares: float32 inside, means that survive an empty batch."""

from __future__ import annotations

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError

__all__ = ["mean_rows", "require_same_shape", "widen"]


def widen(tensor: Tensor) -> Tensor:
    """Half precision becomes float32; float32 and float64 stay as they are.

    >>> widen(torch.ones(2, dtype=torch.bfloat16)).dtype
    torch.float32
    """
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def mean_rows(values: Tensor) -> Tensor:
    """Mean of ``[rows]`` values; zero, with a gradient of zero, where there is no row at all.

    >>> mean_rows(torch.tensor([1.0, 3.0])), mean_rows(torch.zeros(0))
    (tensor(2.), tensor(0.))
    """
    return values.sum() / max(len(values), 1)


def require_same_shape(student: Tensor, teacher: Tensor, *, what: str, hint: str) -> None:
    """Refuse two tensors of different shapes, saying what they are and what to do."""
    if student.shape != teacher.shape:
        raise LimbeckError(
            f"the student's {what} have the shape {list(student.shape)} and the teacher's {list(teacher.shape)}: {hint}"
        )
