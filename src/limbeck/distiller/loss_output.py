"""What an objective says of one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

__all__ = ["LossOutput"]


class LossOutput(NamedTuple):
    """The loss of one batch.

    Attributes:
        total: the number to call ``backward`` on.
        by_loss: each term's share of it, weight included, without gradients; they sum to ``total``.
        weights: the weight each term had: a tensor of one number where a balance moves it.
        logits: the student's logits ``[rows, classes]``, without gradients, for whoever counts right answers;
            ``None`` where the task has none.
        target: the truth they were compared with, or ``None``.
        by_loss_with_grad: ``by_loss`` with their gradients, for whoever compares these; they hold no more memory than
            ``total``.
        temperatures: the temperatures that terms were taken at, by term.
        teacher_entropy: how flat these made the teacher's answers, where ``objective.collect_diagnostics`` asked for
            it.
    """

    total: Tensor
    by_loss: dict[str, Tensor]
    weights: dict[str, float | Tensor]
    logits: Tensor | None = None
    target: Tensor | None = None
    by_loss_with_grad: Mapping[str, Tensor] = {}
    temperatures: Mapping[str, Sequence[float | Tensor]] = {}
    teacher_entropy: Mapping[str, Sequence[Tensor]] = {}
