"""What the terms on features share: the axes of a feature tensor, and the learned step between unequal widths.

And what those on relations share: a batch as one row a sample, and how far its samples are from each other.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError
from limbeck.core.numeric import widen

__all__ = ["Projection", "channels_first", "match_size", "pooled", "relations", "samples"]


def match_size(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Average-pool the larger of two ``[batch, channels, height, width]`` maps to the smaller; leave others alone."""
    if student.ndim != 4 or teacher.ndim != 4 or student.shape[2:] == teacher.shape[2:]:
        return student, teacher
    size = (min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3]))
    return pooled(student, size), pooled(teacher, size)


def pooled(features: Tensor, size: tuple[int, int]) -> Tensor:
    """``features`` at ``size`` by adaptive average pooling; untouched where they have it already."""
    return features if tuple(features.shape[2:]) == size else F.adaptive_avg_pool2d(features, size)


def channels_first(features: Tensor) -> Tensor:
    """``[batch, tokens, width]`` has its channels last; the others have them at axis 1 already."""
    return features.transpose(1, 2) if features.ndim == 3 else features


def samples(student: Tensor, teacher: Tensor, *, what: str) -> tuple[Tensor, Tensor]:
    """Both as ``[batch, values]``, widened, the teacher without its gradient; an error where the batches differ."""
    if not student.ndim or not teacher.ndim or len(student) != len(teacher):
        raise LimbeckError(
            f"{what} relates the samples of one batch, and the student's features have the shape "
            f"{list(student.shape)} and the teacher's {list(teacher.shape)}: tap layers that give [batch, ...]"
        )
    return _rows(widen(student)), _rows(widen(teacher).detach())


def relations(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Products, distances, and which samples are the same, each ``[batch, batch]``, of ``[batch, values]``.

    The products are of the rows around their mean. Distances come of them, so no ``[batch, batch, values]`` is made;
    two rows nearer than such a difference can tell are the same: at distance 0, without a gradient, whose root would
    be infinite.

    >>> relations(torch.tensor([[0.0, 0.0], [3.0, 4.0], [3.0, 4.0]]))[1]
    tensor([[0., 5., 5.],
            [5., 0., 0.],
            [5., 0., 0.]])
    """
    rows = rows - rows.mean(dim=0)
    products = rows @ rows.T
    lengths = products.diagonal()
    both = lengths.unsqueeze(1) + lengths
    squares = both - 2 * products
    same = squares <= 32 * torch.finfo(rows.dtype).eps * both
    return products, squares.masked_fill(same, 1.0).sqrt().masked_fill(same, 0.0), same


@final
class Projection(nn.Module):
    """A learned linear step from the student's width to the teacher's, at every position.

    ``[batch, channels, height, width]`` goes through a 1×1 convolution (channels are axis 1), ``[batch, width]`` and
    ``[batch, tokens, width]`` through a linear layer on the last axis.
    """

    def __init__(self, student: Tensor, teacher: Tensor) -> None:
        super().__init__()
        if student.ndim != teacher.ndim or student.ndim not in (2, 3, 4):
            raise LimbeckError(
                f"features of shapes {list(student.shape)} and {list(teacher.shape)} cannot be compared: tap layers "
                "that both give [batch, width], [batch, tokens, width] or [batch, channels, height, width]"
            )
        axis = 1 if student.ndim == 4 else -1
        self.widths = (student.shape[axis], teacher.shape[axis])
        layer = nn.Conv2d(*self.widths, 1) if student.ndim == 4 else nn.Linear(*self.widths)
        self.layer = layer.to(widen(student))

    def forward(self, features: Tensor) -> Tensor:
        """The student's features in the teacher's width."""
        # distiller.to(bfloat16) moves the layer as well; what comes out is widened again by the loss.
        projected: Tensor = self.layer(features.to(self.layer.weight.dtype))
        return projected

    def extra_repr(self) -> str:
        return f"{self.widths[0]} → {self.widths[1]}"


def _rows(features: Tensor) -> Tensor:
    return features.flatten(1) if features.ndim > 1 else features.unsqueeze(1)
