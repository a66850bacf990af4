"""A temperature that is learned against the student (curriculum temperature, CTKD; Li et al., AAAI 2023).

https://arxiv.org/abs/2211.16231. τ = low + (high − low)·sigmoid(θ), with the paper's 1 and 21. θ is trained by the same
optimizer as the student, with its gradient turned around and times λ: where the student makes the loss smaller, θ makes
it larger, so the task grows harder. λ goes from 0 to 1 by half a cosine wave over the paper's first 10 of 240 epochs;
here, like every schedule, over that fraction of training, ``ramp`` = 10/240. One θ for the run, or a small network that
gives θ for each sample from what student and teacher say; it sees probabilities where the paper's sees logits, which
have no bounds. The paper does not say where θ starts; its code starts at τ = 15.6, and here ``start`` says.
"""

from __future__ import annotations

import math
from typing import Any, Literal, final

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import Exchange
from limbeck.core.outputs import Outputs
from limbeck.core.progress import Progress
from limbeck.losses._logits import require_temperature
from limbeck.losses._ops import widen
from limbeck.losses.temperature.policy import Tempered

__all__ = ["Learned"]


@final
class Learned(nn.Module):
    """A temperature with parameters of its own, which make the loss larger.

    Arguments:
        per: one temperature for the ``run``, or one for each ``sample``.
        start: the temperature to begin with.
        low: it stays above.
        high: it stays below.
        ramp: the fraction of training over which the reversed gradient grows to its full size.
        strength: its full size, as a share of the gradient.
        width: hidden units of the network, where there is one.

    An optimizer with weight decay pulls θ towards 0, which is the middle between low and high.

    >>> policy = Learned(start=4.0)
    >>> said = Outputs(logits=torch.tensor([[1.0, 0.0]])), Outputs(logits=torch.tensor([[0.0, 2.0]]))
    >>> tau = policy(*said, Progress(step=1, steps=4)).tau
    >>> (3.0 * tau).sum().backward()
    >>> tau.detach(), policy.theta.grad  # −λ · 3 · (high − low)·σ(1 − σ), with λ = 1
    (tensor([4.]), tensor([-7.6500]))
    """

    def __init__(
        self, *, per: Literal["run", "sample"] = "run", start: float = 4.0, low: float = 1.0, high: float = 21.0,
        ramp: float = 10 / 240, strength: float = 1.0, width: int = 64,
    ) -> None:  # fmt: skip
        super().__init__()
        require_temperature(low)
        if per not in ("run", "sample"):
            raise LimbeckError(f"Learned is per 'run' or per 'sample', not {per!r}")
        if not low < start < high:
            raise LimbeckError(f"Learned starts between low and high, and here {low:g}, {start:g}, {high:g} stand")
        if not 0 < ramp <= 1 or not strength > 0 or width < 1:
            raise LimbeckError(
                f"Learned takes a ramp above 0 and up to 1, a strength above 0 and a width from 1, not {ramp}, "
                f"{strength} and {width}"
            )
        self.per, self.start, self.low, self.high = per, start, low, high
        self.ramp, self.strength, self.width = ramp, strength, width
        share = (start - low) / (high - low)
        # One number of shape [1]: FSDP shares out no parameter without an axis.
        self.theta = nn.Parameter(torch.tensor([math.log(share / (1 - share))]))
        self.network: nn.Module | None = None

    def prepare(self, exchange: Exchange) -> None:
        """Make the network, where there is one, for as many classes as the student knows."""
        if self.per == "sample":
            rows = widen(exchange.student.rows())
            last = nn.Linear(self.width, 1, bias=False)
            # It begins with the same temperature for every sample.
            nn.init.zeros_(last.weight)
            self.network = nn.Sequential(nn.Linear(2 * rows.shape[1], self.width), nn.ReLU(), last).to(rows)

    def forward(self, student: Outputs, teacher: Outputs, progress: Progress) -> Tempered:
        """The temperature of this batch, ``[1]`` or ``[rows]``, its gradient turned around."""
        theta = self.theta.float()
        if self.per == "sample":
            if self.network is None:
                raise LimbeckError(
                    "Learned has no network yet: call distiller.prepare(batch) before building the optimizer"
                )
            theta = theta + self._by_row(student.rows(), teacher.rows())
        tau = self.low + (self.high - self.low) * theta.sigmoid()
        turned: Tensor = _Turned.apply(tau, self.reversal(progress))
        return Tempered(student.rows(), teacher.rows(), turned)

    def reversal(self, progress: Progress) -> float:
        """How much of the gradient, turned around, θ gets at this moment.

        >>> [round(Learned(ramp=0.5).reversal(Progress(step=i, steps=8)), 3) for i in (0, 2, 4, 8)]
        [0.0, 0.5, 1.0, 1.0]
        """
        return self.strength * 0.5 * (1.0 - math.cos(math.pi * min(progress.fraction / self.ramp, 1.0)))

    def bounds(self) -> tuple[float, float]:
        """Lowest and highest."""
        return self.low, self.high

    def _by_row(self, student: Tensor, teacher: Tensor) -> Tensor:
        assert self.network is not None
        seen = torch.cat([widen(one.detach()).softmax(dim=1) for one in (student, teacher)], dim=1)
        weight = next(self.network.parameters())
        found: Tensor = self.network(seen.to(weight.dtype)).squeeze(1).float()
        return found

    def __repr__(self) -> str:
        return f"Learned({self.extra_repr()})"

    def extra_repr(self) -> str:
        width = f", width={self.width}" if self.per == "sample" else ""
        return (
            f"per={self.per!r}, start={self.start}, low={self.low}, high={self.high}, ramp={self.ramp:.6g}, "
            f"strength={self.strength}{width}"
        )


class _Turned(torch.autograd.Function):
    """The same number, its gradient times −λ (Ganin & Lempitsky, ICML 2015, https://arxiv.org/abs/1409.7495)."""

    @staticmethod
    def forward(ctx: Any, tau: Tensor, share: float) -> Tensor:
        ctx.share = share
        # A copy and not a view: FSDP2 warns of modules that give views.
        return tau.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return -ctx.share * gradient, None
