"""InfoNCE between speech and text: each embedding selects its partner among those of the batch.

van den Oord, Li & Vinyals, 2018, https://arxiv.org/abs/1807.03748; in both directions and averaged as in CLIP (Radford
et al., ICML 2021, https://arxiv.org/abs/2103.00020). With s_ij the cosine of embedding i of one side and j of the
other, the loss of a row is −log(exp(s_ii / τ) / Σ_j exp(s_ij / τ)), where j runs over i and the samples of other
labels, since a sample with the same text is no negative.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from limbeck.core.loss_context import LossContext
from limbeck.core.protocols import Loss
from limbeck.losses._alignment import Side, normalize_rows, require_embedding, require_side
from limbeck.losses._ops import IGNORE_INDEX, require_interval, require_same_shape, row_mean


def info_nce_loss(first: Tensor, second: Tensor, *, labels: Tensor | None = None, temperature: float = 0.07) -> Tensor:
    """Mean over rows and both directions of the negative log-probability of the partner, in nats.

    Args:
        first: ``[rows, width]``.
        second: ``[rows, width]``, row by row the partners of ``first``.
        labels: ``[rows]`` integers; rows of one label are no negatives of each other. ``None``: all are.
        temperature: what cosines are divided by.

    Raises:
        LimbeckError: the shapes differ.

    >>> info_nce_loss(torch.eye(2), torch.eye(2), temperature=1.0)  # log(1 + exp(-1))
    tensor(0.3133)
    """
    require_same_shape(first, second, name="embeddings", hint="embed both in one width")
    logits = normalize_rows(first) @ normalize_rows(second).T / temperature
    if labels is not None:
        is_same = labels[:, None] == labels
        is_same.fill_diagonal_(False)
        logits = logits.masked_fill(is_same.to(logits.device), -torch.inf)
    forward, backward = (-scores.log_softmax(dim=1).diagonal() for scores in (logits, logits.T))
    return row_mean((forward + backward) / 2)


@final
@dataclass(frozen=True)
class InfoNCELoss(Loss):
    """:func:`info_nce_loss` of the student's own embeddings of speech and text.

    The negatives of a sample are the samples of the batch with another target. Samples without a target, or without
    one of the sides, are left out.

    Args:
        temperature: what cosines are divided by, above zero.
    """

    knowledge: ClassVar = "label"
    paper: ClassVar = "https://arxiv.org/abs/1807.03748"
    supervised: ClassVar = True
    needs_target: ClassVar = True
    needs_teacher: ClassVar = False
    fn: ClassVar = staticmethod(info_nce_loss)

    temperature: float = 0.07

    def __post_init__(self) -> None:
        require_interval("temperature", self.temperature, "(0, inf)")

    def __call__(self, context: LossContext) -> Tensor:
        speech, has_speech = require_embedding(context.student, "speech", "InfoNCELoss")
        text, has_text = require_embedding(context.student, "text", "InfoNCELoss")
        labels = context.require_target().to(speech.device)
        is_pair = has_speech & has_text & (labels != IGNORE_INDEX)
        return info_nce_loss(speech[is_pair], text[is_pair], labels=labels[is_pair], temperature=self.temperature)


@final
@dataclass(frozen=True)
class InfoNCEKDLoss(Loss):
    """:func:`info_nce_loss` of one side of the student with one side of a teacher, which has embeddings of its width.

    Where the batch has a target, samples with the same one are no negatives of each other.

    Args:
        temperature: what cosines are divided by, above zero.
        student_side: ``speech`` or ``text``.
        teacher_side: ``speech`` or ``text``.
        teacher: name of the teacher; ``None``: the only one.
    """

    knowledge: ClassVar = "relation"
    paper: ClassVar = "https://arxiv.org/abs/1807.03748"
    fn: ClassVar = staticmethod(info_nce_loss)

    temperature: float = 0.07
    student_side: Side = "speech"
    teacher_side: Side = "text"
    teacher: str | None = None

    def __post_init__(self) -> None:
        require_interval("temperature", self.temperature, "(0, inf)")
        require_side("student_side", self.student_side)
        require_side("teacher_side", self.teacher_side)

    def __call__(self, context: LossContext) -> Tensor:
        student_outputs, teacher_outputs = context.pair(self.teacher)
        student, has_student = require_embedding(student_outputs, self.student_side, "InfoNCEKDLoss")
        teacher, has_teacher = require_embedding(teacher_outputs, self.teacher_side, "InfoNCEKDLoss")
        mask, labels = has_student & has_teacher.to(student.device), None
        if context.target is not None:
            valid, target = context.teacher_outputs(self.teacher).valid, context.target.to(student.device)
            target = target if valid is None else target[valid]
            # Unlabeled samples are negatives of all.
            unique = -1 - torch.arange(len(target), device=target.device)
            labels = torch.where(target == IGNORE_INDEX, unique, target)[mask]
        return info_nce_loss(student[mask], teacher.detach()[mask], labels=labels, temperature=self.temperature)
