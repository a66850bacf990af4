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
from limbeck.core.schedules import Schedule, at
from limbeck.losses.temperature.entropy import entropy_share

__all__ = ["Heard", "Loss", "Temperature", "Tempered", "listening", "tempered"]


class Tempered(NamedTuple):
    """What a loss on responses is taken of.

    Attributes:
        student: logits ``[rows, classes]``.
        teacher: logits ``[rows, classes]``.
        tau: the temperature: a number, or a tensor of one number or of ``[rows]``.
    """

    student: Tensor
    teacher: Tensor
    tau: float | Tensor


@runtime_checkable
class Temperature(Protocol):
    """A policy: what both said, and how far training is, give the temperature of this batch."""

    def __call__(self, student: Outputs, teacher: Outputs, progress: Progress) -> Tempered:
        """The logits and the temperature at which the loss of this batch is taken."""
        ...

    def bounds(self) -> tuple[float, float]:
        """The lowest and the highest temperature it can give."""
        ...


class Loss(Protocol):
    """A loss of two logits at a temperature, such as :func:`limbeck.losses.kd`."""

    def __call__(self, student: Tensor, teacher: Tensor, /, *, tau: float | Tensor) -> Tensor:
        """The loss, a scalar."""
        ...


def tempered(
    loss: Loss, student: Outputs, teacher: Outputs, *, tau: float | Schedule | Temperature, progress: Progress
) -> Tensor:
    """``loss`` of what both said, at the temperature that ``tau`` stands for now.

    Arguments:
        loss: takes student and teacher logits and ``tau=``.
        student: as ``exchange.pair()`` gives it, so that both have the same rows.
        teacher: likewise.
        tau: a number, a schedule or a policy.
        progress: how far training is.

    >>> from limbeck.losses import soft_target
    >>> from limbeck.losses.temperature import Fixed
    >>> said = Outputs(logits=torch.tensor([[2.0, 0.0]])), Outputs(logits=torch.tensor([[0.0, 0.0]]))
    >>> tempered(soft_target, *said, tau=Fixed(1.0), progress=Progress())
    tensor(0.4338)
    """
    # A number first: asking whether something keeps a protocol takes a few microseconds, at every step.
    if isinstance(tau, int | float) or not isinstance(tau, Temperature):
        found = Tempered(student.rows(), teacher.rows(), at(tau, progress))
    else:
        found = tau(student, teacher, progress)
    if (heard := _heard.get()) is not None:
        heard.hear(found)
    return loss(found.student, found.teacher, tau=found.tau)


@final
class Heard:
    """What was said of temperatures while a term was computed, on the device and without gradients.

    Attributes:
        tau: each temperature that was taken.
        flat: where it was asked for, how flat the teacher's answer was at that temperature: the mean over rows of its
            entropy as a share of that of a guess, from 0 to 1.
    """

    def __init__(self, *, flatness: bool) -> None:
        self.tau: list[float | Tensor] = []
        self.flat: list[Tensor] = []
        self._flatness = flatness

    def hear(self, found: Tempered) -> None:
        """Take note of what a loss is taken of."""
        tau = found.tau
        self.tau.append(tau.detach().reshape(-1) if isinstance(tau, Tensor) else tau)
        if self._flatness and len(found.teacher):
            with torch.no_grad():
                by_row = tau.detach().reshape(-1, 1) if isinstance(tau, Tensor) else tau
                self.flat.append(entropy_share(found.teacher.detach() / by_row).mean())


_heard: ContextVar[Heard | None] = ContextVar("_heard", default=None)


@contextmanager
def listening(*, flatness: bool = False) -> Iterator[Heard]:
    """Hear the temperatures that terms take within; ``flatness`` asks how flat they make the teacher's answers.

    >>> from limbeck.losses.temperature import Fixed
    >>> said = Outputs(logits=torch.tensor([[9.0, 0.0]]))
    >>> with listening(flatness=True) as heard:
    ...     _ = tempered(lambda s, t, *, tau: s.sum(), said, said, tau=Fixed(100.0), progress=Progress())
    >>> heard.tau, heard.flat
    ([100.0], [tensor(0.9985)])
    """
    heard = Heard(flatness=flatness)
    token = _heard.set(heard)
    try:
        yield heard
    finally:
        _heard.reset(token)
