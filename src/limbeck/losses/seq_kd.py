"""Sequence-level distillation of translation networks: cross-entropy with the teacher's translations.

Kim & Rush, *Sequence-Level Knowledge Distillation* (EMNLP 2016, https://arxiv.org/abs/1606.07947): the distribution of
the teacher over sentences is replaced by its best sentence of a beam search.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, final

from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import LossContext
from limbeck.core.protocols import Loss
from limbeck.losses._logits import require_classes
from limbeck.losses._ops import row_mean, upcast
from limbeck.losses._pair_weights import PairWeights

__all__ = ["SeqKDLoss", "seq_kd_loss"]


def seq_kd_loss(student: Tensor, tokens: Tensor, *, row_weights: Tensor | None = None) -> Tensor:
    """Mean over rows of −w · log q(token), in nats.

    Shapes: ``student`` ``[rows, classes]`` logits of the tokens of the teacher's translations; ``tokens`` ``[rows]``
    class indices; ``row_weights`` ``[rows]`` w, or ``None`` for 1. Zero without rows.

    >>> import torch
    >>> seq_kd_loss(torch.tensor([[2.0, 0.0], [0.0, 9.0]]), torch.tensor([0, 1]))
    tensor(0.0635)
    """
    require_classes(student)
    if tokens.shape != student.shape[:1] or tokens.is_floating_point():
        raise LimbeckError(
            f"tokens must be one class index for each of the {len(student)} rows, got {tokens.dtype} "
            f"{list(tokens.shape)}"
        )
    by_row = F.cross_entropy(upcast(student), tokens, reduction="none")
    return row_mean(by_row if row_weights is None else by_row * row_weights.to(by_row))


@final
class SeqKDLoss(nn.Module, Loss):
    """:func:`seq_kd_loss` of the translations of the teachers of :class:`limbeck.tasks.Translation`.

    Args:
        similarity: see :class:`~limbeck.losses.WordKDLoss`, as the settings below.
        anchor: the low-resource language pair.
        sharpness: power of the similarity.
        shuffle_seed: a control that exchanges the similarities of the other pairs; ``None``: not.
        catch_up: nats per token of a full weight; ``None``: always full.
        catch_up_by: ``pair`` or ``sample``.
        teacher: name of the teacher; ``None``: the ensemble of all.
        class_names: names of the language pairs, a fact of the data.
        language_similarity: a fact of the data.
        subword_counts: a fact of the data.
    """

    knowledge: ClassVar = "response"
    uses_softmax: ClassVar = True
    paper: ClassVar = "https://arxiv.org/abs/1606.07947"
    fn: ClassVar = staticmethod(seq_kd_loss)

    def __init__(
        self, *, similarity: Sequence[str] = (), anchor: str | None = None, sharpness: float = 1.0,
        shuffle_seed: int | None = None, catch_up: float | None = None,
        catch_up_by: Literal["pair", "sample"] = "pair", teacher: str | None = None, class_names: Sequence[str] = (),
        language_similarity: Mapping[str, Any] | None = None,
        subword_counts: Sequence[Sequence[int]] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.teacher = teacher
        self.pair_weights = PairWeights(
            similarity=similarity, anchor=anchor, sharpness=sharpness, shuffle_seed=shuffle_seed, catch_up=catch_up,
            catch_up_by=catch_up_by, class_names=class_names, language_similarity=language_similarity,
            subword_counts=subword_counts,
        )  # fmt: skip

    def forward(self, context: LossContext) -> Tensor:
        """The loss of this context."""
        student, teacher = context.pair(self.teacher)
        is_hypothesis, tokens = student.by_row.get("is_hypothesis"), student.by_row.get("token")
        if is_hypothesis is None or tokens is None or (self.training and "hypothesis_length" not in student.by_sample):
            raise LimbeckError(
                "SeqKDLoss needs translations of a teacher: use the task Translation with hypothesis_beams above 0"
            )
        target = None if context.target is None else context.pair_with_target(self.teacher)[2]
        weights = self.pair_weights(student, teacher, target)
        weights = None if weights is None else weights[is_hypothesis]
        logits = student.require_logits()
        return seq_kd_loss(logits[is_hypothesis], tokens[is_hypothesis], row_weights=weights)

    def extra_repr(self) -> str:
        return f"teacher={self.teacher!r}"
