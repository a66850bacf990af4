"""Distillation of CTC networks by sequence: the CTC loss with the tokens of the teacher's best path as target.

Sequence-level distillation: Kim & Rush, EMNLP 2016, https://arxiv.org/abs/1606.07947; for CTC on unlabeled speech:
https://arxiv.org/abs/2008.03923. The student may emit a token in any frame, so its frames may have another rate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import LossContext
from limbeck.core.protocols import Loss
from limbeck.losses._ctc import count_min_frames, ctc_loss, decode_best_path, require_frames


def ctc_best_path_loss(
    student: Tensor, student_lengths: Tensor, teacher: Tensor, teacher_lengths: Tensor, *, blank: int = 0
) -> Tensor:
    """:func:`ctc_loss` of the student with the teacher's best path as target, in nats per token.

    Shapes: ``student`` and ``teacher`` ``[batch, frames, classes]`` logits, with frames of their own; lengths
    ``[batch]``. A sample whose tokens need more frames than the student has is left out; the
    loss of an empty best path is divided by 1.

    Raises:
        LimbeckError: the classes differ, or ``blank`` is none of them.

    >>> import torch
    >>> teacher = torch.eye(3)[None, [1, 1, 0, 0]]
    >>> ctc_best_path_loss(torch.zeros(1, 2, 3), torch.tensor([2]), teacher, torch.tensor([4]))  # -log(3 / 9)
    tensor(1.0986)
    """
    if student.shape[2] != teacher.shape[2] or not 0 <= blank < student.shape[2]:
        raise LimbeckError(
            f"student and teacher must have the same classes, the blank among them, got {student.shape[2]} and "
            f"{teacher.shape[2]} with the blank {blank}"
        )
    tokens, counts = decode_best_path(teacher.detach(), teacher_lengths, blank=blank)
    tokens, counts = tokens.to(student.device), counts.to(student.device)
    has_room = count_min_frames(tokens, counts) <= student_lengths.to(student.device)
    return ctc_loss(student, student_lengths, tokens, torch.where(has_room, counts, -1), blank=blank)


@final
@dataclass(frozen=True)
class CTCBestPathLoss(Loss):
    """:func:`ctc_best_path_loss` of the frames of the student and a teacher, which may have different rates.

    Reads ``frame_logits`` and ``frame_length`` of ``by_sample`` of both, as of :class:`limbeck.tasks.SpeechCTC`.

    Args:
        blank: index of the blank.
        teacher: name of the teacher; ``None``: the only one.
    """

    knowledge: ClassVar = "response"
    paper: ClassVar = "https://arxiv.org/abs/1606.07947"
    fn: ClassVar = staticmethod(ctc_best_path_loss)

    blank: int = 0
    teacher: str | None = None

    def __post_init__(self) -> None:
        if self.blank < 0:
            raise LimbeckError(f"blank must be a class index of at least 0, got {self.blank}")

    def __call__(self, context: LossContext) -> Tensor:
        student, teacher = context.pair(self.teacher)
        return ctc_best_path_loss(
            *require_frames(student, "CTCBestPathLoss"), *require_frames(teacher, "CTCBestPathLoss"), blank=self.blank
        )
