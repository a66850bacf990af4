"""Features of padded sequences ``[batch, positions, width]``: losses leave the padding out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import LossContext
from limbeck.losses._ops import upcast
from limbeck.utils.frames import average_frames, frame_stride, mask_frames


@final
@dataclass(frozen=True, slots=True)
class FeaturePair:
    """The features of one layer of student and teacher.

    Attributes:
        student: ``[batch, ...]``.
        teacher: ``[batch, ...]``.
        student_mask: ``[batch, positions]`` booleans, false in the padding; ``None``: no padding.
        teacher_mask: the same for the teacher.
        num_inputs: positions of the padded input.
    """

    student: Tensor
    teacher: Tensor
    student_mask: Tensor | None = None
    teacher_mask: Tensor | None = None
    num_inputs: int = 0

    def matched(self) -> FeaturePair:
        """Sequences at one rate, that of the network with fewer positions, the other averaged over time."""
        student_mask, teacher_mask = self.student_mask, self.teacher_mask
        if student_mask is None or teacher_mask is None or student_mask.shape == teacher_mask.shape:
            return self
        if student_mask.shape[1] > teacher_mask.shape[1]:
            averaged = self._average(self.student, student_mask, teacher_mask)
            return replace(self, student=averaged, student_mask=teacher_mask)
        return replace(self, teacher=self._average(self.teacher, teacher_mask, student_mask), teacher_mask=student_mask)

    def rows(self) -> tuple[Tensor, Tensor]:
        """The valid positions of both, ``[rows, width]``; of other features the features themselves."""
        if self.student_mask is None or self.teacher_mask is None:
            return self.student, self.teacher
        return self.student[self.student_mask], self.teacher[self.teacher_mask]

    def without_padding(self) -> tuple[Tensor, Tensor]:
        """Both with zeros in the padding."""
        return fill_padding(self.student, self.student_mask), fill_padding(self.teacher, self.teacher_mask)

    def _average(self, features: Tensor, mask: Tensor, target_mask: Tensor) -> Tensor:
        stride, target_stride = (frame_stride(self.num_inputs, item.shape[1]) for item in (mask, target_mask))
        assert stride is not None
        assert target_stride is not None
        num_targets = target_mask.shape[1]
        return average_frames(
            upcast(features), mask, stride=stride, target_stride=target_stride, num_targets=num_targets
        )


def pair_features(context: LossContext, layer: str, teacher: str | None = None) -> FeaturePair:
    """The features of ``layer`` of student and teacher, for the samples valid for that teacher."""
    student_outputs, teacher_outputs = context.pair(teacher)
    student, teacher_features = student_outputs.feature(layer), teacher_outputs.feature(layer)
    input_mask = context.input_mask
    if input_mask is None or (student.ndim != 3 and teacher_features.ndim != 3):
        return FeaturePair(student, teacher_features)
    if teacher_outputs.valid is not None:
        input_mask = input_mask[context.teacher_outputs(teacher).valid]
    masks = (position_mask(student, input_mask, layer), position_mask(teacher_features, input_mask, layer))
    return FeaturePair(student, teacher_features, *masks, num_inputs=input_mask.shape[1])


def position_mask(features: Tensor, input_mask: Tensor | None, layer: str) -> Tensor | None:
    """Which positions of features ``[batch, positions, width]`` are valid; ``None`` for other features."""
    if input_mask is None or features.ndim != 3:
        return None
    mask = mask_frames(input_mask.to(features.device), features.shape[1])
    if mask is None:
        raise LimbeckError(
            f"positions of the features {layer!r} must be those of the padded input, or every k-th of them, got "
            f"{features.shape[1]} for {input_mask.shape[1]}, so it is unknown which are padding: use another layer"
        )
    return mask


def fill_padding(features: Tensor, mask: Tensor | None, value: float = 0.0) -> Tensor:
    """``features`` ``[batch, positions, width]`` with ``value`` in the padding."""
    return features if mask is None else features.masked_fill(~mask[:, :, None], value)


def weigh_valid(features: Tensor, mask: Tensor | None, *, power: float = 1.0) -> Tensor:
    """Zeros in the padding, and valid positions times (positions / valid positions)^power.

    With power 1 a mean over all positions is that over the valid ones; with ½ the mean of products is.
    """
    if mask is None:
        return features
    factor = mask.shape[1] / mask.sum(dim=1).clamp(min=1)[:, None, None]
    return fill_padding(upcast(features), mask) * factor**power


def refuse_padding(context: LossContext, features: Tensor, *, loss: str) -> None:
    """Refuse features of padded sequences in a loss that would count the padding."""
    if context.input_mask is not None and features.ndim == 3:
        raise LimbeckError(
            f"{loss} compares features without padding, and these are of padded sequences {list(features.shape)}: use "
            "FitNetLoss, CWDLoss, GramLoss or a loss on relations, such as SPLoss"
        )
