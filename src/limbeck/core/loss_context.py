"""The input of every loss: outputs of student and teachers for one batch, the target and the progress of training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

from torch import Tensor

from limbeck.core.errors import LimbeckError, suggest_names
from limbeck.core.outputs import Outputs
from limbeck.core.progress import Progress
from limbeck.core.temperature_range import DEFAULT_TEMPERATURE

__all__ = ["LossContext", "TemperatureRecord"]


@final
@dataclass(slots=True, kw_only=True)
class TemperatureRecord:
    """Temperatures at which one loss was computed, on the device and without gradients.

    Attributes:
        with_entropy: whether ``teacher_entropy`` is recorded.
        temperatures: each temperature, a number or a tensor of one number or of ``[rows]``.
        teacher_entropy: mean over rows of the entropy of the teacher's softmax at that temperature, divided by the
            entropy of the uniform distribution.
    """

    with_entropy: bool = False
    temperatures: list[float | Tensor] = field(default_factory=list)
    teacher_entropy: list[Tensor] = field(default_factory=list)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class LossContext:
    """Everything a loss may read for one batch.

    Attributes:
        student: outputs of the student.
        teachers: outputs of each teacher, by name.
        teacher: the ensemble of all teachers; the teacher itself where there is one.
        target: by row: class indices ``[rows]`` (-100: no label) or class probabilities ``[rows, classes]`` (all zero:
            no label); ``None`` where the data has none.
        sample_ids: ``[batch]``, the index of each sample in the data; ``None`` where the batch carries none.
        progress: progress of training.
        default_temperature: temperature of a loss whose ``temperature`` is ``None``: the task's, else 4.
        temperature_record: receives the temperatures of the loss; ``None`` records nothing.
    """

    student: Outputs
    teachers: Mapping[str, Outputs] = field(default_factory=dict)
    teacher: Outputs | None = None
    target: Tensor | None = None
    sample_ids: Tensor | None = None
    progress: Progress = field(default_factory=Progress)
    default_temperature: float = DEFAULT_TEMPERATURE
    temperature_record: TemperatureRecord | None = None

    def pair(self, name: str | None = None) -> tuple[Outputs, Outputs]:
        """Outputs of the student and of one teacher (``None``: the ensemble), for the samples valid for that
        teacher.
        """
        teacher = self.teacher_outputs(name)
        if teacher.valid is None:
            return self.student, teacher
        return self.student.masked_select(teacher.valid), teacher.masked_select(teacher.valid)

    def pair_with_target(self, name: str | None = None) -> tuple[Outputs, Outputs, Tensor]:
        """:meth:`pair` and the target of the same samples."""
        valid, target = self.teacher_outputs(name).valid, self.require_target()
        if valid is not None:
            row_to_sample = self.student.row_to_sample
            target = target[valid if row_to_sample is None else valid[row_to_sample]]
        return *self.pair(name), target

    def require_sample_ids(self, name: str | None = None) -> Tensor:
        """``sample_ids`` of the samples valid for that teacher.

        Raises:
            LimbeckError: the batch carries none.
        """
        if self.sample_ids is None:
            raise LimbeckError(
                "this loss needs sample indices, and the batch carries none: give batches that are a mapping with "
                "'sample_id', the index of each sample in the data"
            )
        valid = self.teacher_outputs(name).valid
        return self.sample_ids if valid is None else self.sample_ids[valid]

    def require_target(self) -> Tensor:
        """The target.

        Raises:
            LimbeckError: the data has none.
        """
        if self.target is None:
            raise LimbeckError("this loss needs a target, and the batch carries none: remove the loss, or give labels")
        return self.target

    def teacher_outputs(self, name: str | None = None) -> Outputs:
        """Outputs of one teacher (``None``: the ensemble) for the whole batch, invalid samples included.

        Raises:
            LimbeckError: there is no such teacher, or nothing to ensemble.
        """
        if name is None:
            if self.teacher is None and self.teachers:
                raise LimbeckError(
                    "these teachers have no logits to combine: set `teacher` of the loss to one of "
                    f"{', '.join(self.teachers)}"
                )
            if self.teacher is None:
                raise LimbeckError("this loss needs a teacher, and there is none: give Distiller(teachers=...)")
            return self.teacher
        if name not in self.teachers:
            raise LimbeckError(f"no teacher is named {name!r}; there are: {suggest_names(name, self.teachers)}")
        return self.teachers[name]
