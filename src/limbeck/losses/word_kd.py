"""Word-level distillation of translation networks: KL divergence of the next token, weighted by language pair.

Kim & Rush, *Sequence-Level Knowledge Distillation* (EMNLP 2016, https://arxiv.org/abs/1606.07947). With ``top_k`` the
distributions are those of the teacher's k most likely tokens and of one bucket for all others: by the log-sum
inequality its KL divergence is not above the full one, and it is zero for equal distributions. Weights by language
pair: Tan et al., ICLR 2019, https://arxiv.org/abs/1902.10461.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Literal, final

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import LossContext
from limbeck.core.outputs import Outputs
from limbeck.core.protocols import Loss
from limbeck.core.schedules import Schedule
from limbeck.losses._logits import (
    TemperatureValue,
    broadcast_temperature,
    kl_by_row,
    log_softmax_pair,
    prepare_logits,
    require_classes,
    require_temperature,
    scale_logits,
    temperature_scaled_mean,
)
from limbeck.losses._pair_weights import PairWeights
from limbeck.losses.temperature import Temperature, apply_temperature

__all__ = ["WordKDLoss", "word_kd_loss"]

Rows = Literal["all", "reference", "hypothesis"]


def word_kd_loss(
    student: Tensor, teacher: Tensor, *, temperature: TemperatureValue = 1.0, top_k: int | None = None,
    row_weights: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Mean over rows of w · KL(teacher ‖ student) at ``temperature``, times ``temperature ** 2``.

    Shapes: ``student`` and ``teacher`` ``[rows, classes]`` logits; ``temperature`` a number or ``[rows]``;
    ``row_weights`` ``[rows]`` w, or ``None`` for 1. In nats. With ``top_k``, all other classes are one bucket.

    >>> p, q = torch.tensor([[0.5, 0.3, 0.2]]).log(), torch.tensor([[0.7, 0.2, 0.1]]).log()
    >>> [round(float(word_kd_loss(q, p, top_k=k)), 4) for k in (1, 2, 3)]
    [0.0872, 0.092, 0.092]
    """
    if top_k is None or top_k >= student.shape[1]:
        log_q, log_p, temperature = log_softmax_pair(student, teacher, temperature)
        by_row = kl_by_row(log_q, log_p)
    else:
        student, teacher = prepare_logits(student, teacher)
        require_classes(student)
        temperature = broadcast_temperature(temperature, student)
        by_row = _bucket_kl_by_row(scale_logits(student, temperature), scale_logits(teacher, temperature), top_k)
    if row_weights is not None:
        by_row = by_row * row_weights.to(by_row)
    return temperature_scaled_mean(by_row, temperature)


def _bucket_kl_by_row(student: Tensor, teacher: Tensor, top_k: int) -> Tensor:
    """KL of the distributions over the teacher's ``top_k`` classes and the bucket of the others, ``[rows]``."""
    classes = teacher.topk(top_k, dim=1).indices
    log_q, log_p = (_bucket_log_softmax(logits, classes) for logits in (student, teacher))
    return kl_by_row(log_q, log_p)


def _bucket_log_softmax(logits: Tensor, classes: Tensor) -> Tensor:
    """The logarithms of the probabilities of ``classes`` ``[rows, k]`` and of all others, ``[rows, k + 1]``."""
    lowest = torch.finfo(logits.dtype).min
    # The sum over the others, not 1 minus that of the classes, in which a small bucket would be lost.
    rest = logits.scatter(1, classes, lowest).clamp(min=lowest).logsumexp(dim=1, keepdim=True)
    log_total = logits.logsumexp(dim=1, keepdim=True)
    return (torch.cat([logits.gather(1, classes), rest], dim=1) - log_total).clamp(min=lowest)


