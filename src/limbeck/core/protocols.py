"""The protocols of losses and teachers; those of tasks are in :mod:`limbeck.core.task`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import LossContext
from limbeck.core.outputs import Outputs
from limbeck.core.progress import Progress
from limbeck.core.task import Task

__all__ = ["Loss", "Preparable", "ReadsTeacherModules", "Task", "Teacher", "loss_attribute"]


class Loss(Protocol):
    """Maps a :class:`LossContext` to a scalar; a loss with parameters or buffers is an ``nn.Module`` as well.

    A class inherits these defaults, or is any callable that declares the attributes that differ
    (read by :func:`loss_attribute`).

    Attributes:
        knowledge: what the loss compares: ``"response"``, ``"feature"``, ``"relation"``, ``"self"`` (the student's own
            outputs), ``"label"`` or ``"other"``.
        supervised: whether it compares the student with the target only; a baseline keeps such losses.
        uses_temperature: whether its ``temperature`` divides logits, so that it can be a temperature policy.
        uses_task_temperature: whether ``temperature=None`` is the default temperature of the task, and other values
            are checked against the usual range of the task.
        uses_softmax: whether it reads logits as one distribution over classes; refused for heads with a sigmoid for
            each class (``has_sigmoid_classes`` of the task).
        needs_teacher: whether it reads the outputs of a teacher.
        needs_target: whether it reads the target.
        layer_settings: names of the settings that name layers, such as ``("layer",)``; a recipe is checked for them.
        replaces_classifier: whether the deployed model has a head of the loss in place of the student's classifier
            (``make_head``, see :class:`~limbeck.losses.simkd.SimKDLoss`).
        has_exits: whether it trains classifiers on hidden layers (``layers`` and ``head``, see
            :class:`~limbeck.losses.byot.BYOTLoss`).
        fn: the pure function of tensors; ``limbeck losses`` shows the first line of its docstring.
        paper: link to the paper.
    """

    knowledge: ClassVar[str] = "other"
    supervised: ClassVar[bool] = False
    uses_temperature: ClassVar[bool] = False
    uses_task_temperature: ClassVar[bool] = False
    uses_softmax: ClassVar[bool] = False
    needs_teacher: ClassVar[bool] = True
    needs_target: ClassVar[bool] = False
    layer_settings: ClassVar[tuple[str, ...]] = ()
    replaces_classifier: ClassVar[bool] = False
    has_exits: ClassVar[bool] = False
    fn: ClassVar[Callable[..., Tensor] | None] = None
    paper: ClassVar[str] = ""

    def __call__(self, context: LossContext) -> Tensor:
        """The loss, a float32 scalar."""
        ...


def loss_attribute(loss: object, name: str) -> Any:
    """The class attribute ``name`` of a loss or a loss class, by default that of :class:`Loss`."""
    return getattr(loss, name, getattr(Loss, name))


@runtime_checkable
class Preparable(Protocol):
    """A loss that builds its learned modules (a projection) from the first context, before the optimizer is built."""

    def prepare(self, context: LossContext) -> None:
        """Build the learned modules for features of the shapes in ``context``."""


@runtime_checkable
class ReadsTeacherModules(Protocol):
    """A loss that runs modules of a teacher, such as its head."""

    def set_teachers(self, networks: Mapping[str, nn.Module | None]) -> None:
        """Called once by the distiller, with the network of each teacher without wrappers, or ``None``."""


@runtime_checkable
class Teacher(Protocol):
    """Computes teacher outputs: a frozen network, a cache, an average of the student.

    Inherit from it and define :meth:`predict`; all other methods have defaults.
    """

    @property
    def network(self) -> nn.Module | None:
        """The module of this teacher, or ``None`` where there is none."""
        return None

    @property
    def can_predict(self) -> bool:
        """Whether :meth:`predict` computes outputs; false for a teacher whose outputs are all in a cache."""
        return True

    @abstractmethod
    def predict(self, batch: Any, task: Task) -> Outputs:
        """Outputs for ``batch``, without gradients."""

    def with_features(self, feature_layers: Mapping[str, str]) -> Teacher:
        """The same teacher with the hidden features at ``feature_layers`` in its outputs; an error by default."""
        raise LimbeckError(
            f"{self!r} has no layers to read features from: remove its feature_layers {dict(feature_layers)}"
        )

    def to(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Apply ``fn`` to the tensors, as ``nn.Module.to`` does; nothing by default."""
        return

    def close(self) -> None:
        """Release resources at the end of a training; nothing by default."""
        return

    def bind_student(self, student: nn.Module) -> Self:
        """The teacher to use for ``student``; itself by default."""
        return self

    def on_step_start(self, student: nn.Module, progress: Progress) -> None:
        """Called before the forward pass of each training batch; nothing by default."""
        return

    def on_step_end(self, batch: Any, student: Outputs) -> None:
        """Called after the forward pass of each training batch, with the student's outputs; nothing by default."""
        return

    def fingerprint(self) -> str:
        """Text that changes whenever the outputs would, needed for a cache; an error by default."""
        raise LimbeckError(f"{self!r} has no fingerprint, so its outputs cannot be cached: define fingerprint()")

    def state_dict(self) -> dict[str, Any]:
        """State for checkpoints; empty by default."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a :meth:`state_dict`; nothing by default."""
        return
