"""A temperature that rises while the distillation loss stalls and falls as it converges.

No paper's: the rule is stated here whole. What is watched is KL(teacher ‖ student) at one fixed temperature, ``start``,
and not the loss that is minimised: that one changes with the temperature itself, and following it would chase its own
tail. Two running means of it, of 10 and of 100 batches, tell how fast it falls: g = (slow − fast) / slow. Each batch
then makes τ ← τ·exp(rate·(1 − g/margin)), the bracket cut to −1..1 and τ to low..high. A loss that stands still (g = 0)
or grows raises τ by ``rate`` a batch; one that falls at twice the ``margin`` or faster lowers it by as much.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError
from limbeck.core.outputs import Outputs
from limbeck.core.progress import Progress
from limbeck.losses._logits import require_temperature
from limbeck.losses._ops import widen
from limbeck.losses.temperature.policy import Tempered
from limbeck.utils.all_gather import gather, world

__all__ = ["LossAdaptive", "adapted"]

_FAST, _SLOW = 0.9, 0.99


def adapted(
    tau: Tensor, fast: Tensor, slow: Tensor, *, rate: float = 0.01, margin: float = 0.02, low: float = 3.0,
    high: float = 6.0,
) -> Tensor:  # fmt: skip
    """The next temperature: τ·exp(rate·(1 − g/margin)), with g = (slow − fast)/slow; the rule of this module.

    Shapes: scalars.

    >>> adapted(torch.tensor(4.0), torch.tensor(1.0), torch.tensor(1.0), rate=0.1)
    tensor(4.4207)
    >>> adapted(torch.tensor(4.0), torch.tensor(0.5), torch.tensor(1.0), rate=0.1)
    tensor(3.6193)
    """
    gain = (slow - fast) / slow.clamp(min=torch.finfo(slow.dtype).tiny)
    drive = (1.0 - gain / margin).clamp(-1.0, 1.0)
    return (tau * torch.exp(rate * drive)).clamp(low, high)


@final
class LossAdaptive(nn.Module):
    """One temperature for all rows, moved by :func:`adapted` after each batch of training; bounded.

    Arguments:
        start: the temperature to begin with, and the one at which the loss is watched.
        low: it goes no lower.
        high: it goes no higher.
        rate: the largest change by one batch, as a share.
        margin: how much lower than the slow mean the fast one is when τ rests.

    Its state is of tensors on the device, nothing waits for them, and they are saved and restored with the terms. All
    processes of a run watch the loss of their batches together. In eval mode it does not move.

    >>> policy = LossAdaptive(start=4.0, high=8.0, rate=0.1)
    >>> said = Outputs(logits=torch.tensor([[1.0, 0.0]])), Outputs(logits=torch.tensor([[0.0, 2.0]]))
    >>> [round(float(policy(*said, Progress()).tau), 3) for _ in range(3)]
    [4.0, 4.421, 4.886]
    """

    tau: Tensor
    fast: Tensor
    slow: Tensor
    seen: Tensor

    def __init__(
        self, start: float = 4.0, *, low: float = 3.0, high: float = 6.0, rate: float = 0.01, margin: float = 0.02
    ) -> None:
        super().__init__()
        require_temperature(low)
        if not low <= start <= high or not low < high:
            raise LimbeckError(f"LossAdaptive starts between low and high, and here {low:g}, {start:g}, {high:g} stand")
        if not 0 < rate <= 1 or not 0 < margin < 1:
            raise LimbeckError(f"rate and margin of LossAdaptive are shares above 0 and up to 1, not {rate}, {margin}")
        self.start, self.low, self.high, self.rate, self.margin = start, low, high, rate, margin
        for name, value in (("tau", start), ("fast", 0.0), ("slow", 0.0), ("seen", 0.0)):
            self.register_buffer(name, torch.tensor(float(value)))

    def forward(self, student: Outputs, teacher: Outputs, progress: Progress) -> Tempered:
        """The temperature before this batch moved it, so that no batch chooses its own."""
        # A copy: what autograd has put by must not change when the temperature moves.
        found = Tempered(student.rows(), teacher.rows(), self.tau.clone())
        if self.training:
            self._follow(found.student.detach(), found.teacher.detach())
        return found

    def bounds(self) -> tuple[float, float]:
        """Lowest and highest."""
        return self.low, self.high

    @torch.no_grad()
    def _follow(self, student: Tensor, teacher: Tensor) -> None:
        together = world() > 1
        if not len(student) and not together:
            return
        watched = _watched(student, teacher, self.start)
        if together:
            watched = gather(watched[None]).sum(dim=0)
        loss = (watched[0] / watched[1].clamp(min=1.0)).to(self.fast)
        first = self.seen == 0
        self.fast.copy_(torch.where(first, loss, _FAST * self.fast + (1 - _FAST) * loss))
        self.slow.copy_(torch.where(first, loss, _SLOW * self.slow + (1 - _SLOW) * loss))
        self.seen.fill_(1.0)
        self.tau.copy_(
            adapted(
                self.tau, self.fast, self.slow, rate=self.rate, margin=self.margin, low=self.low, high=self.high
            )
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"LossAdaptive({self.extra_repr()})"

    def extra_repr(self) -> str:
        return f"start={self.start}, low={self.low}, high={self.high}, rate={self.rate}, margin={self.margin}"


def _watched(student: Tensor, teacher: Tensor, tau: float) -> Tensor:
    """The sum over rows of KL(teacher ‖ student) at ``tau``, and how many rows there are, ``[2]``."""
    student, teacher = widen(student), widen(teacher)
    least = torch.finfo(student.dtype).min
    log_q = F.log_softmax(student / tau, dim=1).clamp(min=least)
    log_p = F.log_softmax(teacher / tau, dim=1).clamp(min=least)
    total = F.kl_div(log_q, log_p, reduction="sum", log_target=True)
    return torch.stack([total, total.new_tensor(float(len(student)))])
