"""The protocol of temperature policies, and how a loss applies one.

A policy maps the outputs of student and teacher to logits and one temperature. Where student and teacher have different
temperatures (τ_s, τ_t), it scales the logits so that the loss at τ = √(τ_s·τ_t) is the intended one: z_s·τ/τ_s divided
by τ is z_s/τ_s, and the factor τ² is τ_s·τ_t.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, final, runtime_checkable

import torch
from torch import Tensor

from limbeck.core.loss_context import LossContext
from limbeck.core.outputs import Outputs
from limbeck.core.progress import Progress
from limbeck.core.schedules import Schedule, resolve
from limbeck.losses.temperature.entropy import normalized_entropy


class ScaledLogits(NamedTuple):
    """Logits ``[rows, classes]``, and the temperature: a number, or a tensor of one number or of ``[rows]``."""

    student: Tensor
    teacher: Tensor
    temperature: float | Tensor


@runtime_checkable
class Temperature(Protocol):
    """A temperature policy.

    One with a true attribute ``uses_softmax`` reads a row of logits as one distribution over classes; it is refused for
    heads with a sigmoid for each class.
    """

    def __call__(self, student: Outputs, teacher: Outputs, progress: Progress) -> ScaledLogits:
        """The logits and the temperature of this batch."""
        ...

    def bounds(self) -> tuple[float, float]:
        """The lowest and the highest temperature of the policy."""
        ...


def uses_softmax(temperature: object) -> bool:
    """Whether ``temperature`` is a policy that reads a row of logits as one distribution over classes."""
    return bool(getattr(temperature, "uses_softmax", False))


def apply_temperature(
    loss: Callable[..., Tensor],
    context: LossContext,
    *,
    temperature: float | Schedule | Temperature | None = None,
    teacher: str | None = None,
) -> Tensor:
    """``loss`` of the student's and a teacher's logits at ``temperature``.

    Args:
        loss: takes student and teacher logits and ``temperature=``.
        context: the context of the batch.
        temperature: a number, a schedule or a policy; ``None``: ``context.default_temperature``.
        teacher: name of the teacher; ``None``: the ensemble of all.

    >>> from limbeck.losses import kd_loss
    >>> student, teacher = Outputs(logits=torch.tensor([[2.0, 0.0]])), Outputs(logits=torch.tensor([[0.0, 0.0]]))
    >>> apply_temperature(kd_loss, LossContext(student=student, teacher=teacher), temperature=1.0)
    tensor(0.4338)
    """
    student_outputs, teacher_outputs = context.pair(teacher)
    temperature = context.default_temperature if temperature is None else temperature
    # Numbers first: isinstance of a protocol takes microseconds at every step.
    if isinstance(temperature, int | float) or not isinstance(temperature, Temperature):
        value = resolve(temperature, context.progress)
        scaled = ScaledLogits(student_outputs.require_logits(), teacher_outputs.require_logits(), value)
    else:
        scaled = temperature(student_outputs, teacher_outputs, context.progress)
    if context.temperature_record is not None:
        context.temperature_record(scaled.temperature, scaled.teacher)
    return loss(scaled.student, scaled.teacher, temperature=scaled.temperature)


@final
@dataclass(slots=True, kw_only=True)
class TemperatureRecord:
    """Temperatures at which one loss was computed, on the device and without gradients.

    Attributes:
        with_entropy: whether ``teacher_entropy`` is recorded.
        temperatures: numbers, or tensors of one number or of ``[rows]``.
        teacher_entropy: mean over rows of the normalized entropy of the teacher's softmax at that temperature.
    """

    with_entropy: bool = False
    temperatures: list[float | Tensor] = field(default_factory=list)
    teacher_entropy: list[Tensor] = field(default_factory=list)

    @torch.no_grad()
    def __call__(self, temperature: float | Tensor, teacher: Tensor) -> None:
        if isinstance(temperature, Tensor):
            temperature = temperature.detach().reshape(-1)
        self.temperatures.append(temperature)
        if self.with_entropy and len(teacher):
            divisor = temperature.unsqueeze(1) if isinstance(temperature, Tensor) else temperature
            self.teacher_entropy.append(normalized_entropy(teacher.detach() / divisor).mean())
