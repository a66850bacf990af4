"""Knowledge of features: the student's hidden layer, projected, comes close to the teacher's (FitNets).

Romero et al., ICLR 2015, https://arxiv.org/abs/1412.6550. The mean is over every element. The paper's regressor is a
convolution; here it is the smallest that can do it, a learned 1×1 one (or a linear layer), and maps of different size
are average-pooled to the smaller. It is there also between equal widths, since two networks order their channels as
they like.
"""

from __future__ import annotations

from typing import final

from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import Exchange
from limbeck.losses._features import Projection, match_size
from limbeck.losses._ops import mean_squared, require_same_shape, widen

__all__ = ["Hint", "hint"]

_DIFFER = (
    "the class Hint projects unequal widths and pools unequal maps, and batch and tokens have to be equal in number"
)


def hint(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over all elements of (student − teacher)², for features of one shape.

    Shapes: both ``[batch, ...]``, already projected to the same width and size.

    >>> import torch
    >>> hint(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 4.0]]))
    tensor(2.5000)
    """
    require_same_shape(student, teacher, what="features", hint=_DIFFER)
    return mean_squared(widen(student), widen(teacher).detach())


@final
class Hint(nn.Module):
    """:func:`hint` between two tapped layers, the student's through a learned projection.

    Arguments:
        at: the name of the tap, given to the student and to the teacher alike.
        teacher: which teacher; ``None`` takes the combination of all.
    """

    def __init__(self, at: str, *, teacher: str | None = None) -> None:
        super().__init__()
        self.at, self.teacher = at, teacher
        self.projection: Projection | None = None

    def prepare(self, exchange: Exchange) -> None:
        """Shape the projection by the features of ``exchange``."""
        student, teacher = exchange.pair(self.teacher)
        self.projection = Projection(student.tap(self.at), teacher.tap(self.at))

    def forward(self, exchange: Exchange) -> Tensor:
        """The loss of this exchange."""
        if self.projection is None:
            raise LimbeckError(
                "Hint has no projection yet: call distiller.prepare(batch) before building the optimizer"
            )
        student, teacher = exchange.pair(self.teacher)
        return hint(*match_size(self.projection(widen(student.tap(self.at))), widen(teacher.tap(self.at))))

    def extra_repr(self) -> str:
        return f"at={self.at!r}" + (f", teacher={self.teacher!r}" if self.teacher else "")
