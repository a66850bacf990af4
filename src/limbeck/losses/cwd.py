"""Knowledge of features: where each channel fires most (channel-wise distillation, CWD).

Shu et al., ICCV 2021, https://arxiv.org/abs/2011.13256. Each channel of a sample becomes a distribution over positions,
p = softmax over positions of f / tau; the loss is tau² · mean over batch and channels of KL(teacher ‖ student). Made
for dense prediction: on spatial logits (tau 1) a channel is a class, on features (tau 4) a detector of something.
"""

from __future__ import annotations

import math
from typing import final

from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import Exchange
from limbeck.core.outputs import Outputs
from limbeck.core.schedules import Schedule
from limbeck.core.schedules import at as now
from limbeck.losses._features import Projection, Same, channels_first, fitted, match_size, shaped
from limbeck.losses._ops import require_same_shape, widen

__all__ = ["Channel", "channel"]

_DIFFER = "the class Channel projects unequal channels and pools unequal maps, and the batch has to be equal"


def channel(student: Tensor, teacher: Tensor, *, tau: float = 4.0) -> Tensor:
    """Mean over batch and channels of KL(teacher ‖ student) over positions at temperature ``tau``, times ``tau ** 2``.

    Shapes: both ``[batch, channels, ...]`` with one or more axes of positions. Zero where each channel differs by a
    constant only; in nats.

    >>> import torch
    >>> channel(torch.tensor([[[2.0, 0.0]]]), torch.tensor([[[0.0, 0.0]]]), tau=1.0)
    tensor(0.4338)
    """
    require_same_shape(student, teacher, what="maps", hint=_DIFFER)
    if student.ndim < 3:
        raise LimbeckError(
            f"channel-wise distillation compares maps [batch, channels, ...], and these have the shape "
            f"{list(student.shape)}: tap a layer that gives positions"
        )
    _require_temperature(tau)
    log_q, log_p = (
        F.log_softmax(features.flatten(2) / tau, dim=2) for features in (widen(student), widen(teacher).detach())
    )
    total = F.kl_div(log_q, log_p, reduction="sum", log_target=True)
    return total * (tau**2 / max(log_q.shape[0] * log_q.shape[1], 1))


@final
class Channel(nn.Module):
    """:func:`channel` between two tapped layers, through a learned projection where their channels differ.

    Arguments:
        at: the name of the tap, given to the student and to the teacher alike; ``None`` compares the spatial logits of
            a task that has them.
        tau: the temperature, above zero: a number, or a schedule. The paper takes 4 for features and 1 for logits.
        teacher: which teacher; ``None`` takes the combination of all.

    >>> from limbeck.testing import make_exchange
    >>> exchange, term = make_exchange(), Channel("mid")
    >>> term.prepare(exchange)
    >>> round(term(exchange).item(), 4)
    1.0376
    """

    def __init__(self, at: str | None = None, *, tau: float | Schedule = 4.0, teacher: str | None = None) -> None:
        super().__init__()
        if not callable(tau):
            _require_temperature(tau)
        self.at, self.tau, self.teacher = at, tau, teacher
        self.projection: Projection | Same | None = None

    def prepare(self, exchange: Exchange) -> None:
        """Shape the projection by the features of ``exchange``; none is needed between equal channels."""
        self.projection = fitted(*map(self._maps, exchange.pair(self.teacher)))

    def forward(self, exchange: Exchange) -> Tensor:
        """The loss of this exchange."""
        projection = shaped(self.projection, "Channel")
        student, teacher = (widen(self._maps(said)) for said in exchange.pair(self.teacher))
        own, its = match_size(projection(student), teacher)
        return channel(channels_first(own), channels_first(its), tau=now(self.tau, exchange.progress))

    def extra_repr(self) -> str:
        return f"at={self.at!r}, tau={self.tau}" + (f", teacher={self.teacher!r}" if self.teacher else "")

    def _maps(self, said: Outputs) -> Tensor:
        if self.at is not None:
            return said.tap(self.at)
        if said.maps is None:
            raise LimbeckError(
                "Channel() compares spatial logits, and this task has none: name a tap, Channel(at='mid')"
            )
        return said.maps


def _require_temperature(tau: float) -> None:
    if not 0 < tau < math.inf:
        raise LimbeckError(
            f"a temperature is a number above zero, and here it is {tau}: let its schedule end above zero"
        )
