"""Embeddings of whole samples: squared distance and cosine to a teacher's.

A student may embed another language (Reimers & Gurevych, EMNLP 2020, https://arxiv.org/abs/2004.09813, by the mean
squared error) or another modality (SAMU-XLSR, Khurana, Laurent & Glass, 2022, https://arxiv.org/abs/2205.08180, by the
cosine): both learn to give the sentence embedding of the teacher. With s and t embeddings of one sample:

    mse     Σ (s − t)², the sum over the width and the mean over samples; for unit vectors it is 2 − 2·cos(s, t)
    cosine  1 − cos(s, t), the mean over samples
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, final

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import LossContext
from limbeck.core.outputs import Outputs
from limbeck.core.protocols import Loss
from limbeck.losses._alignment import Side, normalize_rows, require_embedding, require_side
from limbeck.losses._features import make_projection, require_prepared
from limbeck.losses._ops import require_same_shape, row_mean, upcast


def embedding_mse_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over samples of the squared distance; the sum over the width.

    Shapes: both ``[batch, width]``. Zero where they agree.

    >>> embedding_mse_loss(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 0.0]]))
    tensor(5.)
    """
    require_same_shape(student, teacher, name="embeddings", hint="project the student's")
    return row_mean((upcast(student) - upcast(teacher.detach())).square().sum(dim=1))


def embedding_cosine_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over samples of one minus the cosine.

    Shapes: both ``[batch, width]``. Zero where they point in one direction.

    >>> embedding_cosine_loss(torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 0.0]]))
    tensor(0.4000)
    """
    require_same_shape(student, teacher, name="embeddings", hint="project the student's")
    return row_mean(1 - (normalize_rows(student) * normalize_rows(teacher.detach())).sum(dim=1))


class _EmbeddingLoss(nn.Module, Loss):
    """``fn`` of the embeddings of student and teacher, the student's through a learned projection between widths.

    Args:
        student_side: ``speech``, ``text`` or ``source`` of a network with both; ``None``: the embedding of the outputs.
        teacher_side: the same for the teacher.
        teacher: name of the teacher; ``None``: the only one.
    """

    knowledge: ClassVar = "feature"
    fn: ClassVar[Callable[..., Tensor]]

    def __init__(
        self, *, student_side: Side | None = None, teacher_side: Side | None = None, teacher: str | None = None
    ) -> None:
        super().__init__()
        for name, side in (("student_side", student_side), ("teacher_side", teacher_side)):
            if side is not None:
                require_side(name, side)
        self.student_side, self.teacher_side, self.teacher = student_side, teacher_side, teacher
        self.projection: nn.Module | None = None

    def prepare(self, context: LossContext) -> None:
        """Build the projection between the widths of ``context``; none between equal ones."""
        self.projection = make_projection(*self._embeddings(context))

    def forward(self, context: LossContext) -> Tensor:
        """The loss of this context."""
        student, teacher = self._embeddings(context)
        return self.fn(require_prepared(self.projection, type(self).__name__)(upcast(student)), teacher)

    def extra_repr(self) -> str:
        names = ("student_side", "teacher_side", "teacher")
        return ", ".join(f"{name}={value!r}" for name in names if (value := getattr(self, name)) is not None)

    def _embeddings(self, context: LossContext) -> tuple[Tensor, Tensor]:
        student_outputs, teacher_outputs = context.pair(self.teacher)
        student, has_student = self._embedding(student_outputs, self.student_side)
        teacher, has_teacher = self._embedding(teacher_outputs, self.teacher_side)
        mask = has_student & has_teacher.to(student.device)
        return student[mask], teacher.to(student.device)[mask]

    def _embedding(self, outputs: Outputs, side: str | None) -> tuple[Tensor, Tensor]:
        if side is not None:
            return require_embedding(outputs, side, type(self).__name__)
        if outputs.embedding is None:
            raise LimbeckError(
                f"{type(self).__name__} needs an embedding of each sample, and the network has none: use a task of "
                "embeddings"
            )
        embedding = outputs.embedding
        return embedding, torch.ones(len(embedding), dtype=torch.bool, device=embedding.device)


@final
class EmbeddingMSELoss(_EmbeddingLoss):
    """:func:`embedding_mse_loss` of the embeddings of student and teacher.

    Args:
        student_side: ``speech``, ``text`` or ``source`` of a network with both; ``None``: the embedding of the outputs.
        teacher_side: the same for the teacher.
        teacher: name of the teacher; ``None``: the only one.
    """

    paper: ClassVar = "https://arxiv.org/abs/2004.09813"
    fn: ClassVar = staticmethod(embedding_mse_loss)


@final
class EmbeddingCosineLoss(_EmbeddingLoss):
    """:func:`embedding_cosine_loss` of the embeddings of student and teacher.

    Args:
        student_side: ``speech``, ``text`` or ``source`` of a network with both; ``None``: the embedding of the outputs.
        teacher_side: the same for the teacher.
        teacher: name of the teacher; ``None``: the only one.
    """

    paper: ClassVar = "https://arxiv.org/abs/2205.08180"
    fn: ClassVar = staticmethod(embedding_cosine_loss)
