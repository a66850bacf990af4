"""Operations of all losses: upcasting, and means that are defined for an empty batch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError

__all__ = ["hard_labels", "mean_squared_error", "require_same_shape", "row_mean", "upcast"]


def upcast(tensor: Tensor) -> Tensor:
    """Half precision becomes float32; float32 and float64 stay as they are.

    >>> upcast(torch.ones(2, dtype=torch.bfloat16)).dtype
    torch.float32
    """
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def hard_labels(target: Tensor) -> Tensor:
    """Class indices ``[rows]`` of a target: itself, or the argmax of its probabilities ``[rows, classes]``.

    −100 where a row has no label: the index is −100, or all probabilities are zero.

    >>> hard_labels(torch.tensor([[0.3, 0.7], [0.0, 0.0]])), hard_labels(torch.tensor([1, -100]))
    (tensor([   1, -100]), tensor([   1, -100]))
    """
    if target.ndim == 1:
        return target
    return target.argmax(dim=1).masked_fill((target == 0).all(dim=1), -100)


def row_mean(values: Tensor) -> Tensor:
    """Mean of ``[rows]`` values; zero, with a gradient of zero, without rows.

    >>> row_mean(torch.tensor([1.0, 3.0])), row_mean(torch.zeros(0))
    (tensor(2.), tensor(0.))
    """
    return values.sum() / max(len(values), 1)


def mean_squared_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over all elements of (student − teacher)²; zero, with a gradient of zero, for an empty
    batch, whose plain mean is NaN.

    >>> mean_squared_error(torch.tensor([[1.0, 2.0]]), torch.zeros(1, 2))
    tensor(2.5000)
    >>> mean_squared_error(torch.zeros(0, 2), torch.zeros(0, 2))
    tensor(0.)
    """
    return F.mse_loss(student, teacher) if student.numel() else student.sum()


def require_same_shape(student: Tensor, teacher: Tensor, *, name: str, hint: str) -> None:
    """Raise an error with ``hint`` where the shapes differ."""
    if student.shape != teacher.shape:
        raise LimbeckError(
            f"the student's {name} have the shape {list(student.shape)} and the teacher's {list(teacher.shape)}: {hint}"
        )
