"""The input of every loss: outputs of student and teachers for one batch, the target and the progress of training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, final

from torch import Tensor

from limbeck.core.errors import LimbeckError, suggest_names
from limbeck.core.outputs import Outputs, format_fields
from limbeck.core.progress import Progress

__all__ = ["DEFAULT_TEMPERATURE", "LossContext"]

DEFAULT_TEMPERATURE: Final = 4.0
"""The default temperature where the task declares none."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class LossContext:
    """Everything a loss may read for one batch.

    Attributes:
        student: outputs of the student.
        teachers: outputs of each teacher, by name.
        teacher: the ensemble of all teachers; the teacher itself where there is one; ``None`` where their logits have
            different shapes or rows of different anchors (detectors), or one has none.
        target: class indices ``[rows]`` (-100: no label) or class probabilities ``[rows, classes]`` (all zero: no
            label); ``None`` where the data has none.
        sample_targets: targets that are not by row, ``[batch, ...]`` by name: token sequences and their lengths, boxes.
        input_mask: ``[batch, positions]`` booleans, false in the padding of sequences; ``None``: inputs are not padded.
        sample_ids: ``[batch]``, the index of each sample in the data; ``None`` where the batch has none.
        progress: progress of training.
        default_temperature: temperature of a loss whose ``temperature`` is ``None``: the task's, else 4.
        temperature_record: called with each temperature of the loss and the teacher's logits there.
    """

    student: Outputs
    teachers: Mapping[str, Outputs] = field(default_factory=dict)
    teacher: Outputs | None = None
    target: Tensor | None = None
    sample_targets: Mapping[str, Tensor] = field(default_factory=dict)
    input_mask: Tensor | None = None
    sample_ids: Tensor | None = None
    progress: Progress = field(default_factory=Progress)
    default_temperature: float = DEFAULT_TEMPERATURE
    temperature_record: Callable[[float | Tensor, Tensor], None] | None = None

    def __repr__(self) -> str:
        return format_fields(self)

    def pair(self, name: str | None = None) -> tuple[Outputs, Outputs]:
        """Student and teacher outputs for the samples valid for that teacher (``None``: the ensemble)."""
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
        """``sample_ids`` of the samples valid for that teacher; an error where the batch has none."""
        if self.sample_ids is None:
            raise LimbeckError(
                "this loss needs sample indices, and the batch has none: use batches that are a mapping with "
                "'sample_id', the index of each sample in the data"
            )
        valid = self.teacher_outputs(name).valid
        return self.sample_ids if valid is None else self.sample_ids[valid]

    def require_target(self) -> Tensor:
        """The target; an error where the batch has none."""
        if self.target is None:
            raise LimbeckError("this loss needs a target, and the batch has none: remove the loss, or add labels")
        return self.target

    def sample_target(self, name: str) -> Tensor:
        """One of ``sample_targets``; an error where the batch has none of that name."""
        if name not in self.sample_targets:
            raise LimbeckError(
                f"this loss needs the target {name!r} of each sample, and the task gives "
                f"{', '.join(self.sample_targets) or 'none'}: define it in sample_targets(batch) of the task"
            )
        return self.sample_targets[name]

    def teacher_outputs(self, name: str | None = None) -> Outputs:
        """Outputs of one teacher (``None``: the ensemble) for the whole batch, invalid samples included."""
        if name is None and self.teacher is not None:
            return self.teacher
        if name is None and self.teachers:
            shapes = {key: None if t.logits is None else list(t.logits.shape) for key, t in self.teachers.items()}
            reason = "there are no logits to combine"
            if None not in shapes.values():
                is_equal = all(shape == next(iter(shapes.values())) for shape in shapes.values())
                reason = "rows of different anchors" if is_equal else "logits of different shapes"
                reason += f" cannot be combined, got {', '.join(shapes) if is_equal else shapes}"
            raise LimbeckError(f"{reason}: set `teacher` of the loss to one of {', '.join(self.teachers)}")
        if name is None:
            raise LimbeckError("this loss needs a teacher, and there is none: pass Distiller(teachers=...)")
        if name not in self.teachers:
            raise LimbeckError(f"no teacher is named {name!r}; available: {suggest_names(name, self.teachers)}")
        return self.teachers[name]
