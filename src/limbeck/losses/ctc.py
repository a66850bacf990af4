"""The CTC loss of a network with the target sequences (Graves et al., ICML 2006)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import LossContext
from limbeck.core.protocols import Loss
from limbeck.losses._ctc import ctc_loss, require_frames

__all__ = ["CTCLoss", "ctc_loss"]


@final
@dataclass(frozen=True)
class CTCLoss(Loss):
    """:func:`ctc_loss` of the student's frames with the target sequences.

    Reads ``frame_logits`` and ``frame_length`` of ``by_sample`` of the student's outputs, and the sample targets
    ``tokens`` and ``token_length``, as :class:`limbeck.tasks.SpeechCTC` gives them.

    Args:
        blank: index of the blank.
    """

    knowledge: ClassVar = "label"
    paper: ClassVar = "https://www.cs.toronto.edu/~graves/icml_2006.pdf"
    needs_target: ClassVar = True
    supervised: ClassVar = True
    needs_teacher: ClassVar = False
    fn: ClassVar = staticmethod(ctc_loss)

    blank: int = 0

    def __post_init__(self) -> None:
        if self.blank < 0:
            raise LimbeckError(f"blank must be a class index of at least 0, got {self.blank}")

    def __call__(self, context: LossContext) -> Tensor:
        logits, lengths = require_frames(context.student, "CTCLoss")
        tokens, token_lengths = context.sample_target("tokens"), context.sample_target("token_length")
        return ctc_loss(logits, lengths, tokens, token_lengths, blank=self.blank)
