"""Knowledge of features: the pattern of each channel, whatever its size (PKD, distillation by Pearson correlation).

Cao et al., NeurIPS 2022, https://arxiv.org/abs/2207.02039. Each channel is standardised over batch and positions, with
the unbiased standard deviation plus 1e−6 as in the published code; the loss is half the mean squared difference. That
is (n − 1)/n · (1 − r), with n the values of a channel and r their Pearson correlation, where no channel is constant.

The statistics are those of the batch: on several processes each takes those of its own share, unless the objective
gathers this term (``gather: true`` in a recipe).
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import Exchange
from limbeck.losses._features import Projection, Same, channels_first, fitted, match_size, shaped
from limbeck.losses._ops import mean_squared, require_same_shape, widen

__all__ = ["PearsonMap", "pearson_map"]

_DIFFER = "the class PearsonMap projects unequal channels and pools unequal maps, and the batch has to be equal"


def pearson_map(student: Tensor, teacher: Tensor) -> Tensor:
    """Half the mean squared difference of the two, each channel standardised over batch and positions.

    Shapes: both ``[batch, channels, ...]``. Zero where each channel is the teacher's, scaled and shifted; zero as well
    where a channel has fewer than two values, which have no deviation. A constant channel becomes zero and gets no
    gradient.

    >>> import torch
    >>> pearson_map(torch.tensor([[1.0], [2.0]]), torch.tensor([[4.0], [0.0]]))
    tensor(1.0000)
    """
    require_same_shape(student, teacher, what="features", hint=_DIFFER)
    if student.ndim < 2:
        raise LimbeckError(f"features are [batch, channels, ...], and these have the shape {list(student.shape)}")
    student, teacher = widen(student), widen(teacher).detach()
    if student.numel() < 2 * student.shape[1]:
        return student.sum() * 0.0
    return mean_squared(_standardised(student), _standardised(teacher)) / 2


@final
class PearsonMap(nn.Module):
    """:func:`pearson_map` between two tapped layers, through a learned projection where their channels differ.

    Arguments:
        at: the name of the tap, given to the student and to the teacher alike.
        teacher: which teacher; ``None`` takes the combination of all.

    >>> from limbeck.testing import make_exchange
    >>> exchange, term = make_exchange(), PearsonMap("mid")
    >>> term.prepare(exchange)
    >>> round(term(exchange).item(), 4)
    1.0214
    """

    def __init__(self, at: str, *, teacher: str | None = None) -> None:
        super().__init__()
        self.at, self.teacher = at, teacher
        self.projection: Projection | Same | None = None

    def prepare(self, exchange: Exchange) -> None:
        """Shape the projection by the features of ``exchange``; none is needed between equal channels."""
        student, teacher = exchange.pair(self.teacher)
        self.projection = fitted(student.tap(self.at), teacher.tap(self.at))

    def forward(self, exchange: Exchange) -> Tensor:
        """The loss of this exchange."""
        student, teacher = exchange.pair(self.teacher)
        own = shaped(self.projection, "PearsonMap")(widen(student.tap(self.at)))
        own, its = match_size(own, widen(teacher.tap(self.at)))
        return pearson_map(channels_first(own), channels_first(its))

    def extra_repr(self) -> str:
        return f"at={self.at!r}" + (f", teacher={self.teacher!r}" if self.teacher else "")


def _standardised(features: Tensor) -> Tensor:
    # Means over positions, then over the batch: in one go over both they take three times as long.
    places = list(range(2, features.ndim))
    values = features.numel() // features.shape[1]
    mean = _over(features, places) / values
    centred = features - mean
    variance = _over(centred.square(), places) / (values - 1)
    # What is left of a constant channel is the rounding of its mean, which must not be blown up to deviations of 1.
    varies = variance > (16 * torch.finfo(features.dtype).eps * mean) ** 2
    deviation = torch.where(varies, variance, 1.0).sqrt() + 1e-6
    return centred * torch.where(varies, 1 / deviation, 0.0)


def _over(features: Tensor, places: list[int]) -> Tensor:
    """Sum over batch and positions, ``[1, channels, 1, ...]``."""
    by_sample = features.sum(dim=places, keepdim=True) if places else features
    return by_sample.sum(dim=0, keepdim=True)
