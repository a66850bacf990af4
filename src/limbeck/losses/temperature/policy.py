"""What a temperature policy is, how a term asks one, and how an objective hears what it said.

Every policy comes down to this: a loss is taken of two logits at one temperature. Where student and teacher have
temperatures of their own (τ_s, τ_t), the logits are scaled so that the loss at τ = √(τ_s·τ_t) is the one that is meant:
z_s·τ/τ_s divided by τ is z_s/τ_s, and the factor τ² is τ_s·τ_t.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple, Protocol, final, runtime_checkable

import torch
from torch import Tensor

from limbeck.core.outputs import Outputs
from limbeck.core.progress import Progress
from limbeck.core.schedules import Schedule, resolve
from limbeck.losses.temperature.entropy import normalized_entropy

__all__ = ["LogitLoss", "ScaledLogits", "Temperature", "TemperatureRecord", "apply_temperature", "record_temperatures"]


class ScaledLogits(NamedTuple):
    """What a loss on responses is taken of.

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
    """A policy: what both said, and how far training is, give the temperature of this batch."""

    def __call__(self, student: Outputs, teacher: Outputs, progress: Progress) -> ScaledLogits:
        """The logits and the temperature at which the loss of this batch is taken."""
        ...

    def bounds(self) -> tuple[float, float]:
        """The lowest and the highest temperature it can give."""
        ...


class LogitLoss(Protocol):
    """A loss of two logits at a temperature, such as :func:`limbeck.losses.kd_loss`."""

    def __call__(self, student: Tensor, teacher: Tensor, /, *, temperature: float | Tensor) -> Tensor:
        """The loss, a scalar."""
        ...


def apply_temperature(
    loss: LogitLoss,
    student: Outputs,
    teacher: Outputs,
    *,
    temperature: float | Schedule | Temperature,
    progress: Progress,
) -> Tensor:
    """``loss`` of what both said, at the temperature that ``temperature`` stands for now.

    Arguments:
        loss: takes student and teacher logits and ``temperature=``.
        student: as ``context.pair()`` gives it, so that both have the same rows.
        teacher: likewise.
        temperature: a number, a schedule or a policy.
        progress: how far training is.

    >>> from limbeck.losses import kd_loss
    >>> from limbeck.losses.temperature import Constant
    >>> said = Outputs(logits=torch.tensor([[2.0, 0.0]])), Outputs(logits=torch.tensor([[0.0, 0.0]]))
    >>> apply_temperature(kd_loss, *said, temperature=Constant(1.0), progress=Progress())
    tensor(0.4338)
    """
    # A number first: asking whether something keeps a protocol takes a few microseconds, at every step.
    if isinstance(temperature, int | float) or not isinstance(temperature, Temperature):
        scaled = ScaledLogits(student.require_logits(), teacher.require_logits(), resolve(temperature, progress))
    else:
        scaled = temperature(student, teacher, progress)
    if (record := _active_record.get()) is not None:
        record.add(scaled)
    return loss(scaled.student, scaled.teacher, temperature=scaled.temperature)


@final
class TemperatureRecord:
    """What was said of temperatures while a term was computed, on the device and without gradients.

    Attributes:
        temperatures: each temperature that was taken.
        teacher_entropy: where it was asked for, how flat the teacher's answer was at that temperature: the mean over
            rows of its entropy as a share of that of a guess, from 0 to 1.
    """

    def __init__(self, *, with_entropy: bool) -> None:
        self.temperatures: list[float | Tensor] = []
        self.teacher_entropy: list[Tensor] = []
        self._with_entropy = with_entropy

    def add(self, scaled: ScaledLogits) -> None:
        """Take note of what a loss is taken of."""
        temperature = scaled.temperature
        self.temperatures.append(temperature.detach().reshape(-1) if isinstance(temperature, Tensor) else temperature)
        if self._with_entropy and len(scaled.teacher):
            with torch.no_grad():
                divisor = temperature.detach().reshape(-1, 1) if isinstance(temperature, Tensor) else temperature
                self.teacher_entropy.append(normalized_entropy(scaled.teacher.detach() / divisor).mean())


_active_record: ContextVar[TemperatureRecord | None] = ContextVar("_active_record", default=None)


@contextmanager
def record_temperatures(*, with_entropy: bool = False) -> Iterator[TemperatureRecord]:
    """Hear the temperatures that terms take within; ``with_entropy`` asks how flat they make the teacher's answers.

    >>> from limbeck.losses.temperature import Constant
    >>> said = Outputs(logits=torch.tensor([[9.0, 0.0]]))
    >>> with record_temperatures(with_entropy=True) as record:
    ...     _ = apply_temperature(lambda s, t, *, temperature: s.sum(), said, said, temperature=Constant(100.0), progress=Progress())
    >>> record.temperatures, record.teacher_entropy
    ([100.0], [tensor(0.9985)])
    """
    record = TemperatureRecord(with_entropy=with_entropy)
    token = _active_record.set(record)
    try:
        yield record
    finally:
        _active_record.reset(token)
