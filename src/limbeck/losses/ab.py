"""Knowledge of features: on which side of zero the teacher's neurons stand (activation boundaries, AB).

Heo et al., AAAI 2019, https://arxiv.org/abs/1811.03233. Tap both networks before the activation (behind the BatchNorm).
Where the teacher's neuron is active (t > 0) the student's has to be above a margin μ, elsewhere below −μ, by a squared
hinge: [μ − s]₊² or [μ + s]₊². The student's features pass a learned 1×1 convolution and a BatchNorm before.

The paper and its code sum over neurons, so that their size depends on the map; here it is the mean over all elements.
The paper uses it to begin with: a first stage with this term alone, then distillation by responses.
"""

from __future__ import annotations

import math
from typing import final

from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import Exchange
from limbeck.losses._features import Connector, channels_first, match_size, shaped
from limbeck.losses._ops import require_same_shape, widen

__all__ = ["Boundary", "boundary"]

_DIFFER = "the class Boundary projects unequal channels and pools unequal maps; batch and tokens must be equal"


def boundary(student: Tensor, teacher: Tensor, *, margin: float = 1.0) -> Tensor:
    """Mean over all elements of [margin − student]₊² where the teacher is above zero, [margin + student]₊² elsewhere.

    Shapes: both ``[batch, ...]`` of pre-activations. Zero where each neuron of the student stands on the side of the
    teacher's, by the margin at least.

    >>> import torch
    >>> boundary(torch.tensor([[0.5, 0.5, 2.0]]), torch.tensor([[3.0, -3.0, 1.0]]))
    tensor(0.8333)
    """
    require_same_shape(student, teacher, what="features", hint=_DIFFER)
    _require_margin(margin)
    student = widen(student)
    # A comparison has no gradient, so none reaches the teacher.
    # A product with ±1 in place of torch.where, which takes ten times as long on a CPU.
    side = (teacher > 0).to(student.dtype).mul_(-2).add_(1)
    short = (student * side + margin).relu()
    return short.square().sum() / max(short.numel(), 1)


@final
class Boundary(nn.Module):
    """:func:`boundary` between two tapped layers, the student's through a learned projection with a BatchNorm.

    Arguments:
        at: the name of the tap, given to the student and to the teacher alike.
        margin: how far from zero the student's neurons have to stand, above zero.
        teacher: which teacher; ``None`` takes the combination of all.

    >>> from limbeck.testing import make_exchange
    >>> exchange, term = make_exchange(teacher_taps={"mid": (3, 4, 4)}), Boundary("mid")
    >>> term.prepare(exchange)
    >>> 1.5 < term(exchange).item() < 2.5
    True
    """

    def __init__(self, at: str, *, margin: float = 1.0, teacher: str | None = None) -> None:
        super().__init__()
        _require_margin(margin)
        self.at, self.margin, self.teacher = at, margin, teacher
        self.projection: Connector | None = None

    def prepare(self, exchange: Exchange) -> None:
        """Shape the projection by the features of ``exchange``."""
        student, teacher = exchange.pair(self.teacher)
        self.projection = Connector(student.tap(self.at), teacher.tap(self.at))

    def forward(self, exchange: Exchange) -> Tensor:
        """The loss of this exchange."""
        student, teacher = exchange.pair(self.teacher)
        own = widen(shaped(self.projection, "Boundary")(widen(student.tap(self.at))))
        own, its = match_size(own, widen(channels_first(teacher.tap(self.at))))
        return boundary(own, its, margin=self.margin)

    def extra_repr(self) -> str:
        return f"at={self.at!r}, margin={self.margin:g}" + (f", teacher={self.teacher!r}" if self.teacher else "")


def _require_margin(margin: float) -> None:
    if not 0 < margin < math.inf:
        raise LimbeckError(f"the margin of an activation boundary is a number above zero, and here it is {margin}")
