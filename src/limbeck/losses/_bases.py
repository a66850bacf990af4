"""Base classes of losses: they read the inputs of a loss function from the context."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any, ClassVar

from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import LossContext
from limbeck.core.protocols import Loss
from limbeck.core.schedules import Schedule, resolve
from limbeck.losses._features import channels_first, make_projection, match_size, require_prepared
from limbeck.losses._linear import LinearLogits, require_chunks, teacher_logits
from limbeck.losses._logits import require_temperature
from limbeck.losses._ops import upcast
from limbeck.losses._sequences import pair_features
from limbeck.losses.temperature import Temperature, apply_temperature
from limbeck.losses.temperature.policy import uses_softmax


@dataclass(frozen=True)
class LogitLoss(Loss):
    """``fn`` of the student's and a teacher's logits.

    A subclass declares ``fn`` and its options as fields. ``fn`` receives the logits of student and teacher, the fields
    and ``temperature`` as keywords, and ``target`` where ``needs_target``. ``has_sigmoids`` is true where ``fn`` reads
    the logits as those of a sigmoid for each class.

    Args:
        temperature: a number above zero, a schedule, or a policy of :mod:`limbeck.losses.temperature`; ``None``: the
            default of the task (4 without a task) where ``uses_task_temperature``, else ``paper_temperature``.
        teacher: name of the teacher; ``None``: the ensemble of all.
    """

    knowledge: ClassVar = "response"
    uses_temperature: ClassVar = True
    uses_softmax: ClassVar = True
    has_sigmoids: ClassVar[bool] = False
    fn: ClassVar[Callable[..., Tensor]]
    paper_temperature: ClassVar[float | None] = None

    temperature: float | Schedule | Temperature | None = field(default=None, kw_only=True)
    teacher: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.temperature is not None:
            require_temperature(self.temperature)
        if self.has_sigmoids and uses_softmax(self.temperature):
            raise LimbeckError(
                f"{type(self).__name__} has a sigmoid for each class, and the temperature "
                f"{type(self.temperature).__name__} needs a softmax over classes: set a number, a schedule or Learned()"
            )

    def __call__(self, context: LossContext) -> Tensor:
        options = _field_values(self)
        if self.needs_target:
            options["target"] = context.pair_with_target(self.teacher)[2]
        fn = partial(self.fn, **options)
        temperature = self.paper_temperature if self.temperature is None else self.temperature
        if temperature is None and not self.uses_task_temperature:
            student, teacher = context.pair(self.teacher)
            return fn(student.require_logits(), teacher.require_logits())
        return apply_temperature(fn, context, temperature=temperature, teacher=self.teacher)


@dataclass(frozen=True)
class LinearLogitLoss(Loss):
    """``fn`` of the hidden states and the head of the student, and of a teacher's, its largest logits or its logits.

    A subclass declares ``fn`` and its options as fields. ``fn`` receives the logits of student and teacher, the fields
    and ``temperature`` as keywords, and ``target`` where ``needs_target``. The task returns
    :func:`~limbeck.losses.linear_outputs`.

    Args:
        temperature: a number above zero or a schedule, no policy, which needs logits; ``None``: the default of the task
            (4 without a task).
        teacher: name of the teacher; ``None``: the only one.
        num_classes: classes from this index on are padding of the vocabulary and left out; ``None``: none is.
        chunk_rows: rows whose logits are computed at once; ``None``: by the number of classes.
    """

    knowledge: ClassVar = "response"
    uses_softmax: ClassVar = True
    uses_task_temperature: ClassVar = True
    fn: ClassVar[Callable[..., Tensor]]

    temperature: float | Schedule | None = field(default=None, kw_only=True)
    teacher: str | None = field(default=None, kw_only=True)
    num_classes: int | None = field(default=None, kw_only=True)
    chunk_rows: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if isinstance(self.temperature, Temperature):
            raise LimbeckError(
                f"the temperature of {type(self).__name__} must be a number or a schedule, got {self.temperature!r}, "
                "which needs logits: use the loss on logits, such as KDLoss"
            )
        if self.temperature is not None:
            require_temperature(self.temperature)
        require_chunks(self.num_classes, self.chunk_rows)

    def __call__(self, context: LossContext) -> Tensor:
        options = _field_values(self)
        if self.needs_target:
            options["target"] = context.pair_with_target(self.teacher)[2]
        student, teacher = context.pair(self.teacher)
        student_logits = LinearLogits.from_outputs(student)
        temperature = context.default_temperature if self.temperature is None else self.temperature
        value = resolve(temperature, context.progress)
        if context.temperature_record is not None:
            context.temperature_record(value, student_logits.hidden.new_empty(0, 2))
        return self.fn(student_logits, teacher_logits(teacher), temperature=value, **options)


@dataclass(frozen=True)
class FeatureLoss(Loss):
    """``fn`` of the features of one layer of student and teacher.

    A subclass declares ``fn`` and its options as fields, which ``fn`` receives as keywords.

    Args:
        layer: name of the layer, the same for student and teacher.
        teacher: name of the teacher; ``None``: the ensemble of all.
    """

    knowledge: ClassVar = "feature"
    layer_settings: ClassVar = ("layer",)
    fn: ClassVar[Callable[..., Tensor]]

    layer: str
    teacher: str | None = field(default=None, kw_only=True)

    def __call__(self, context: LossContext) -> Tensor:
        student, teacher = pair_features(context, self.layer, self.teacher).without_padding()
        return self.fn(student, teacher, **_field_values(self))


class ProjectedFeatureLoss(nn.Module, Loss):
    """``fn`` of the features of one layer, the student's through a learned projection to the teacher's channels.

    Both have their channels at axis 1, and the larger map is average-pooled to the smaller. Of padded sequences, the
    valid positions are compared, ``[rows, channels]``, where ``compares_positions``. A subclass declares ``fn`` and
    ``settings``, the names of its attributes in the repr, and may override ``make_projection`` and ``compare``.

    Args:
        layer: name of the layer, the same for student and teacher.
        teacher: name of the teacher; ``None``: the ensemble of all.
    """

    knowledge: ClassVar = "feature"
    layer_settings: ClassVar = ("layer",)
    fn: ClassVar[Callable[..., Tensor]]
    settings: ClassVar[tuple[str, ...]] = ("layer",)
    compares_positions: ClassVar[bool] = True

    def __init__(self, layer: str, *, teacher: str | None = None) -> None:
        super().__init__()
        self.layer, self.teacher = layer, teacher
        self.projection: nn.Module | None = None

    def prepare(self, context: LossContext) -> None:
        """Build the learned modules for the features of ``context``."""
        self.projection = self.make_projection(*self.features(context))

    def forward(self, context: LossContext) -> Tensor:
        """The loss of this context."""
        student, teacher = self.features(context)
        student, teacher = match_size(self.project(student), upcast(teacher))
        return self.compare(channels_first(student), channels_first(teacher), context)

    def features(self, context: LossContext) -> tuple[Tensor, Tensor]:
        """The features of student and teacher."""
        pair = pair_features(context, self.layer, self.teacher)
        return pair.matched().rows() if self.compares_positions else (pair.student, pair.teacher)

    def make_projection(self, student: Tensor, teacher: Tensor) -> nn.Module:
        """The projection between these features; by default the identity between equal channels."""
        return make_projection(student, teacher)

    def project(self, student: Tensor) -> Tensor:
        """The projected student's features."""
        return upcast(require_prepared(self.projection, type(self).__name__)(upcast(student)))

    def compare(self, student: Tensor, teacher: Tensor, context: LossContext) -> Tensor:
        """The loss of the projected student's features and the teacher's."""
        return self.fn(student, teacher)

    def extra_repr(self) -> str:
        return format_settings(self, *self.settings)


def format_settings(loss: Any, *names: str) -> str:
    """``name=value`` of each attribute for a repr, and the teacher where the loss names one."""
    values = {name: getattr(loss, name) for name in names}
    if loss.teacher:
        values["teacher"] = loss.teacher
    return ", ".join(
        f"{name}={value:g}" if isinstance(value, float) else f"{name}={value!r}" for name, value in values.items()
    )


def _field_values(loss: Any) -> dict[str, Any]:
    """The options of a subclass: its fields other than those of the base class."""
    names = (item.name for item in fields(loss))
    return {name: getattr(loss, name) for name in names if name not in ("layer", "teacher", "temperature")}
