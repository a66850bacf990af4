"""Distillation of CTC networks by sequence, with the teacher's n most probable token sequences as targets.

Takashima, Sheng & Kawai, ICASSP 2019, https://doi.org/10.1109/ICASSP.2019.8682671: with H_1 … H_n the teacher's
sequences by prefix beam search and w_i = P(H_i | x) / Σ_j P(H_j | x), the loss of a sample is
Σ_i w_i · (−log Q(H_i | x)), where P and Q sum over all paths of teacher and student. The student may emit a token in
any frame, so its frames may have another rate, and it may be unidirectional.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import LossContext
from limbeck.core.protocols import Loss
from limbeck.losses._ctc import count_min_frames, ctc_loss, require_frames
from limbeck.losses._ctc_search import require_beam, search_prefixes


def ctc_nbest_loss(
    student: Tensor, student_lengths: Tensor, teacher: Tensor, teacher_lengths: Tensor, *, n_best: int = 4,
    beam_size: int = 8, blank: int = 0,
) -> Tensor:  # fmt: skip
    """Mean over samples of the weighted CTC losses of the teacher's best sequences, each in nats per token.

    Shapes: ``student`` and ``teacher`` ``[batch, frames, classes]`` logits, with frames of their own; lengths
    ``[batch]``. A sequence that needs more frames than the student has is left out, and the weights of the others sum
    to 1; so is a sample without a sequence that fits. The loss of an empty sequence is divided by 1.

    Args:
        student: the student's logits.
        student_lengths: valid frames of the student.
        teacher: the teacher's logits.
        teacher_lengths: valid frames of the teacher.
        n_best: number of sequences of each sample.
        beam_size: prefixes that the search keeps.
        blank: index of the blank.

    Raises:
        LimbeckError: the classes differ, ``blank`` is none of them, or ``n_best`` is above ``beam_size``.

    >>> import torch
    >>> student = torch.zeros(1, 2, 2)
    >>> one = torch.tensor([2])
    >>> ctc_nbest_loss(student, one, torch.zeros(1, 2, 2), one, n_best=2)  # -0.75 log 0.75 - 0.25 log 0.25
    tensor(0.5623)
    """
    if student.shape[2] != teacher.shape[2]:
        raise LimbeckError(
            f"student and teacher must have the same classes, got {student.shape[2]} and {teacher.shape[2]}"
        )
    found = search_prefixes(teacher.detach(), teacher_lengths, blank=blank, beam_size=beam_size, num_best=n_best)
    tokens, counts = found.tokens.to(student.device).flatten(0, 1), found.lengths.to(student.device).flatten()
    log_p, lengths = found.log_p.to(student.device), student_lengths.to(student.device)
    frames = lengths.repeat_interleave(n_best)
    fits = (count_min_frames(tokens, counts) <= frames).reshape(log_p.shape) & ~log_p.isneginf()
    weights = log_p.masked_fill(~fits, -torch.inf).softmax(dim=1).nan_to_num(0.0)
    losses = ctc_loss(
        student.repeat_interleave(n_best, dim=0), frames, tokens, torch.where(fits.flatten(), counts, -1), blank=blank,
        reduction="none",
    )  # fmt: skip
    per_token = (losses / counts.clamp(min=1)).reshape(weights.shape)
    return (weights * per_token).sum() / fits.any(dim=1).sum().clamp(min=1)


@final
@dataclass(frozen=True)
class CTCNBestLoss(Loss):
    """:func:`ctc_nbest_loss` of the frames of the student and a teacher, which may have different rates.

    Reads ``frame_logits`` and ``frame_length`` of ``by_sample`` of both, as of :class:`limbeck.tasks.SpeechCTC`. The
    search takes time in every step; :class:`CTCBestPathLoss` needs none.

    Args:
        n_best: number of the teacher's sequences.
        beam_size: prefixes that the search keeps after each frame.
        blank: index of the blank.
        teacher: name of the teacher; ``None``: the only one.
    """

    knowledge: ClassVar = "response"
    paper: ClassVar = "https://doi.org/10.1109/ICASSP.2019.8682671"
    fn: ClassVar = staticmethod(ctc_nbest_loss)

    n_best: int = 4
    beam_size: int = 8
    blank: int = 0
    teacher: str | None = None

    def __post_init__(self) -> None:
        require_beam(self.beam_size, self.n_best)
        if self.blank < 0:
            raise LimbeckError(f"blank must be a class index of at least 0, got {self.blank}")

    def __call__(self, context: LossContext) -> Tensor:
        student, teacher = context.pair(self.teacher)
        return ctc_nbest_loss(
            *require_frames(student, "CTCNBestLoss"), *require_frames(teacher, "CTCNBestLoss"), n_best=self.n_best,
            beam_size=self.beam_size, blank=self.blank,
        )  # fmt: skip
