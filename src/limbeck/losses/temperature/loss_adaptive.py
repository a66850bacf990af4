"""A temperature that rises while the distillation loss stalls and falls as it converges.

Not from a paper. The monitored loss is KL(teacher ‖ student) at the fixed temperature ``start``, since the minimized
loss changes with the temperature. With its exponential moving averages over 10 (fast) and 100 (slow) batches,
g = (slow − fast) / slow, and each batch sets τ ← τ·exp(rate·(1 − g/margin)), with the bracket clamped to −1..1 and τ to
low..high. A constant loss (g = 0) raises τ by ``rate`` per batch; one that falls at twice the ``margin`` lowers it as
much.
"""

from __future__ import annotations

from typing import ClassVar, final

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.core.outputs import Outputs
from limbeck.core.progress import Progress
from limbeck.losses._logits import kl_by_row, log_softmax_pair, require_temperature
from limbeck.losses._ops import require_interval
from limbeck.losses.temperature.policy import ScaledLogits
from limbeck.utils.all_gather import all_gather, get_world_size

_FAST_DECAY, _SLOW_DECAY = 0.9, 0.99


def adapt_temperature(
    temperature: Tensor, fast: Tensor, slow: Tensor, *, rate: float = 0.01, margin: float = 0.02, low: float = 3.0,
    high: float = 6.0,
) -> Tensor:  # fmt: skip
    """The next temperature, τ·exp(rate·(1 − g/margin)) with g = (slow − fast)/slow; all are scalars.

    >>> adapt_temperature(torch.tensor(4.0), torch.tensor(1.0), torch.tensor(1.0), rate=0.1)
    tensor(4.4207)
    """
    improvement = (slow - fast) / slow.clamp(min=torch.finfo(slow.dtype).tiny)
    direction = (1.0 - improvement / margin).clamp(-1.0, 1.0)
    return (temperature * torch.exp(rate * direction)).clamp(low, high)


@final
class LossAdaptive(nn.Module):
    """One temperature for all rows, moved by :func:`adapt_temperature` after each batch of training.

    Args:
        start: initial temperature, and that of the monitored loss.
        low: lower bound.
        high: upper bound.
        rate: the largest relative change per batch.
        margin: relative difference of the averages at which τ is constant.

    Its state is in buffers, without synchronization of the device. Several processes monitor the loss of all batches.
    It is constant in eval mode.

    >>> policy = LossAdaptive(start=4.0, high=8.0, rate=0.1)
    >>> outputs = Outputs(logits=torch.tensor([[1.0, 0.0]])), Outputs(logits=torch.tensor([[0.0, 2.0]]))
    >>> [round(float(policy(*outputs, Progress()).temperature), 3) for _ in range(3)]
    [4.0, 4.421, 4.886]
    """

    uses_softmax: ClassVar = True
    temperature: Tensor
    fast: Tensor
    slow: Tensor
    initialized: Tensor

    def __init__(
        self, start: float = 4.0, *, low: float = 3.0, high: float = 6.0, rate: float = 0.01, margin: float = 0.02
    ) -> None:
        super().__init__()
        require_temperature(low)
        if not low <= start <= high or not low < high:
            raise LimbeckError(
                f"LossAdaptive must start between low and high, got low {low:g}, start {start:g}, high {high:g}"
            )
        require_interval("rate", rate, "(0, 1]")
        require_interval("margin", margin, "(0, 1)")
        self.start, self.low, self.high, self.rate, self.margin = start, low, high, rate, margin
        for name, value in (("temperature", start), ("fast", 0.0), ("slow", 0.0), ("initialized", 0.0)):
            self.register_buffer(name, torch.tensor(float(value)))

    def forward(self, student: Outputs, teacher: Outputs, progress: Progress) -> ScaledLogits:
        """The temperature before the update by this batch."""
        # A copy, since autograd may save the tensor that is updated in place.
        scaled = ScaledLogits(student.require_logits(), teacher.require_logits(), self.temperature.clone())
        if self.training:
            self._update(scaled.student.detach(), scaled.teacher.detach())
        return scaled

    def bounds(self) -> tuple[float, float]:
        return self.low, self.high

    @torch.no_grad()
    def _update(self, student: Tensor, teacher: Tensor) -> None:
        is_distributed = get_world_size() > 1
        if not len(student) and not is_distributed:
            return
        log_q, log_p, _ = log_softmax_pair(student, teacher, self.start)
        total = kl_by_row(log_q, log_p).sum()
        sum_and_count = torch.stack([total, total.new_tensor(float(len(student)))])
        if is_distributed:
            sum_and_count = all_gather(sum_and_count[None]).sum(dim=0)
        loss = (sum_and_count[0] / sum_and_count[1].clamp(min=1.0)).to(self.fast)
        is_first = self.initialized == 0
        self.fast.copy_(torch.where(is_first, loss, _FAST_DECAY * self.fast + (1 - _FAST_DECAY) * loss))
        self.slow.copy_(torch.where(is_first, loss, _SLOW_DECAY * self.slow + (1 - _SLOW_DECAY) * loss))
        self.initialized.fill_(1.0)
        bounds = {"low": self.low, "high": self.high}
        self.temperature.copy_(
            adapt_temperature(self.temperature, self.fast, self.slow, rate=self.rate, margin=self.margin, **bounds)
        )

    def __repr__(self) -> str:
        return f"LossAdaptive({self.extra_repr()})"

    def extra_repr(self) -> str:
        return f"start={self.start}, low={self.low}, high={self.high}, rate={self.rate}, margin={self.margin}"
