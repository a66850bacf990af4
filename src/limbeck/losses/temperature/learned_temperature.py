"""A temperature learned against the student (curriculum temperature, CTKD; Li et al., AAAI 2023).

https://arxiv.org/abs/2211.16231. τ = low + (high − low)·sigmoid(θ). θ is trained by the optimizer of the student with
its gradient reversed and scaled by λ, so that θ increases the loss. λ rises from 0 to 1 by a cosine over
``warmup_fraction`` of training (in the paper 10 of 240 epochs). θ is one number, or the output of a small network for
each sample, whose inputs are probabilities (the paper's are logits).
"""

from __future__ import annotations

import math
from typing import Any, Literal, final

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import LossContext
from limbeck.core.outputs import Outputs
from limbeck.core.progress import Progress
from limbeck.losses._features import require_prepared
from limbeck.losses._logits import require_temperature
from limbeck.losses._ops import require_interval, upcast
from limbeck.losses.temperature.policy import ScaledLogits


@final
class Learned(nn.Module):
    """A temperature with parameters that maximize the loss.

    Args:
        granularity: one temperature for the ``run``, or one for each ``sample``.
        start: initial temperature.
        low: lower bound.
        high: upper bound.
        warmup_fraction: fraction of training over which the reversed gradient is warmed up.
        strength: factor of the reversed gradient after the warmup.
        hidden_dim: hidden units of the network (``sample``).

    Weight decay moves θ towards 0, the middle between low and high.

    >>> policy = Learned(start=4.0)
    >>> outputs = Outputs(logits=torch.tensor([[1.0, 0.0]])), Outputs(logits=torch.tensor([[0.0, 2.0]]))
    >>> temperature = policy(*outputs, Progress(step=1, steps=4)).temperature
    >>> (3.0 * temperature).sum().backward()
    >>> temperature.detach(), policy.theta.grad  # −λ · 3 · (high − low)·σ(1 − σ), with λ = 1
    (tensor([4.]), tensor([-7.6500]))
    """

    def __init__(
        self, *, granularity: Literal["run", "sample"] = "run", start: float = 4.0, low: float = 1.0,
        high: float = 21.0, warmup_fraction: float = 10 / 240, strength: float = 1.0, hidden_dim: int = 64,
    ) -> None:  # fmt: skip
        super().__init__()
        require_temperature(low)
        if granularity not in ("run", "sample"):
            raise LimbeckError(f"the granularity of Learned must be 'run' or 'sample', got {granularity!r}")
        if not low < start < high:
            raise LimbeckError(
                f"Learned must start between low and high, got low {low:g}, start {start:g}, high {high:g}"
            )
        require_interval("warmup_fraction", warmup_fraction, "(0, 1]")
        require_interval("strength", strength, "(0, inf)")
        require_interval("hidden_dim", hidden_dim, "[1, inf)")
        self.granularity, self.start, self.low, self.high = granularity, start, low, high
        self.warmup_fraction, self.strength, self.hidden_dim = warmup_fraction, strength, hidden_dim
        fraction = (start - low) / (high - low)
        # Shape [1], since FSDP cannot shard a scalar.
        self.theta = nn.Parameter(torch.tensor([math.log(fraction / (1 - fraction))]))
        self.network: nn.Module | None = None

    @property
    def uses_softmax(self) -> bool:
        """Whether it reads probabilities."""
        return self.granularity == "sample"

    def prepare(self, context: LossContext) -> None:
        """Build the network for the number of classes of the student."""
        if self.granularity == "sample":
            logits = upcast(context.student.require_logits())
            output_layer = nn.Linear(self.hidden_dim, 1, bias=False)
            # The same initial temperature for every sample.
            nn.init.zeros_(output_layer.weight)
            self.network = nn.Sequential(nn.Linear(2 * logits.shape[1], self.hidden_dim), nn.ReLU(), output_layer).to(
                logits
            )

    def forward(self, student: Outputs, teacher: Outputs, progress: Progress) -> ScaledLogits:
        """The temperature of this batch, ``[1]`` or ``[rows]``, its gradient reversed."""
        theta = self.theta.float()
        if self.granularity == "sample":
            theta = theta + self._predict_theta(student.require_logits(), teacher.require_logits())
        temperature = self.low + (self.high - self.low) * theta.sigmoid()
        reversed_temperature: Tensor = _GradientReversal.apply(temperature, self.reversal_factor(progress))
        return ScaledLogits(student.require_logits(), teacher.require_logits(), reversed_temperature)

    def reversal_factor(self, progress: Progress) -> float:
        """λ, the factor of the reversed gradient of θ.

        >>> [round(Learned(warmup_fraction=0.5).reversal_factor(Progress(step=i, steps=8)), 3) for i in (0, 2, 4, 8)]
        [0.0, 0.5, 1.0, 1.0]
        """
        return self.strength * 0.5 * (1.0 - math.cos(math.pi * min(progress.fraction / self.warmup_fraction, 1.0)))

    def bounds(self) -> tuple[float, float]:
        return self.low, self.high

    def _predict_theta(self, student: Tensor, teacher: Tensor) -> Tensor:
        network = require_prepared(self.network, "Learned")
        inputs = torch.cat([upcast(logits.detach()).softmax(dim=1) for logits in (student, teacher)], dim=1)
        weight = next(network.parameters())
        theta: Tensor = network(inputs.to(weight.dtype)).squeeze(1).float()
        return theta

    def __repr__(self) -> str:
        return f"Learned({self.extra_repr()})"

    def extra_repr(self) -> str:
        hidden_dim = f", hidden_dim={self.hidden_dim}" if self.granularity == "sample" else ""
        return (
            f"granularity={self.granularity!r}, start={self.start}, low={self.low}, high={self.high}, "
            f"warmup_fraction={self.warmup_fraction:.6g}, strength={self.strength}{hidden_dim}"
        )


class _GradientReversal(torch.autograd.Function):
    """The identity, with its gradient multiplied by −λ (Ganin & Lempitsky, https://arxiv.org/abs/1409.7495)."""

    @staticmethod
    def forward(ctx: Any, temperature: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        # A copy, since FSDP2 warns of modules that return views.
        return temperature.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return -ctx.factor * gradient, None
