"""One batch, as the terms see it: what the student said, what each teacher said, the truth, and how far training is."""

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
    """What a term turns into one number.

    Attributes:
        student: what the student said.
        teachers: what each teacher said, by name.
        teacher: their combination: the teacher itself where there is one.
        target: the truth by row: class numbers ``[rows]`` (-100 where a row has no label) or probabilities
            ``[rows, classes]`` (all zero where a row has no label); ``None`` where the data has none.
        sample_ids: ``[batch]``, the number by which the data knows each sample; ``None`` where a batch does not say.
        progress: how far training is.
        default_temperature: the temperature of a loss whose ``temperature`` is ``None``: the task's, else 4.
        temperature_record: receives the temperatures of the loss that is computed; ``None`` records nothing.
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
        """The student's and one teacher's outputs, both cut to the samples which that teacher answered.

        ``name`` chooses a teacher; ``None`` takes the combination of all.
        """
        teacher = self.teacher_outputs(name)
        if teacher.valid is None:
            return self.student, teacher
        return self.student.masked_select(teacher.valid), teacher.masked_select(teacher.valid)

    def pair_with_target(self, name: str | None = None) -> tuple[Outputs, Outputs, Tensor]:
        """:meth:`pair` and the truth, all cut to the samples which that teacher answered."""
        valid, target = self.teacher_outputs(name).valid, self.require_target()
        if valid is not None:
            row_to_sample = self.student.row_to_sample
            target = target[valid if row_to_sample is None else valid[row_to_sample]]
        return *self.pair(name), target

    def require_sample_ids(self, name: str | None = None) -> Tensor:
        """The ``sample_ids`` of the samples which that teacher answered, or an error where the batch has none."""
        if self.sample_ids is None:
            raise LimbeckError(
                "this term knows samples by their numbers, and the batch carries none: give batches that are a mapping "
                "with 'sample_id', the number of each sample in the data"
            )
        valid = self.teacher_outputs(name).valid
        return self.sample_ids if valid is None else self.sample_ids[valid]

    def require_target(self) -> Tensor:
        """The target, or an error where the data has none."""
        if self.target is None:
            raise LimbeckError("this term compares with the truth, and the batch carries none: drop it, or give labels")
        return self.target

    def teacher_outputs(self, name: str | None = None) -> Outputs:
        """What one teacher said, or the combination of all, also of samples that it did not answer."""
        if name is None:
            if self.teacher is None and self.teachers:
                raise LimbeckError(
                    f"these teachers have no logits to combine, so the term names one: {', '.join(self.teachers)}"
                )
            if self.teacher is None:
                raise LimbeckError("this term needs a teacher, and there is none: give Distiller(teachers=...)")
            return self.teacher
        try:
            return self.teachers[name]
        except KeyError:
            raise LimbeckError(
                f"no teacher is named {name!r}; there are: {suggest_names(name, self.teachers)}"
            ) from None
