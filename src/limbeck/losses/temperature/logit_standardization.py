"""Logits of mean 0 and deviation 1 before the temperature (logit standardisation; Sun et al., CVPR 2024).

https://arxiv.org/abs/2403.01427. Each row becomes (z − mean) / (deviation + 1e−7), with the unbiased deviation, for
student and teacher alike; then the loss is taken at a base temperature of 2. So the student is free to have logits of
another size, and it gives up what the size tells: how sure the teacher is (look at its calibration). With two classes
every standardised row is (±0.71, ∓0.71), so nothing but the sign is left. The published gain comes together with a
weight of 9 instead of 0.9: compare with the plain loss at the same weight.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, NamedTuple, final

import torch
from torch import Tensor

from limbeck.core.outputs import Outputs
from limbeck.core.progress import Progress
from limbeck.core.schedules import Schedule, resolve
from limbeck.core.temperature_range import temperature_range
from limbeck.losses._logits import require_temperature
from limbeck.losses._ops import upcast
from limbeck.losses.temperature.entropy import valid_class_mask
from limbeck.losses.temperature.policy import ScaledLogits

__all__ = ["LogitStandardization", "standardize_logits"]

_EPSILON: Final = 1e-7
_MIN_VARIANCE: Final = 1e-20  # a variance below counts as this: the square root of zero has no gradient


def standardize_logits(logits: Tensor) -> Tensor:
    """(z − mean) / (deviation + 1e−7) of each row over its possible classes; a row of equal logits becomes zero.

    Shapes: ``[rows, classes]`` in and out; a logit of −inf stays what it is and counts for nothing.

    >>> standardize_logits(torch.tensor([[1.0, 2.0, 3.0]]))
    tensor([[-1.0000,  0.0000,  1.0000]])
    """
    standardized: Tensor = _StandardizeLogits.apply(upcast(logits))
    return standardized


@final
@dataclass(frozen=True, slots=True)
class LogitStandardization:
    """:func:`standardize_logits` of both, at the base ``temperature``: a number or a schedule.

    >>> said = Outputs(logits=torch.tensor([[10.0, 20.0, 30.0]]))
    >>> LogitStandardization()(said, said, Progress()).student, LogitStandardization().bounds()
    (tensor([[-1.,  0.,  1.]]), (2.0, 2.0))
    """

    temperature: float | Schedule = 2.0

    def __post_init__(self) -> None:
        require_temperature(self.temperature)

    def __call__(self, student: Outputs, teacher: Outputs, progress: Progress) -> ScaledLogits:
        return ScaledLogits(
            standardize_logits(student.require_logits()),
            standardize_logits(teacher.require_logits()),
            resolve(self.temperature, progress),
        )

    def bounds(self) -> tuple[float, float]:
        """Those of the base temperature."""
        return temperature_range(self.temperature)


class _StandardizeLogits(torch.autograd.Function):
    """The gradient is written out, since small logits feel each of autograd's operations.

    With z = away / (deviation + ε), it is g / (deviation + ε) around its mean, less what would change the deviation.
    For a second derivative the parts are made again, from the logits that they depend on.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor) -> Tensor:
        ctx.save_for_backward(logits)
        ctx.transform = stats = _standardization_stats(logits)
        return _fill_invalid(stats.centered / stats.scale, stats.invalid, -torch.inf)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (logits,) = ctx.saved_tensors
        centered, scale, is_constant, num_valid, dof, invalid = (
            _standardization_stats(logits) if torch.is_grad_enabled() else ctx.transform
        )
        grad_centered = _fill_invalid(gradients[0] / scale, invalid, 0.0)
        scale_term = (grad_centered * centered).sum(dim=1, keepdim=True) / (scale * (scale - _EPSILON) * dof)
        scale_term = scale_term.masked_fill(is_constant, 0.0)  # their deviation is the floor, which does not move
        mean = grad_centered.sum(dim=1, keepdim=True) / num_valid
        return _fill_invalid(grad_centered - mean - centered * scale_term, invalid, 0.0)


class _StandardizationStats(NamedTuple):
    """Logits around their mean; deviation + ε; which rows are flat; how many classes are possible; one less, but 1 at
    least; and which classes are ruled out, ``None`` where none is.
    """

    centered: Tensor
    scale: Tensor
    is_constant: Tensor
    num_valid: Tensor | int
    dof: Tensor | int
    invalid: Tensor | None


def _standardization_stats(logits: Tensor) -> _StandardizationStats:
    if logits.is_cpu and logits.numel() and logits.shape[1] > 1 and float(logits.detach().min()) > -torch.inf:
        # A small batch feels each operation, and here looking at the numbers makes nobody wait.
        variance, mean = torch.var_mean(logits, dim=1, keepdim=True)
        is_constant = variance <= _MIN_VARIANCE
        scale = variance.masked_fill(is_constant, _MIN_VARIANCE).sqrt() + _EPSILON
        return _StandardizationStats(logits - mean, scale, is_constant, logits.shape[1], logits.shape[1] - 1, None)
    invalid = ~valid_class_mask(logits)
    num_valid = (logits.shape[1] - invalid.sum(dim=1, keepdim=True)).clamp(min=1)
    # −inf is taken away before the arithmetic: its gradient would be 0 · inf even where it is masked afterwards.
    finite_logits = logits.masked_fill(invalid, 0.0)
    centered = (finite_logits - finite_logits.sum(dim=1, keepdim=True) / num_valid).masked_fill(invalid, 0.0)
    dof = (num_valid - 1).clamp(min=1)
    variance = centered.square().sum(dim=1, keepdim=True) / dof
    is_constant = variance <= _MIN_VARIANCE
    return _StandardizationStats(
        centered,
        variance.masked_fill(is_constant, _MIN_VARIANCE).sqrt() + _EPSILON,
        is_constant,
        num_valid,
        dof,
        invalid,
    )


def _fill_invalid(values: Tensor, invalid: Tensor | None, value: float) -> Tensor:
    return values if invalid is None else values.masked_fill(invalid, value)
