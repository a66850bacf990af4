"""MarginMSE: how much nearer one text is to a query than another, by student and teacher.

Hofstätter et al., 2020, https://arxiv.org/abs/2010.02666. With the score s(q, p) of a query and a relevant text, and
s(q, n) of an irrelevant one, the loss is the mean squared difference of the margins s(q, p) − s(q, n) of student and
teacher, so scores of other ranges are compared. The paper's teacher scores each pair by a network; here the scores of
both are similarities of embeddings, and each text of a batch is a query for all others, as the in-batch negatives of
Hofstätter et al., SIGIR 2021, https://arxiv.org/abs/2104.06967.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Final, Literal, final

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import LossContext
from limbeck.core.protocols import Loss
from limbeck.losses._embeddings import Similarity, require_similarity, sample_embedding, similarity_matrix
from limbeck.losses._ops import IGNORE_INDEX, mean_squared_error, require_same_shape, upcast

_TRIPLES: Final = ("target", "all")


def margin_mse_loss(
    student_positive: Tensor, student_negative: Tensor, teacher_positive: Tensor, teacher_negative: Tensor
) -> Tensor:
    """Mean over triples of the squared difference of the margins of student and teacher.

    Shapes: all ``[triples]``, the scores of a query with a relevant (positive) and an irrelevant (negative) text.

    >>> scores = (torch.tensor([score]) for score in (0.9, 0.2, 8.0, 7.0))
    >>> margin_mse_loss(*scores)
    tensor(0.0900)
    """
    student, teacher = student_positive, teacher_positive
    for other in (student_negative, teacher_positive, teacher_negative):
        require_same_shape(student, other, name="scores", hint="give the four scores of each triple")
    margin = upcast(student) - upcast(student_negative)
    return mean_squared_error(margin, (upcast(teacher) - upcast(teacher_negative)).detach())


def in_batch_margin_mse(difference: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """:func:`margin_mse_loss` of all triples of a batch, without a tensor ``[queries, texts, texts]``.

    Args:
        difference: ``[queries, texts]``, the student's scores minus the teacher's.
        positive: ``[queries, texts]`` booleans, which texts are relevant to a query.
        negative: ``[queries, texts]`` booleans, which are irrelevant.

    Returns:
        The mean over all (query, relevant text, irrelevant text); zero without any.

    >>> difference = torch.tensor([[0.0, 1.0, 3.0]])
    >>> in_batch_margin_mse(difference, torch.tensor([[True, True, False]]), torch.tensor([[False, False, True]]))
    tensor(6.5000)
    """
    counts = [mask.sum(dim=1).to(difference) for mask in (positive, negative)]
    num_triples = counts[0] * counts[1]
    has_triples = (num_triples > 0)[:, None]
    # Around a value of the row, so that no large squares are subtracted.
    center = difference.detach().masked_fill(~(positive | negative), 0.0).sum(dim=1) / (counts[0] + counts[1]).clamp(
        min=1
    )
    centered = (difference - center[:, None]).masked_fill(~has_triples, 0.0)
    first, second = (
        [(power * mask).sum(dim=1) / count.clamp(min=1) for power in (centered, centered.square())]
        for mask, count in zip((positive, negative), counts, strict=True)
    )
    by_query = first[1] + second[1] - 2 * first[0] * second[0]
    return (num_triples * by_query).sum() / num_triples.sum().clamp(min=1)


@final
@dataclass(frozen=True)
class MarginMSELoss(Loss):
    """:func:`margin_mse_loss` of the embeddings of a batch, each text a query for the others.

    Args:
        similarity: the score of two texts: ``cosine``, or ``dot``, the product of their embeddings.
        triples: ``target``: texts of one target are relevant to each other, those of another are irrelevant, and those
            without a target are left out; ``all``: any two other texts, for batches without targets.
        teacher: name of the teacher; ``None``: the only one.
    """

    knowledge: ClassVar = "relation"
    paper: ClassVar = "https://arxiv.org/abs/2010.02666"
    fn: ClassVar = staticmethod(margin_mse_loss)

    similarity: Similarity = "cosine"
    triples: Literal["target", "all"] = "target"
    teacher: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        require_similarity(self.similarity)
        if self.triples not in _TRIPLES:
            raise LimbeckError(f"triples must be target or all, got {self.triples!r}")

    def __call__(self, context: LossContext) -> Tensor:
        student_outputs, teacher_outputs = context.pair(self.teacher)
        student, teacher = (
            similarity_matrix(sample_embedding(outputs, "MarginMSELoss"), self.similarity)
            for outputs in (student_outputs, teacher_outputs.detach())
        )
        is_other = ~torch.eye(len(student), dtype=torch.bool, device=student.device)
        positive = negative = is_other
        if self.triples == "target":
            target = context.pair_with_target(self.teacher)[2].to(student.device)
            has_target = target != IGNORE_INDEX
            is_other = is_other & has_target[:, None] & has_target
            is_same = target[:, None] == target
            positive, negative = is_other & is_same, is_other & ~is_same
        return in_batch_margin_mse(student - teacher.to(student.device), positive, negative)
