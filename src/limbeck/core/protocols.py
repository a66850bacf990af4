"""The interfaces between the rooms. A class keeps one by having its methods; nothing is inherited."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, runtime_checkable

from torch import Tensor, nn

from limbeck.core.loss_context import LossContext
from limbeck.core.outputs import Outputs

__all__ = ["FingerprintedTeacher", "Loss", "Preparable", "Task", "Teacher", "TeacherOutputs", "loss_attribute"]


class Loss(Protocol):
    """Maps a :class:`LossContext` to a scalar; a loss with parameters or buffers is an ``nn.Module`` as well.

    A class inherits these defaults, or is any callable that declares the attributes that differ
    (read by :func:`loss_attribute`).

    Attributes:
        knowledge: what the loss compares: ``"response"``, ``"feature"``, ``"relation"``, ``"self"`` (the student's own
            outputs), ``"label"`` or ``"other"``.
        supervised: whether it compares the student with the target only; a baseline keeps such losses.
        uses_temperature: whether its ``temperature`` divides logits, so that temperature policies and the range of the
            task apply to it.
        uses_task_temperature: whether ``temperature=None`` stands for the default temperature of the task.
        needs_teacher: whether it reads the outputs of a teacher.
    """

    knowledge: ClassVar[str] = "other"
    supervised: ClassVar[bool] = False
    uses_temperature: ClassVar[bool] = False
    uses_task_temperature: ClassVar[bool] = False
    needs_teacher: ClassVar[bool] = True

    def __call__(self, context: LossContext) -> Tensor:
        """The loss of this context, a float32 scalar."""
        ...


def loss_attribute(loss: object, name: str) -> Any:
    """The class attribute ``name`` of a loss or a loss class, by default that of :class:`Loss`.

    >>> from limbeck.losses import KDLoss
    >>> loss_attribute(KDLoss, "knowledge"), loss_attribute(len, "needs_teacher")
    ('response', True)
    """
    return getattr(loss, name, getattr(Loss, name))


@runtime_checkable
class Preparable(Protocol):
    """A term that shapes its learned parts (a projection) by the first context, before the optimizer is built."""

    def prepare(self, context: LossContext) -> None:
        """Build what is to be learned, for features of the shapes in ``context``."""
        ...


class Task(Protocol):
    """What a batch means: how a network is called on it, what its rows are, and what is true."""

    def outputs(self, network: nn.Module, batch: Any) -> Outputs:
        """Call ``network`` on ``batch`` and put its answer into rows (taps are added by the caller)."""
        ...

    def target(self, batch: Any) -> Tensor | None:
        """The truth by row, or ``None`` where the batch has none."""
        ...


@runtime_checkable
class Teacher(Protocol):
    """Something that answers like a teacher: a frozen network, a cache, an endpoint.

    It may also have ``with_features(layers)``, which gives the same with hidden features read; ``to(fn)``, to follow
    ``nn.Module.to``; ``close()``, called once when a training has ended; and what :class:`FingerprintedTeacher` has.

    One that is made of the student itself may have ``bind_student(student)``, which gives one of its own for that
    student; ``on_step_start(student, progress)``, called before the answers of each training batch;
    ``on_step_end(batch, student)``, called after each with what the student said; and ``state_dict()`` with
    ``load_state_dict(state)``, for checkpoints.
    """

    def predict(self, batch: Any, task: Task) -> Outputs:
        """What the teacher says about ``batch``, without gradients."""
        ...


@runtime_checkable
class FingerprintedTeacher(Teacher, Protocol):
    """A teacher that can say what it is."""

    def fingerprint(self) -> str:
        """What changes when its answers would: a hash of its weights, say."""
        ...


TeacherOutputs = Mapping[str, Outputs]