@final
class WordKDLoss(nn.Module, Loss):
    """:func:`word_kd_loss` of the tokens of :class:`limbeck.tasks.Translation`, or of any rows.

    Args:
        top_k: the teacher's most likely tokens that are compared one by one, the others as one bucket; ``None``: all.
        rows: tokens of the targets (``reference``), of the teacher's translations (``hypothesis``), or ``all``.
        similarity: language similarities (``uriel``, ``script``, ``subword``, ``sample``) whose product weights the
            language pairs; empty: all alike.
        anchor: the low-resource language pair that they are similar to, such as ``cs-en``.
        sharpness: power of the similarity.
        shuffle_seed: a control that exchanges the similarities of the other pairs; ``None``: not.
        catch_up: the weight of a pair is full where the teacher's loss per token is this many nats below the
            student's, and zero where it is not below; ``None``: always full.
        catch_up_by: the gap of the ``pair``, a running mean, or of each ``sample``.
        temperature: a number above zero, a schedule or a policy; ``None``: the default of the task.
        teacher: name of the teacher; ``None``: the ensemble of all.
        class_names: names of the language pairs, a fact of the data.
        language_similarity: a fact of the data.
        subword_counts: a fact of the data.
    """

    knowledge: ClassVar = "response"
    uses_temperature: ClassVar = True
    uses_task_temperature: ClassVar = True
    uses_softmax: ClassVar = True
    paper: ClassVar = "https://arxiv.org/abs/1606.07947"
    fn: ClassVar = staticmethod(word_kd_loss)

    def __init__(
        self, *, top_k: int | None = None, rows: Rows = "all", similarity: Sequence[str] = (),
        anchor: str | None = None, sharpness: float = 1.0, shuffle_seed: int | None = None,
        catch_up: float | None = None, catch_up_by: Literal["pair", "sample"] = "pair",
        temperature: float | Schedule | Temperature | None = None, teacher: str | None = None,
        class_names: Sequence[str] = (), language_similarity: Mapping[str, Any] | None = None,
        subword_counts: Sequence[Sequence[int]] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if rows not in ("all", "reference", "hypothesis") or (top_k is not None and top_k < 1):
            raise LimbeckError(
                f"rows must be all, reference or hypothesis, and top_k at least 1, got {rows!r} and {top_k}"
            )
        if temperature is not None:
            require_temperature(temperature)
        self.top_k, self.rows, self.temperature, self.teacher = top_k, rows, temperature, teacher
        self.pair_weights = PairWeights(
            similarity=similarity, anchor=anchor, sharpness=sharpness, shuffle_seed=shuffle_seed, catch_up=catch_up,
            catch_up_by=catch_up_by, class_names=class_names, language_similarity=language_similarity,
            subword_counts=subword_counts,
        )  # fmt: skip

    def forward(self, context: LossContext) -> Tensor:
        """The loss of this context."""
        student, teacher = context.pair(self.teacher)
        target = None if context.target is None else context.pair_with_target(self.teacher)[2]
        weights = self.pair_weights(student, teacher, target)
        if self.rows == "all":
            selected = context
        else:
            selected, mask = _select_rows(context, student, teacher, self.rows)
            weights = None if weights is None else weights[mask]
        fn = partial(word_kd_loss, top_k=self.top_k, row_weights=weights)
        name = self.teacher if self.rows == "all" else None
        return apply_temperature(fn, selected, temperature=self.temperature, teacher=name)

    def extra_repr(self) -> str:
        settings = {"top_k": self.top_k, "rows": self.rows, "temperature": self.temperature, "teacher": self.teacher}
        return ", ".join(f"{name}={value!r}" for name, value in settings.items())


def _select_rows(context: LossContext, student: Outputs, teacher: Outputs, rows: str) -> tuple[LossContext, Tensor]:
    """A context of the rows of one kind, and which they are."""
    is_hypothesis = student.by_row.get("is_hypothesis")
    if is_hypothesis is None:
        raise LimbeckError(f"rows: {rows} needs rows of sentences: use the task Translation, or rows: all")
    mask = is_hypothesis if rows == "hypothesis" else ~is_hypothesis
    parts = [Outputs(logits=outputs.require_logits()[mask]) for outputs in (student, teacher)]
    selected = LossContext(
        student=parts[0], teachers={"teacher": parts[1]}, teacher=parts[1], progress=context.progress,
        default_temperature=context.default_temperature, temperature_record=context.temperature_record,
    )  # fmt: skip
    return selected, mask
