"""Matching of speech states with the text states of a teacher, after compression by CTC.

Speech has many frames for each token. The frames of each run of one CTC class are averaged (Gaido et al., EACL 2021,
https://aclanthology.org/2021.eacl-main.57), and the averages of the blank are left out. Each text state is then
reconstructed by attention over the remaining segments, as in cross-attentive regularization (Tang et al., ACL 2021,
https://arxiv.org/abs/2107.05782): with a_ji the softmax over i of cos(t_j, s_i) / τ and r_j = Σ_i a_ji · s_i, the loss
is the mean over text states of 1 − cos(r_j, t_j). The paper compares r_j with a reconstruction of t_j from the text
itself by the squared distance; here it is t_j itself, and the length of the states does not count. No order is assumed,
so the text may be a translation.
"""

from __future__ import annotations

from typing import ClassVar, final

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import LossContext
from limbeck.core.outputs import Outputs
from limbeck.core.protocols import Loss
from limbeck.losses._alignment import Side, ctc_compress, mask_positions, normalize_rows, require_side, require_states
from limbeck.losses._bases import format_settings
from limbeck.losses._features import make_projection, require_prepared
from limbeck.losses._ops import require_interval, row_mean, upcast


def state_matching_loss(
    student: Tensor, teacher: Tensor, *, student_mask: Tensor, teacher_mask: Tensor, temperature: float = 0.1
) -> Tensor:
    """Mean over the teacher's states of one minus their cosine with the student's states that attend to them.

    Args:
        student: ``[batch, segments, width]``, such as :func:`~limbeck.losses.ctc_compress` gives them.
        teacher: ``[batch, tokens, width]``.
        student_mask: ``[batch, segments]`` booleans, which segments count.
        teacher_mask: ``[batch, tokens]`` booleans. A sample in which either mask is empty counts nothing.
        temperature: what cosines are divided by before the softmax over segments.

    Raises:
        LimbeckError: the widths differ.

    >>> segments, token = torch.tensor([[[2.0, 0.0], [0.0, 1.0]]]), torch.tensor([[[1.0, 1.0]]])
    >>> state_matching_loss(
    ...     segments, token, student_mask=torch.ones(1, 2).bool(), teacher_mask=torch.ones(1, 1).bool()
    ... )  # the mean of both segments is (1, ½)
    tensor(0.0513)
    """
    if student.shape[2] != teacher.shape[2]:
        raise LimbeckError(
            f"states of student and teacher must have one width, got {student.shape[2]} and {teacher.shape[2]}: "
            "project the student's"
        )
    student, teacher = upcast(student), upcast(teacher.detach())
    scores = normalize_rows(teacher) @ normalize_rows(student).transpose(1, 2) / temperature
    # Not minus infinity: the softmax of a sample without segments, which is left out below, would be NaN.
    scores = scores.masked_fill(~student_mask[:, None], torch.finfo(scores.dtype).min)
    reconstruction = scores.softmax(dim=2) @ student
    cosines = (normalize_rows(reconstruction) * normalize_rows(teacher)).sum(dim=2)
    return row_mean(1 - cosines[teacher_mask & student_mask.any(dim=1, keepdim=True)])


@final
class StateMatchingLoss(nn.Module, Loss):
    """:func:`state_matching_loss` of the student's speech states, compressed by its CTC head, and a teacher's states.

    States of another width than the teacher's go through a learned projection.

    Args:
        temperature: what cosines are divided by before the softmax over segments, above zero.
        teacher_side: whose states of the teacher: ``text``, or ``speech``, whose frames are compressed too.
        blank: index of the CTC blank.
        teacher: name of the teacher; ``None``: the only one.
    """

    knowledge: ClassVar = "feature"
    paper: ClassVar = "https://aclanthology.org/2021.eacl-main.57"
    fn: ClassVar = staticmethod(state_matching_loss)

    def __init__(
        self, temperature: float = 0.1, *, teacher_side: Side = "text", blank: int = 0, teacher: str | None = None
    ) -> None:
        super().__init__()
        require_interval("temperature", temperature, "(0, inf)")
        require_interval("blank", blank, "[0, inf)")
        require_side("teacher_side", teacher_side)
        self.temperature, self.teacher_side, self.blank, self.teacher = temperature, teacher_side, blank, teacher
        self.projection: nn.Module | None = None

    def prepare(self, context: LossContext) -> None:
        """Build the projection for the states of ``context``."""
        self.projection = make_projection(*(self._states(outputs, side)[0] for outputs, side in self._sides(context)))

    def forward(self, context: LossContext) -> Tensor:
        """The loss of this context."""
        (student, student_mask), (teacher, teacher_mask) = (
            self._states(outputs, side) for outputs, side in self._sides(context)
        )
        projection = require_prepared(self.projection, "StateMatchingLoss")
        return state_matching_loss(
            projection(student), teacher, student_mask=student_mask, teacher_mask=teacher_mask.to(student.device),
            temperature=self.temperature,
        )  # fmt: skip

    def extra_repr(self) -> str:
        return format_settings(self, "temperature", "teacher_side", "blank")

    def _sides(self, context: LossContext) -> tuple[tuple[Outputs, str], tuple[Outputs, str]]:
        student, teacher = context.pair(self.teacher)
        return (student, "speech"), (teacher, self.teacher_side)

    def _states(self, outputs: Outputs, side: str) -> tuple[Tensor, Tensor]:
        """The states of one side with their mask; those of speech are compressed, without the blank."""
        states, lengths = require_states(outputs, side, "StateMatchingLoss")
        if side == "text":
            return states, mask_positions(lengths, states.shape[1], states.device)
        if "frame_logits" not in outputs.by_sample:
            raise LimbeckError(
                "StateMatchingLoss compresses speech by CTC, and the network gives no frame_logits: give it a CTC head"
            )
        segments = ctc_compress(states, outputs.by_sample["frame_logits"], lengths, blank=self.blank)
        mask = mask_positions(segments.lengths, segments.states.shape[1], states.device)
        is_token = mask & (segments.classes != self.blank)
        # An untrained head predicts the blank only; its segments are better than none.
        return segments.states, torch.where(is_token.any(dim=1, keepdim=True), is_token, mask)
