"""Knowledge of features: as much as the student's say of the teacher's (variational information distillation, VID).

Ahn et al., CVPR 2019, https://arxiv.org/abs/1904.05835. The mutual information of the two is bounded from below by the
likelihood of the teacher's features t under a Gaussian whose mean μ(s) is predicted from the student's and whose
variance σ² is one number for each channel; the loss is the mean over all elements of ½ · ((t − μ)² / σ² + log σ²), the
constant ½ log 2π left out. σ² = softplus(ρ) + 1e−5, with ρ learned, begins at 5. μ is three 1×1 convolutions without
bias (linear layers where there are no positions), with a ReLU between and the teacher's width inside, as in the
published code.

Because of log σ² the loss can be below zero, and it is not zero where the two agree.
"""

from __future__ import annotations

import math
from typing import Final, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import Exchange
from limbeck.losses._features import Layers, channels_first, match_size, pointwise, require_comparable, shaped, step
from limbeck.losses._ops import require_same_shape, widen

__all__ = ["Variational", "variational"]

_LEAST: Final = 1e-5
_DIFFER = "the class Variational predicts the teacher's channels and pools unequal maps; batch and tokens must be equal"


def variational(student: Tensor, teacher: Tensor, *, variance: Tensor) -> Tensor:
    """Mean over all elements of ½ · ((teacher − student)² / variance + log variance).

    Shapes: both ``[batch, channels, ...]``, the student's being the predicted mean; ``variance`` ``[channels]``, above
    zero.

    >>> import torch
    >>> variational(torch.tensor([[1.0]]), torch.tensor([[3.0]]), variance=torch.tensor([2.0]))
    tensor(1.3466)
    """
    require_same_shape(student, teacher, what="features", hint=_DIFFER)
    if student.ndim < 2 or variance.shape != student.shape[1:2]:
        raise LimbeckError(
            f"the variance of features {list(student.shape)} is one number for each channel, [channels], and here its "
            f"shape is {list(variance.shape)}"
        )
    error = (widen(student) - widen(teacher).detach()).square()
    # A variance is the same all over its channel, so the mean comes first and the division costs nothing.
    values = error.numel() // max(error.shape[1], 1)
    by_channel = error.sum(dim=[axis for axis in range(error.ndim) if axis != 1]) / max(values, 1)
    variance = widen(variance)
    logarithm = variance.log() if values else variance * 0.0
    return 0.5 * (by_channel / variance + logarithm).mean()


@final
class Variational(nn.Module):
    """:func:`variational` between two tapped layers, whose mean and variance the term learns.

    Arguments:
        at: the name of the tap, given to the student and to the teacher alike.
        variance: σ² of each channel at the beginning.
        teacher: which teacher; ``None`` takes the combination of all.

    >>> from limbeck.testing import make_exchange
    >>> exchange, term = make_exchange(teacher_taps={"mid": (6, 4, 4)}), Variational("mid")
    >>> term.prepare(exchange)
    >>> term.variance.detach()
    tensor([5.0000, 5.0000, 5.0000, 5.0000, 5.0000, 5.0000])
    """

    def __init__(self, at: str, *, variance: float = 5.0, teacher: str | None = None) -> None:
        super().__init__()
        if not _LEAST < variance < math.inf:
            raise LimbeckError(f"the variance begins above {_LEAST:g}, its least, and here it is {variance}")
        self.at, self.teacher, self.start = at, teacher, variance
        self.mean: Layers | None = None
        self.register_parameter("rho", None)

    def prepare(self, exchange: Exchange) -> None:
        """Shape what predicts the teacher's features by those of ``exchange``."""
        student, teacher = (said.tap(self.at) for said in exchange.pair(self.teacher))
        require_comparable(student, teacher)
        inside, within = (channels_first(features).shape[1] for features in (student, teacher))
        self.mean = Layers(
            pointwise(student, inside, within, bias=False), nn.ReLU(),
            pointwise(student, within, within, bias=False), nn.ReLU(),
            pointwise(student, within, within, bias=False),
            told=step(student, teacher),
        )  # fmt: skip
        rho = math.log(math.expm1(self.start - _LEAST))
        self.rho = nn.Parameter(torch.full((within,), rho).to(widen(student)))

    @property
    def variance(self) -> Tensor:
        """σ² by channel, ``[channels]``."""
        return F.softplus(widen(self.rho)) + _LEAST

    def forward(self, exchange: Exchange) -> Tensor:
        """The loss of this exchange."""
        mean = shaped(self.mean, "Variational")
        student, teacher = exchange.pair(self.teacher)
        own, its = match_size(widen(mean(widen(student.tap(self.at)))), widen(teacher.tap(self.at)))
        return variational(channels_first(own), channels_first(its), variance=self.variance)

    def extra_repr(self) -> str:
        return f"at={self.at!r}, variance={self.start:g}" + (f", teacher={self.teacher!r}" if self.teacher else "")
