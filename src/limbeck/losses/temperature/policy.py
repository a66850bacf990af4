"""The protocol of temperature policies, and how a loss applies one.

A policy maps the outputs of student and teacher to logits and one temperature. Where student and teacher have different
temperatures (τ_s, τ_t), it scales the logits so that the loss at τ = √(τ_s·τ_t) is the intended one: z_s·τ/τ_s divided
by τ is z_s/τ_s, and the factor τ² is τ_s·τ_t.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from limbeck.core.loss_context import LossContext, TemperatureRecord
from limbeck.core.outputs import Outputs
from limbeck.core.progress import Progress
from limbeck.core.schedules import Schedule, resolve
from limbeck.losses.temperature.entropy import normalized_entropy

__all__ = ["LogitLoss", "ScaledLogits", "Temperature", "apply_temperature"]


class ScaledLogits(NamedTuple):
    """The arguments of a loss on logits.

    Attributes:
        student: logits ``[rows, classes]``.
        teacher: logits ``[rows, classes]``.
        temperature: the temperature: a number, or a tensor of one number or of ``[rows]``.
    """

    student: Tensor
    teacher: Tensor
    temperature: float | Tensor


@runtime_checkable
class Temperature(Protocol):
    """A temperature policy: maps the outputs of student and teacher and the progress to logits and a temperature."""

    def __call__(self, student: Outputs, teacher: Outputs, progress: Progress) -> ScaledLogits:
        """The logits and the temperature of this batch."""
        ...

    def bounds(self) -> tuple[float, float]:
        """The lowest and the highest temperature of the policy."""
        ...


class LogitLoss(Protocol):
    """A function of two logits at a temperature, such as :func:`limbeck.losses.kd_loss`."""

    def __call__(self, student: Tensor, teacher: Tensor, /, *, temperature: float | Tensor) -> Tensor:
        """The loss, a scalar."""
        ...


def apply_temperature(
    loss: LogitLoss,
    context: LossContext,
    *,
    temperature: float | Schedule | Temperature | None = None,
    teacher: str | None = None,
) -> Tensor:
    """``loss`` of the student's and a teacher's logits at ``temperature``, added to ``context.temperature_record``.

    Args:
        loss: takes student and teacher logits and ``temperature=``.
        context: the context of the batch.
        temperature: a number, a schedule or a policy; ``None`` takes ``context.default_temperature``.
        teacher: which teacher; ``None`` takes the combination of all.

    >>> from limbeck.losses import kd_loss
    >>> from limbeck.losses.temperature import Constant
    >>> student, teacher = Outputs(logits=torch.tensor([[2.0, 0.0]])), Outputs(logits=torch.tensor([[0.0, 0.0]]))
    >>> record = TemperatureRecord(with_entropy=True)
    >>> context = LossContext(student=student, teacher=teacher, temperature_record=record)
    >>> apply_temperature(kd_loss, context, temperature=Constant(1.0)), record.temperatures, record.teacher_entropy
    (tensor(0.4338), [1.0], [tensor(1.)])
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
        _record_temperature(context.temperature_record, scaled)
    return loss(scaled.student, scaled.teacher, temperature=scaled.temperature)


@torch.no_grad()
def _record_temperature(record: TemperatureRecord, scaled: ScaledLogits) -> None:
    temperature = scaled.temperature
    if isinstance(temperature, Tensor):
        temperature = temperature.detach().reshape(-1)
    record.temperatures.append(temperature)
    if record.with_entropy and len(scaled.teacher):
        divisor = temperature.unsqueeze(1) if isinstance(temperature, Tensor) else temperature
        record.teacher_entropy.append(normalized_entropy(scaled.teacher.detach() / divisor).mean())
