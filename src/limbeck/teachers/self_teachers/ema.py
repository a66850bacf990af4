"""The moving average of the student as its teacher (Mean Teacher: Tarvainen & Valpola, NeurIPS 2017).

https://arxiv.org/abs/1703.01780. Before each step, average ← decay · average + (1 − decay) · student, over every
parameter. Buffers are copied and not averaged: BatchNorm's statistics are moving averages already, and those of the
start would stay wrong for as long as the weights do. The paper's code raises the decay at the beginning,
min(decay, 1 − 1/(step + 1)); here a schedule does that.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, Self, final

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.core.outputs import Outputs
from limbeck.core.progress import Progress
from limbeck.core.protocols import Task
from limbeck.core.schedules import Schedule, resolve
from limbeck.teachers.frozen import FrozenTeacher

__all__ = ["EMATeacher"]


@final
class EMATeacher:
    """A teacher whose weights are the moving average of the student's.

    Arguments:
        decay: the share of the average that stays, from 0 to below 1, or a schedule of it. Its memory is about
            1/(1 − decay) steps: 0.999 is for thousands of them.

    It answers in eval mode, without gradients, and may be tapped where the student may. It moves once for each step of
    ``distiller.progress``; in a loop of your own that leaves the clock alone, at each training batch. Its weights are
    part of a checkpoint.

    >>> import limbeck
    >>> from limbeck.losses import KDLoss
    >>> student, task = nn.Linear(4, 3), limbeck.tasks.Classification(classes=3)
    >>> distiller = limbeck.Distiller(student, EMATeacher(decay=0.9), objective={"soft": KDLoss()}, task=task)
    >>> before = student.weight.detach().clone()
    >>> with torch.no_grad():
    ...     _ = student.weight.add_(1.0)
    >>> _ = distiller((torch.randn(8, 4), torch.zeros(8, dtype=torch.long)))
    >>> round(float((distiller.teachers["teacher"].network.weight - before).mean()), 6)
    0.1
    """

    def __init__(self, decay: float | Schedule = 0.999) -> None:
        if not callable(decay):
            _check_decay(decay)
        self.decay = decay
        self._teacher: FrozenTeacher | None = None
        self._step: int | None = None

    @property
    def network(self) -> nn.Module | None:
        """The averaged network, once there is a student."""
        return None if self._teacher is None else self._teacher.network

    def bind_student(self, student: nn.Module) -> Self:
        """One of its own for ``student``, which begins as its copy."""
        for name, parameter in student.named_parameters():
            if parameter.dtype in (torch.float16, torch.bfloat16):
                raise LimbeckError(
                    f"the parameter {name!r} is {parameter.dtype}, in which an average would stand still: keep the "
                    "weights in float32 (precision bf16-mixed does)"
                )
        teacher = type(self)(self.decay)
        teacher._teacher = FrozenTeacher(copy.deepcopy(student))
        return teacher

    def with_features(self, feature_layers: Mapping[str, str]) -> Self:
        """The same with features read at ``feature_layers``."""
        teacher = type(self)(self.decay)
        teacher._teacher = self._require_teacher().with_features(feature_layers)
        return teacher

    def on_step_start(self, student: nn.Module, progress: Progress) -> None:
        """Move towards ``student``, once for each step."""
        if progress.steps and progress.step == self._step:
            return  # another batch of the same step: the student has not moved either
        self._step = progress.step
        decay = resolve(self.decay, progress)
        _check_decay(decay)
        network = self._require_teacher().network
        ema_parameters: list[Tensor] = list(network.parameters())
        student_parameters: list[Tensor] = list(student.parameters())
        if any(type(parameter).__name__ == "DTensor" for parameter in student_parameters):
            raise LimbeckError(
                "EMATeacher keeps whole weights, and under the strategy fsdp no process has the student's: set the "
                "strategy to ddp"
            )
        with torch.no_grad():
            if ema_parameters:
                torch._foreach_lerp_(ema_parameters, student_parameters, 1.0 - decay)
            for ema_buffer, buffer in zip(network.buffers(), student.buffers(), strict=True):
                ema_buffer.copy_(buffer)

    def predict(self, batch: Any, task: Task) -> Outputs:
        """What the averaged network says about ``batch``."""
        return self._require_teacher().predict(batch, task)

    def to(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Follow ``nn.Module.to``."""
        if self._teacher is not None:
            self._teacher.to(fn)

    def state_dict(self) -> dict[str, Any]:
        """The average's weights and buffers."""
        return dict(self._require_teacher().network.state_dict())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put them back."""
        self._require_teacher().network.load_state_dict(state)
        self._step = None

    def _require_teacher(self) -> FrozenTeacher:
        if self._teacher is None:
            raise LimbeckError("EMATeacher has no student yet: give it to a Distiller, which binds it to its own")
        return self._teacher

    def __repr__(self) -> str:
        return f"EMATeacher(decay={self.decay})"


def _check_decay(decay: float) -> None:
    if not 0 <= decay < 1:
        raise LimbeckError(f"the decay of an average is from 0 to below 1, such as 0.999, not {decay}")
