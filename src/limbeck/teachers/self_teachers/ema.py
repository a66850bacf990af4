"""Exponential moving average of the student's weights as its teacher.

Mean Teacher: Tarvainen & Valpola, *Mean teachers are better role models* (NeurIPS 2017,
https://arxiv.org/abs/1703.01780). Before each step, average ← decay · average + (1 − decay) · student for each
parameter. Buffers are copied: BatchNorm statistics are moving averages already. The paper's code starts with
min(decay, 1 − 1/(step + 1)); use a schedule for that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self, final

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.core.outputs import Outputs
from limbeck.core.progress import Progress
from limbeck.core.protocols import Task, Teacher
from limbeck.core.schedules import Schedule, resolve
from limbeck.teachers.frozen import FrozenTeacher
from limbeck.utils.parametrizations import copy_module

__all__ = ["EMATeacher"]


@final
class EMATeacher(Teacher):
    """A teacher whose weights are the exponential moving average (EMA) of the student's.

    Args:
        decay: weight of the average in each update, in [0, 1), or a schedule of it. The average covers about
            1/(1 − decay) steps.

    It predicts in eval mode without gradients, and features may be read where the student's may. It is updated once for
    each step of ``distiller.progress``; in a custom loop without progress, with each training batch. Its weights are
    part of checkpoints.

    >>> import limbeck
    >>> from limbeck.losses import KDLoss
    >>> student, task = nn.Linear(4, 3), limbeck.tasks.Classification(classes=3)
    >>> distiller = limbeck.Distiller(student, EMATeacher(decay=0.9), objective={"kd": KDLoss()}, task=task)
    >>> initial_weight = student.weight.detach().clone()
    >>> with torch.no_grad():
    ...     _ = student.weight.add_(1.0)
    >>> _ = distiller((torch.randn(8, 4), torch.zeros(8, dtype=torch.long)))
    >>> round(float((distiller.teachers["teacher"].network.weight - initial_weight).mean()), 6)
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
        """The averaged network, after :meth:`bind_student`."""
        return None if self._teacher is None else self._teacher.network

    def bind_student(self, student: nn.Module) -> Self:
        """An average for ``student`` that starts as its copy."""
        for name, parameter in student.named_parameters():
            if parameter.dtype in (torch.float16, torch.bfloat16):
                raise LimbeckError(
                    f"parameters must be float32 for EMATeacher, got {name!r} in {parameter.dtype}, which rounds small "
                    "updates away: use precision bf16-mixed"
                )
        teacher = type(self)(self.decay)
        teacher._teacher = FrozenTeacher(copy_module(student))
        return teacher

    def with_features(self, feature_layers: Mapping[str, str]) -> Self:
        """The same with the features at ``feature_layers``."""
        teacher = type(self)(self.decay)
        teacher._teacher = self._require_teacher().with_features(feature_layers)
        return teacher

    @torch.no_grad()
    def on_step_start(self, student: nn.Module, progress: Progress) -> None:
        """Update the average, once for each step."""
        from torch.distributed.tensor import DTensor

        if progress.steps and progress.step == self._step:
            return  # gradient accumulation: the student has not changed
        self._step = progress.step
        decay = resolve(self.decay, progress)
        _check_decay(decay)
        network = self._require_teacher().network
        ema_parameters: list[Tensor] = list(network.parameters())
        student_parameters: list[Tensor] = list(student.parameters())
        if any(isinstance(parameter, DTensor) for parameter in student_parameters):
            raise LimbeckError("EMATeacher needs whole weights in each process, and strategy fsdp shards them: use ddp")
        if ema_parameters:
            torch._foreach_lerp_(ema_parameters, student_parameters, 1.0 - decay)
        for ema_buffer, buffer in zip(network.buffers(), student.buffers(), strict=True):
            ema_buffer.copy_(buffer)

    def predict(self, batch: Any, task: Task) -> Outputs:
        """Outputs of the averaged network."""
        return self._require_teacher().predict(batch, task)

    def to(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Apply ``fn`` to the averaged weights."""
        if self._teacher is not None:
            self._teacher.to(fn)

    def state_dict(self) -> dict[str, Any]:
        """Weights and buffers of the average."""
        return dict(self._require_teacher().network.state_dict())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore weights and buffers."""
        self._require_teacher().network.load_state_dict(state)
        self._step = None

    def _require_teacher(self) -> FrozenTeacher:
        if self._teacher is None:
            raise LimbeckError("EMATeacher has no student: pass it to a Distiller, which binds it to its student")
        return self._teacher

    def __repr__(self) -> str:
        return f"EMATeacher(decay={self.decay})"


def _check_decay(decay: float) -> None:
    if not 0 <= decay < 1:
        raise LimbeckError(f"decay must be at least 0 and below 1, got {decay}")
